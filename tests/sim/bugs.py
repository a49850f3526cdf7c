"""Classic bugs, each as a small patch by name: the simulator must find every one of them within `Bug.seeds` worlds.

A patch replaces one function of the real code. `plan` is the world that the bug is looked for in: with the faults that it
takes, so that few seeds do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct, structs

import coordinator.core.liveness
import coordinator.core.outcomes
import coordinator.remover
import node.core.recent
import node.executor
import node.orders
from coordinator import clusters, fence, lease, outbound, placer
from coordinator.core import actions as act
from coordinator.core import events as ev
from coordinator.core import held
from coordinator.core.clusters import leading
from coordinator.core.life import lose
from coordinator.core.record import Life
from schemas import jetstream, streams
from schemas.codec import encode
from tests.sim.faults import Plan
from tests.sim.patches import replaced

Patch = contextlib.AbstractContextManager[None]
BUSY = Plan(nodes=3, tasks=80, trouble_s=60.0, start_s=2.0, delay_s=0.005)


class Bug(Struct, frozen=True):
    """`patch` plants it; `rules` are the invariants of which it must break one, within the first `seeds` worlds of `plan`.

    `first` is the world to look into first: when last looked, the earliest that finds it.
    """

    patch: Callable[[], list[Patch]]
    rules: tuple[str, ...]
    plan: Plan
    seeds: int
    first: int = 0

    def worlds(self) -> list[int]:
        """Where to look, in order."""
        return [self.first, *(seed for seed in range(self.seeds) if seed != self.first)]


def ack_before_store() -> list[Patch]:
    """The coordinator acks a task's old place as soon as it has asked for the new one."""
    real = outbound.Outbound.do

    def do(self: Any, wanted: list[act.Action], now: float) -> None:
        real(self, wanted, now)
        for action in wanted:
            if type(action) is act.Place:
                self._remove(action.source)

    return [replaced(outbound.Outbound, "do", do)]


def ack_before_result() -> list[Patch]:
    """The node acks its WORK message when it begins."""
    from node.recorder import Recorder
    from schemas.pull import ack

    real = Recorder.started

    def started(self: Any, attempt: Any) -> None:
        ack(self._context.bus, attempt.reply)
        real(self, attempt)

    return [replaced(Recorder, "started", started)]


def no_attempt_check() -> list[Patch]:
    """The placement of a message is not looked at: an outcome of any attempt ends the present one, and a node starts an
    attempt that it has ended."""
    return [
        replaced(coordinator.core.outcomes, "_is_current", lambda task, outcome: True),
        replaced(node.core.recent.Recent, "settles", lambda self, task, placement: False),
    ]


def old_term() -> list[Patch]:
    """A node carries out what a deposed coordinator tells it."""
    real = node.orders.Orders._carry_out

    def carry_out(self: Any, verb: str, data: bytes) -> Any:
        kept, self._context.term = self._context.term, 0
        try:
            return real(self, verb, data)
        finally:
            self._context.term = max(kept, self._context.term)

    return [replaced(node.orders.Orders, "_carry_out", carry_out)]


def no_grace() -> list[Patch]:
    """After a takeover, or when the link is back, silence counts at once."""

    def expect_all(state: Any, now: float, out: Any) -> None:
        real(state, now, out)
        for one in state.nodes.values():
            if one.heard_at < now:
                one.next_due = now
                coordinator.core.liveness.watch(state, one)

    real = coordinator.core.liveness.expect_all
    return [
        replaced(coordinator.core.liveness, "judged_from", lambda state, one: 0.0 if state.term else float("inf")),
        replaced(coordinator.core.liveness, "expect_all", expect_all),
        replaced(coordinator.core.liveness, "_held_back", lambda *_: False),
    ]


def purge_subject() -> list[Patch]:
    """What a node has lost is removed by its subject, not by its sequence."""

    async def delete(bus: Any, stream: str, seq: int) -> bool:
        message = await jetstream.get_message(bus, stream, seq=seq) if stream == streams.WORK else None
        if message is None:
            return await jetstream.delete_message(bus, stream, seq)
        node_queue = message.subject.rpartition(".")[0] + ".>"
        for other in await jetstream.read_all(bus, stream, node_queue):
            await jetstream.delete_message(bus, stream, other.seq)
        return True

    class Purging:
        delete_message = staticmethod(delete)

    return [replaced(coordinator.remover, "jetstream", Purging)]


