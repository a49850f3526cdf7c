"""Heartbeats that came by way of a cluster's leader count as if the coordinator had heard them when the leader did.

So a member is judged by its own silence, whatever its leader's digests are like. But a leader's word brings nobody back: a
node whose connection has closed, or that was given up, is believed only itself (its last beat may lie in a digest that is
under way while it dies), and so is one that is not known here under that boot.
"""

from __future__ import annotations

from coordinator.core import tune
from coordinator.core.events import Relayed
from coordinator.core.fleet import take
from coordinator.core.liveness import heard
from coordinator.core.nodeview import NO_CHANGE, NodeView
from coordinator.core.state import Coordinator, Out
from schemas.membership import Heartbeat, NodeState
from schemas.relay import Still


def counts(node: NodeView | None, boot: int) -> bool:
    """Whether a leader may speak for that boot of the node now."""
    return node is not None and node.boot == boot and not node.closed_at and not node.is_lost()


def relayed(state: Coordinator, event: Relayed, now: float, out: Out) -> None:
    """A digest's beats, each as of when the leader heard it. A short one may follow the whole one before it."""
    for aged in event.beats:
        node = state.nodes.get(aged.beat.node)
        if node is not None and counts(node, aged.beat.boot):
            _take(state, node, aged.beat, now - aged.age_s, now, out)
    for still in event.stills:
        node = state.nodes.get(still.node)
        if node is None or not counts(node, still.boot):
            continue
        if nothing_new(node, still, now):
            lives(state, node, still, max(node.last_beat, now - still.age_s))
        else:
            _take(state, node, as_beat(node, still), now - still.age_s, now, out)


def _take(state: Coordinator, node: NodeView, beat: Heartbeat, at: float, now: float, out: Out) -> None:
    if take(state, beat, "", max(at, node.last_beat), now, out):
        node.relayed = True


def nothing_new(node: NodeView, still: Still, now: float) -> bool:
    """Whether there is nothing to note but that the node lives. In a large fleet that is what most beats say."""
    return (
        still.seq == node.beat_seq + 1
        and still.state == NO_CHANGE
        and node.state is NodeState.ONLINE
        and not (node.attempts or node.orphans or node.blocked or node.resume_asked_at or node.record.asleep_until)
        and now - node.record.last_seen <= tune.SEEN_AGAIN_S
    )


def lives(state: Coordinator, node: NodeView, still: Still, at: float) -> None:
    """Note that, and no more: what `fleet.take` comes to then."""
    node.beat_seq, node.relayed = still.seq, True
    node.last_beat = at
    node.clock_ahead_s = still.sent_at - at
    heard(state, node, still.next_due_s, at)


def as_beat(node: NodeView, still: Still) -> Heartbeat:
    """The whole beat: what `still` leaves out is as the node said it before."""
    return Heartbeat(
        node=still.node,
        boot=still.boot,
        seq=still.seq,
        sent_at=still.sent_at,
        next_due_s=still.next_due_s,
        draining=node.self_draining,
        seen_seq=still.seen_seq,
        state=still.state,
        battery_min=node.battery_min,
        bad_messages=node.bad_messages,
        outbox=node.outbox,
        outbox_since=node.outbox_since,
        outbox_held=node.outbox_held,
        hold_s=node.hold_s,
        closed_for=node.closed_for,
    )
