"""Leases of exclusive work: asked for by heartbeats, taken in from their answers, and ended on time.

The daemon's timers stand still while the machine sleeps, the leases do not: so the clock is looked at every `LOOK_S` while
there is something exclusive here. After a sleep that outlasted the lease, work may run on for as long as that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from node.context import Context
from node.core.attempts import Place
from node.core.desk import Desk
from node.executor import Executor
from schemas import limits
from schemas.codec import Decoder
from schemas.errors import BadInput
from schemas.membership import Renewed
from schemas.ticks import ticks

LOOK_S = 0.1
ASK_AGAIN_S = 0.2  # until what got no lease is asked for again, at first; the wait doubles up to a third of the lease
OPEN_MAX = 8  # questions whose answers are waited for

_renewed: Decoder[Renewed] = Decoder(Renewed)


class Leaser:
    """`beat` sends a heartbeat now. The member sends those by `ask` while `wanted` says so."""

    def __init__(self, context: Context, desk: Desk, executor: Executor, beat: Callable[[], None]) -> None:
        self._context, self._desk, self._executor, self._beat = context, desk, executor, beat
        self._loop = asyncio.get_running_loop()
        self._open: dict[str, float] = {}  # questions, and the ticks before each was sent
        self._looking: asyncio.TimerHandle | None = None
        self._ask_at = 0.0
        self._wait_s = ASK_AGAIN_S
        self._lease_s = limits.EXCLUSIVE_LEASE_S

    @property
    def wanted(self) -> bool:
        """Whether something exclusive is held: then beats ask."""
        return bool(self._desk.held) and bool(self._desk.exclusive())

    def arrived(self) -> None:
        """Something exclusive came: it is asked for at once, with what else has come."""
        self._wait_s = ASK_AGAIN_S
        self._ask_at = min(self._ask_at, ticks()) if self._looking is not None else ticks()
        if self._looking is None:
            self._looking = self._loop.call_soon(self._look)  # type: ignore[assignment]

    def ask(self, subject: str, beat: Callable[[], bytes]) -> None:
        """Send a beat as a question. A lease counts from before it is made."""
        sent_at = ticks()
        while len(self._open) >= OPEN_MAX:
            oldest = next(iter(self._open))
            del self._open[oldest]
            self._context.bus.hang_up(oldest)

        def on_reply(data: bytes, _headers: bytes) -> None:
            self._open.pop(token, None)
            if data:
                self._take(data, sent_at)

        token = self._context.bus.call(subject, beat(), on_reply)
        self._open[token] = sent_at
        self._ask_at = sent_at + self._lease_s / 3

    def _take(self, data: bytes, sent_at: float) -> None:
        try:
            renewed = _renewed(data)
        except BadInput as error:
            self._context.note_bad("renewed", error)
            return
        if renewed.term < self._context.term or renewed.boot != self._context.boot:
            return
        self._lease_s = renewed.lease_s
        until = sent_at + renewed.lease_s - limits.EXCLUSIVE_STOP_S
        for task, placement in renewed.tasks:
            attempt = self._desk.grant(task, placement, until)
            if attempt is not None:
                self._executor.leased(attempt)
        self._ask_at = sent_at + self._lease_s / 3
        if any(attempt.place is Place.UNLEASED for attempt in self._desk.exclusive()):
            self._ask_at = min(self._ask_at, ticks() + self._wait_s)
            self._wait_s = min(self._lease_s / 3, 2 * self._wait_s)
        self._executor.pump()

    def _look(self) -> None:
        """End what is over, ask when it is time, for as long as there is something exclusive."""
        self._executor.stop_unleased()
        if not self.wanted:
            self._looking = None
            return
        if ticks() >= self._ask_at:
            self._ask_at = ticks() + self._lease_s / 3
            self._beat()
        self._looking = self._loop.call_later(LOOK_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
