"""When a node may be called lost at all: what can be our own doing, or one cause for many, is held against nobody.

- Our link to the broker is down or younger than one full lease of the node; so it is after a takeover.
- Our own process stood still (asleep, stopped, its loop held up): beats may have been missed by us, not by the nodes. One
  full lease from the moment that we noticed.
- A large part of the fleet is silent at the same moment (`mass`): a *hold*. It ends when beats resume, and the others get
  one full lease more; or at `tune.HOLD_BEATS`, when the truth is accepted. After either, none begins for as long, so that a
  dead node is told of in the end whatever its neighbours do.
- Many connections closed at the same moment: whoever lives is back in a moment, and is probed once more then.

An announced gap needs no rule here: whoever keeps one is not overdue.
"""

from __future__ import annotations

from math import ceil

from coordinator.core import tune
from coordinator.core.actions import Emit, Log
from coordinator.core.nodeview import NodeView
from coordinator.core.state import NEVER, Coordinator, Hold, Out
from schemas import limits
from schemas.event import HoldEvent
from schemas.membership import NodeState

EXPECTED = (NodeState.ONLINE, NodeState.LATE, NodeState.DRAINING)


def judged_from(state: Coordinator, node: NodeView) -> float:
    """From when on the silence of a node counts; `NEVER` while our link is down."""
    if not state.link_up or not state.term:
        return NEVER
    return max(state.link_since, state.taken_over_at, state.stalled_at, state.held_until) + node.silence_s()


def heard_here(state: Coordinator, node: NodeView) -> bool:
    """Whether the node was heard on this very link and in this term: then the end of its connection is evidence, not
    silence, and needs no lease to pass."""
    return bool(state.link_up and state.term and node.heard_at >= max(state.link_since, state.taken_over_at))


def notice_stall(state: Coordinator, now: float, out: Out) -> None:
    """At each tick: between two of them no more than `tune.STALL_S` goes by in a process that runs."""
    gap_s = now - state.ticked_at
    state.ticked_at = now
    if gap_s > tune.STALL_S and state.term:
        state.stalled_at = now
        state.counts["own stalls"] += 1
        text = "this process stood still: no node is judged by its silence for one lease"
        out.append(Log("warning", text, {"stalled_s": round(gap_s, 3)}))


def mass(expected: int) -> int:
    """How many of the nodes that should beat are *many* at a time: ``max(MASS_MIN, MASS_SHARE × expected)``."""
    return max(tune.MASS_MIN, ceil(tune.MASS_SHARE * expected))


def count(state: Coordinator, now: float) -> tuple[int, int]:
    """Nodes that are about to be lost by silence, and all that should beat. Looked at anew every `tune.COUNT_AGAIN_S`."""
    counted_at, silent, expected = state.silent
    if not 0 <= now - counted_at < tune.COUNT_AGAIN_S:
        silent = expected = 0
        for node in state.nodes.values():
            if node.state in EXPECTED:
                expected += 1
                silent += node.missed >= limits.BEATS_MISSED - 1
        state.silent = (now, silent, expected)
    return silent, expected


def begin_hold(state: Coordinator, node: NodeView, now: float, out: Out) -> None:
    """A node missed its last beat: if many are silent with it, a hold begins, `state.hold`."""
    silent, expected = count(state, now)
    if silent < mass(expected) or now < state.hold_free_at:
        return
    state.holds += 1
    state.hold = Hold(state.holds, now, now + tune.HOLD_BEATS * node.interval_s, silent, expected)
    state.counts["held back"] += 1
    reason = f"{silent} of {expected} nodes fell silent at the same moment: none is called lost for now"
    _tell(state, state.hold, "held-back", reason, silent, out)


def hold_over(state: Coordinator, hold: Hold, now: float, out: Out) -> bool:
    """While a hold lasts, looked at every `tune.COUNT_AGAIN_S`. True when it is over, with `state.hold` taken away; then, if
    `state.held_until` is not now, whoever is silent is lost."""
    silent, expected = count(state, now)
    if silent < mass(expected):
        state.held_until = now
        reason = "beats resume: who stays silent for one lease more is lost"
    elif now >= hold.until:
        reason = f"silent for {now - hold.since:.0f} s more: they are lost"
    else:
        return False
    state.hold = None
    state.hold_free_at = now + (hold.until - hold.since)
    _tell(state, hold, "hold-ended", reason, silent, out)
    return True


def drop_hold(state: Coordinator, now: float, out: Out) -> None:
    """Our own link went down or came back, which explains the silence better."""
    hold, state.hold = state.hold, None
    if hold is not None:
        _tell(state, hold, "hold-ended", "our own link to the broker was down", 0, out)


def _tell(state: Coordinator, hold: Hold, what: str, reason: str, silent: int, out: Out) -> None:
    data = HoldEvent(state.name, state.term, silent, hold.expected, hold.until, reason)
    out.append(Emit(f"fleet.{what}", state.name, f"{state.name}.{state.term}.{hold.number}.{what}", data))


def note_closed(state: Coordinator, node: NodeView, now: float) -> None:
    """Remember when a node's connection closed."""
    closed = state.closed_at
    closed.pop(node.id, None)
    closed[node.id] = now
    _forget_closed(state, now)


def many_closed(state: Coordinator, now: float) -> bool:
    """Whether many connections closed within `tune.CLOSED_TOGETHER_S`."""
    _forget_closed(state, now)
    return len(state.closed_at) >= tune.MASS_MIN and len(state.closed_at) >= mass(count(state, now)[1])


def _forget_closed(state: Coordinator, now: float) -> None:
    closed = state.closed_at
    while closed:
        oldest = next(iter(closed))
        if now - closed[oldest] <= tune.CLOSED_TOGETHER_S:
            return
        closed.popitem(last=False)
