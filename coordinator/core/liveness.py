"""Whether a node lives: the one rule, with its three sources.

An announced gap comes before everything. The end of its socket (*client closed*; a read or a write error, since a killed
process's socket resets) starts a probe at once, and *no responders* then means lost at once. Everything else (a stale
connection, silence) makes the node late, with a probe, and lost after `limits.BEATS_MISSED` beats. When nobody is judged at
all is in judging.py.
"""

from __future__ import annotations

from enum import Enum
from math import ceil

from coordinator.core import tune
from coordinator.core.actions import AskResults, DropNode, Emit, Probe, Remove
from coordinator.core.events import Disconnected, LinkBack, LinkLost, ProbeEnded, Source
from coordinator.core.intake import node_changed
from coordinator.core.judging import begin_hold, drop_hold, heard_here, hold_over, judged_from, many_closed, note_closed
from coordinator.core.life import ask_ahead, lose
from coordinator.core.nodeview import NodeView
from coordinator.core.record import Life
from coordinator.core.state import NEVER, Coordinator, Hold, Out
from schemas import limits
from schemas.event import NodeEvent
from schemas.membership import NodeState


class Cause(Enum):
    """What moves a node from one state to another."""

    ALIVE = "alive"  # a beat, a registration, an answered probe
    SLEEP = "sleep"  # it announced a longer gap
    DRAIN = "drain"  # an operator, or itself
    LEAVE = "leave"  # it goes down by itself
    MISS = "miss"  # a beat is overdue
    GONE = "gone"  # too many were, or nobody is there any more


S = NodeState
_LIVING = {
    Cause.ALIVE: S.ONLINE, Cause.SLEEP: S.ASLEEP, Cause.DRAIN: S.DRAINING, Cause.LEAVE: S.LEAVING,
    Cause.MISS: S.LATE, Cause.GONE: S.LOST,
}  # fmt: skip
TABLE: dict[NodeState, dict[Cause, NodeState]] = {
    S.ONLINE: _LIVING,
    S.LATE: _LIVING,
    S.ASLEEP: _LIVING,
    S.DRAINING: _LIVING,
    S.LEAVING: {**_LIVING, Cause.MISS: S.LOST, Cause.DRAIN: S.LEAVING},
    S.LOST: {**_LIVING, Cause.MISS: S.LOST},
}
# What the broker says when the other side's socket is gone. With bytes that it had not read, a killed process resets its
# connection: that is a read or a write error, not a close.
SOCKET_ENDS = frozenset({"client closed", "read error", "write error"})
EVENT_OF = {
    S.ONLINE: "online",
    S.LATE: "late",
    S.ASLEEP: "asleep",
    S.DRAINING: "draining",
    S.LOST: "lost",
}


def change(state: Coordinator, node: NodeView, cause: Cause, reason: str, now: float, out: Out) -> None:
    """Move the node by the table; tell of it; move its tasks when it is lost."""
    old, new = node.state, TABLE[node.state][cause]
    if new is old:
        return
    node.state = new
    left = new is S.LOST and old is S.LEAVING
    word = "left" if left else EVENT_OF.get(new, "")
    if word:
        state.counts[f"nodes {word}"] += 1
        out.append(
            Emit(
                f"node.{word}",
                node.id,
                node.next_event(word, state.term),
                NodeEvent(node.id, node.boot, reason[: limits.REASON_MAX]),
            )
        )
    node_changed(state, node)
    if old is S.LOST:
        state.aside_left = len(state.aside)
    if new is S.LOST:
        node.left = left
        node.gone_at = now
        node.timed_at = NEVER
        take_acks(node, out)
        lose(state, node, node.attempts.values(), f"node {node.id} was lost: {reason}", now, out)
        state.at(now + tune.FORGET_NODE_S, _forget, node)


def take_acks(node: NodeView, out: Out) -> None:
    """It may have gone between its last successes and their acks: what is left of their WORK is removed here."""
    out.extend(Remove(Source("work", seq)) for seq in node.unacked)
    node.unacked.clear()


