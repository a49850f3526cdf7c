"""What the daemon itself does about an advice. (Holding running work to its limits is `node.enforce`.)

Its number of running tasks and their memory are lowered at once; what waits and no longer fits goes back for others. In the
power mode *critical* nothing is taken, and everything goes back: returned, which is no failure.
"""

from __future__ import annotations

from collections.abc import Callable

from node.context import Context
from node.core.desk import Desk
from node.core.lanes import Room
from node.executor import Executor
from node.orders import Orders
from node.recorder import Recorder
from schemas.advice import Advice, Limits, PowerMode


class Heed:
    """Carries out advice. `beat` sends a heartbeat now."""

    def __init__(
        self,
        context: Context,
        desk: Desk,
        executor: Executor,
        orders: Orders,
        recorder: Recorder,
        beat: Callable[[], None],
    ) -> None:
        self._context, self._desk, self._executor = context, desk, executor
        self._orders, self._recorder, self._beat = orders, recorder, beat
        self._said: tuple[PowerMode, Limits] | None = None

    def __call__(self, advice: Advice) -> None:
        """Do what it asks for."""
        offer, limits = self._context.offer, advice.limits
        self._desk.lanes.room = Room(
            min(offer.slots, limits.tasks), offer.cores, min(offer.memory_mb, limits.memory_mb)
        )
        critical = "" if advice.takes_work else advice.reasons[0]
        begins, self._context.critical = critical and not self._context.critical, critical
        if (said := (advice.power_mode, limits)) != self._said:
            self._said = said
            self._beat()  # before anything goes back: it must not come again
        if begins:
            self._orders.stop_all(critical)
        else:
            self._give_back()
        self._executor.pump()

    def _give_back(self) -> None:
        """What waits here and would not fit as long as this holds."""
        for attempt in self._desk.waiting():
            if why := no_room(self._desk, attempt.task.needs.memory_mb):
                self._recorder.returned(attempt, why, began=False)


def no_room(desk: Desk, memory_mb: int) -> str:
    """Why so much memory is not to be had now, or "" when it is."""
    room = desk.lanes.room.memory_mb
    return f"its limits allow {room} MiB now, {memory_mb} are needed" if memory_mb > room else ""