def duplicate_is_placed() -> list[Patch]:
    """*Duplicate* is taken for an answer like any other."""

    async def look_at(self: Any, subject: str, task: str, placement: int, seq: int) -> None:
        self._hand_on(ev.Placed(task, placement, seq))

    return [replaced(placer.Placer, "_look_at", look_at)]


def woken_expires() -> list[Patch]:
    """A coordinator that wakes up after its lease goes on where it was: neither it nor the broker looks at its term."""
    return [
        replaced(lease.Lease, "valid", property(lambda self: self._deadline > 0)),
        replaced(fence.Fence, "headers", lambda self: b""),
    ]


def leader_by_count() -> list[Patch]:
    """A leader is written whatever is there, and its term is counted in memory, not given by the broker."""

    async def elect(self: Any, wanted: Any) -> None:
        await self._kv.put(wanted.cluster + clusters.LEADER, encode(wanted.leadership))
        out: list[Any] = []
        now = self.term.clock()
        leading.elected(self.state, wanted.cluster, wanted.leadership, wanted.revision + 1, now, out)
        self._carry_out(out)

    def restore(state: Any, records: Any, leaders: Any, now: float) -> None:
        real(state, records, {}, now)

    real = clusters.restore
    return [replaced(clusters.ClustersArea, "_elect", elect), replaced(clusters, "restore", restore)]


def old_beat() -> list[Patch]:
    """What a beat does not list is gone, though it may have been sent before the work arrived."""

    def find_missing(state: Any, one: Any, b: Any, now: float, out: Any) -> None:
        listed = {h.task for h in b.held}
        gone = [t for t in one.attempts.values() if t.id not in listed and t.state is Life.PLACED]
        lose(state, one, gone, f"node {one.id} does not hold it any more", now, out)

    return [replaced(held, "_find_missing", find_missing)]


def unasked() -> list[Patch]:
    """What stands behind a slow head is given to others without waiting for what its runner says."""
    real = node.executor.Executor._ask_back

    def ask_back(self: Any, lane: Any, attempts: Any) -> None:
        real(self, lane, attempts)
        self._withdrawn(self._runners[lane.number], lane, tuple(attempt.key for attempt in attempts))

    return [replaced(node.executor.Executor, "_ask_back", ask_back)]


def _with(plan: Plan = BUSY, **rates: float) -> Plan:
    return structs.replace(plan, rates={name.replace("_", " "): rate for name, rate in rates.items()})


BUGS: dict[str, Bug] = {
    "ack before store": Bug(ack_before_store, ("kept",), _with(slow_disk=8), 10),
    "ack before result": Bug(ack_before_result, ("kept",), _with(node_killed=3), 5),
    "no attempt check": Bug(
        no_attempt_check, ("a fault", "kept", "all is done", "books", "overcommit"),
        _with(node_stalled=8, node_cut=8, acks_lost=8, coordinator_killed=3), 40,
    ),
    "old term": Bug(old_term, ("old term",), _with(stalled_as_it_speaks=8, node_cut=8, node_stalled=8), 60, 2),
    "no grace": Bug(no_grace, ("healthy is not lost",), _with(structs.replace(BUSY, trouble_s=150.0), coordinator_cut=3), 20),
    "purge a subject": Bug(purge_subject, ("kept",), _with(node_killed=8, node_cut=8), 10),
    # It takes a placement that FOG_WORK stores only after a successor has read it: about one world in twelve of these.
    "duplicate is placed": Bug(
        duplicate_is_placed, ("books", "all is done", "kept"),
        _with(structs.replace(BUSY, slow="FOG_WORK"), coordinator_killed=30, slow_disk=10), 100, 9,
    ),
    "woken coordinator": Bug(woken_expires, ("fence", "kept"), _with(coordinator_stalled=8, stalled_as_it_speaks=8), 60, 1),
    "leader by count": Bug(
        leader_by_count, ("two leaders", "old leader", "all is done"), _with(coordinator_killed=8, node_killed=8), 10,
    ),
    "unasked": Bug(unasked, ("twice at once", "begins once"), structs.replace(BUSY, tasks=0, bursts=30), 10),
    "old beat": Bug(old_beat, ("missed",), _with(structs.replace(BUSY, delay_s=0.05)), 10),
}  # fmt: skip


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """With that bug in the code; "" is none."""
    with contextlib.ExitStack() as stack:
        for patch in BUGS[name].patch() if name else ():
            stack.enter_context(patch)
        yield


__all__ = ["BUGS", "Bug", "planted"]
