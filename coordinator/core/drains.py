"""Nodes that operators take out of service and back into it."""

from __future__ import annotations

from msgspec import structs

from coordinator.core.actions import Command, Log, StoreNode
from coordinator.core.events import CommandEnded, DrainAsked, NodeConflicted
from coordinator.core.liveness import cause_of, change
from coordinator.core.nodeview import NodeView
from coordinator.core.state import Coordinator, Out
from schemas.membership import NodeState


def drain_asked(state: Coordinator, event: DrainAsked, now: float, out: Out) -> None:
    """Take a node out of service, or back into it."""
    node = state.nodes.get(event.node)
    if node is None:
        out.append(Log("warning", f"cannot drain {event.node}: no such node"))
        return
    in_service = not (node.drained or node.self_draining)
    want_drained(node, not event.resume, out)
    if event.resume:
        if not in_service:
            ask_to_resume(node, now, out)
    else:
        node.resume_asked_at = 0.0
        out.append(Command(node.id, "drain", deadline_s=event.deadline_s, reason="an operator drains this node"))
    if node.state is NodeState.ONLINE:
        change(state, node, cause_of(node), f"drained, by {event.deadline_s:g} s from now", now, out)


def want_drained(node: NodeView, drained: bool, out: Out) -> None:
    """Have it in the node's record whether it is drained. What else is written there meanwhile does not undo it."""
    node.drained = node.drain_wanted = drained
    if node.record.drained == drained:
        return
    node.record = structs.replace(node.record, drained=drained)
    out.append(StoreNode(node.record, node.revision))


def conflicted(state: Coordinator, event: NodeConflicted, now: float, out: Out) -> None:
    """Somebody else wrote the node's record (its registration, an earlier change of ours): on top of that, what we want."""
    node = state.nodes.get(event.node)
    if node is None:
        return
    node.revision = event.revision
    there, wanted = event.record, structs.replace(node.record, drained=node.drained)
    if there is not None and there.session != wanted.session:  # it registers anew, and will say what it is
        wanted = structs.replace(there, drained=node.drained)
    if wanted == there:
        node.drain_wanted = None
        return
    out.append(StoreNode(wanted, event.revision))


def ask_to_resume(node: NodeView, now: float, out: Out) -> None:
    """Until it has answered it gives back whatever comes, so it gets nothing."""
    node.resume_asked_at = now
    out.append(Command(node.id, "resume"))


def _resumed(state: Coordinator, node: NodeView, now: float, out: Out) -> None:
    node.resume_asked_at = 0.0  # the beat that came before this answer said whether it takes work: it may rest
    if node.state is NodeState.DRAINING:
        change(state, node, cause_of(node), "taken back into service", now, out)


def command_ended(state: Coordinator, event: CommandEnded, now: float, out: Out) -> None:
    """A node's answer to a command. What was not heard is put right by the node's beats."""
    node = state.nodes.get(event.node)
    if event.verb == "resume" and node is not None and node.resume_asked_at and event.answer and event.answer.ok:
        _resumed(state, node, now, out)
    if event.answer is None:
        state.counts["commands unanswered"] += 1
    elif not event.answer.ok:
        state.counts["commands refused"] += 1