def watch(state: Coordinator, node: NodeView) -> None:
    """Have the node looked at when its next beat is due; one look a node is enough. Many nodes share an alarm: each moment at
    which one rings wakes the process."""
    if node.next_due < node.timed_at:
        when = ceil(node.next_due * tune.DUE_LOOKS_PER_S) / tune.DUE_LOOKS_PER_S
        node.timed_at = when
        together = state.watched.get(when)
        if together is None:
            state.watched[when] = [node]
            state.at(when, due, when)
        else:
            together.append(node)


def due(state: Coordinator, when: float, now: float, out: Out) -> None:
    """An alarm rang: nothing for the nodes that beat since, of others one more beat is missed."""
    for node in state.watched.pop(when):
        if node.timed_at != when or state.nodes.get(node.id) is not node:
            continue
        node.timed_at = NEVER
        if node.is_lost():
            continue
        if now >= node.next_due:
            missed(state, node, now, out)
        if not node.is_lost():
            watch(state, node)


def missed(state: Coordinator, node: NodeView, now: float, out: Out) -> None:
    """A beat that was due did not come: late at first, lost in the end, if silence counts now."""
    from_when = judged_from(state, node)
    if now < from_when:  # nothing is said of it, but it counts: who was silent for all of the lease is lost at its end
        last = node.missed >= limits.BEATS_MISSED - 1
        node.missed += not last
        node.next_due = min(from_when, now + node.interval_s) if last else now + node.interval_s
        return
    node.missed += 1
    node.next_due = now + node.interval_s
    if node.missed >= limits.BEATS_MISSED and not _held_back(state, node, now, out):
        change(state, node, Cause.GONE, f"{node.missed} heartbeats are missing", now, out)
        return
    change(state, node, Cause.MISS, "its heartbeat is overdue", now, out)
    if not node.is_lost():
        out.append(Probe(node.id))


def _held_back(state: Coordinator, node: NodeView, now: float, out: Out) -> bool:
    """Whether this silence, which would be the last, is one of many."""
    if state.hold is None:
        begin_hold(state, node, now, out)
        if state.hold is not None:
            state.at(now + tune.COUNT_AGAIN_S, _look_at_hold, state.hold)
    return state.hold is not None


def _look_at_hold(state: Coordinator, hold: Hold, now: float, out: Out) -> None:
    if state.hold is not hold:
        return
    if not hold_over(state, hold, now, out):
        state.at(now + tune.COUNT_AGAIN_S, _look_at_hold, hold)
        return
    for node in list(state.nodes.values()):
        if node.missed >= limits.BEATS_MISSED and not node.is_lost() and now >= judged_from(state, node):
            change(state, node, Cause.GONE, f"{node.missed} heartbeats are missing", now, out)


def heard(state: Coordinator, node: NodeView, gap_s: float, now: float) -> None:
    """The node gave a sign of life, and will again within `gap_s`."""
    node.missed = 0
    node.closed_at = 0.0
    node.look_again_at = 0.0
    node.heard_at = now
    node.next_due = now + gap_s + grace_s(node, gap_s)
    if node.next_due < node.timed_at:
        watch(state, node)


def grace_s(node: NodeView, gap_s: float) -> float:
    """How much later than announced a beat may be: jitter and the way, not a share of a long sleep."""
    return min(gap_s, 2 * node.interval_s) * tune.BEAT_GRACE + tune.BEAT_GRACE_S


def disconnected(state: Coordinator, event: Disconnected, now: float, out: Out) -> None:
    """Its connection closed. Where its socket ended, a probe at once; a stale one or a server's end waits for the beats."""
    node = state.nodes.get(event.node)
    if node is None or node.state in (S.ASLEEP, S.LOST):
        return
    if event.reason.lower() in SOCKET_ENDS:
        node.closed_at = now
        if node.state is not S.LEAVING:
            note_closed(state, node, now)
        out.append(Probe(node.id))
        ask_ahead(node, now, out)


def probe_ended(state: Coordinator, event: ProbeEnded, now: float, out: Out) -> None:
    """An answer brings the node back; *no responders* after a closed connection ends it."""
    node = state.nodes.get(event.node)
    if node is None:
        return
    if event.answer is not None:
        if event.answer.boot == node.boot:
            heard(state, node, node.interval_s, now)
            change(state, node, cause_of(node), "it answered a probe", now, out)
        return
    if not event.no_responders or not node.closed_at or not heard_here(state, node) or node.state in (S.ASLEEP, S.LOST):
        return
    if not node.look_again_at and node.state is not S.LEAVING and many_closed(state, now):
        node.look_again_at = now + tune.LOOK_AGAIN_S
        state.at(node.look_again_at, _look_again, (node, node.look_again_at))
    elif now >= node.look_again_at:
        change(state, node, Cause.GONE, "its connection closed and nobody answers", now, out)


def _look_again(state: Coordinator, what: tuple[NodeView, float], now: float, out: Out) -> None:
    node, when = what
    if node.look_again_at == when and state.nodes.get(node.id) is node and not node.is_lost():
        out.append(Probe(node.id))


def cause_of(node: NodeView) -> Cause:
    """What a sign of life means for this node."""
    if node.state is S.LEAVING:
        return Cause.LEAVE
    if node.asleep:
        return Cause.SLEEP
    return Cause.DRAIN if node.drained or node.self_draining or node.resume_asked_at else Cause.ALIVE


def link_lost(state: Coordinator, event: LinkLost, now: float, out: Out) -> None:
    """Our own link is down: silence means nothing now."""
    state.link_up = False
    drop_hold(state, now, out)


def link_back(state: Coordinator, event: LinkBack, now: float, out: Out) -> None:
    """Our link is back: silence counts again after one full lease. What ended meanwhile did not come by: RESULTS is asked."""
    state.link_up = True
    state.link_since = now
    drop_hold(state, now, out)
    placed = [(t.submitter, t.id) for t in state.tasks.values() if t.state is Life.PLACED]
    for i in range(0, len(placed), tune.ASK_BATCH):
        out.append(AskResults(tuple(placed[i : i + tune.ASK_BATCH]), now))


def expect_all(state: Coordinator, now: float, out: Out) -> None:
    """After a takeover: who is not heard of within one full lease is lost. Of who was away long before nothing is told."""
    for node in list(state.nodes.values()):
        if node.heard_at >= now or node.state is not S.LATE:
            continue
        if node.record.asleep_until > now:
            _sleeps_on(state, node, now, out)
            continue
        away_s = now - node.record.last_seen
        if away_s > tune.AWAY_S and not node.attempts:
            _away(state, node, away_s, now, out)
            continue
        node.missed = limits.BEATS_MISSED - 1
        node.next_due = now + node.silence_s()
        watch(state, node)


def _sleeps_on(state: Coordinator, node: NodeView, now: float, out: Out) -> None:
    """It announced its sleep to the coordinator before us."""
    node.asleep = True
    change(state, node, Cause.SLEEP, "it said so before the takeover", now, out)
    gap_s = node.record.asleep_until - now
    node.next_due = now + gap_s + grace_s(node, gap_s)
    watch(state, node)


def _away(state: Coordinator, node: NodeView, away_s: float, now: float, out: Out) -> None:
    node.state = S.LOST
    node.gone_at = now
    node_changed(state, node)
    if away_s > tune.NODE_RECORD_S:
        out.append(DropNode(node.id, node.revision))
        _leave_memory(state, node)
    else:
        state.at(now + tune.FORGET_NODE_S, _forget, node)


def _forget(state: Coordinator, node: NodeView, now: float, out: Out) -> None:
    """A node that stayed lost leaves memory; its slot is used again."""
    if node.state is S.LOST and now - node.gone_at >= tune.FORGET_NODE_S and state.nodes.get(node.id) is node:
        _leave_memory(state, node)


def _leave_memory(state: Coordinator, node: NodeView) -> None:
    state.changed.add(node.id)
    del state.nodes[node.id]
    state.slots[node.slot] = None
    state.free_slots.append(node.slot)
