"""Membership: who belongs to the fleet, and what each node last said of itself."""

from __future__ import annotations

from msgspec import structs

from coordinator.core import tune
from coordinator.core.accounts import reopen
from coordinator.core.actions import Answer, Command, Emit, Log, StoreNode
from coordinator.core.events import Beat, CommandEnded, DrainAsked, NodeKnown, NodeRegistering, NodeStored
from coordinator.core.intake import node_changed
from coordinator.core.life import adopt, lose
from coordinator.core.liveness import Cause, cause_of, change, heard, watch
from coordinator.core.nodeview import NodeView
from coordinator.core.record import Life
from coordinator.core.state import Coordinator, Out
from schemas import limits
from schemas.device import DeviceState
from schemas.event import NodeEvent, NodeRegistered
from schemas.membership import Heartbeat, NodeRecord, NodeState, Register, Registered

NO_CHANGE = DeviceState()


def interval_s(state: Coordinator) -> float:
    """How often nodes beat: `limits.HEARTBEAT_S`, or less often in a fleet of more than 10,000, so that all of them together
    send at most `tune.NODES_PER_S` beats a second: ``max(5, nodes / 2000)``."""
    return max(limits.HEARTBEAT_S, len(state.nodes) / tune.NODES_PER_S)


def registering(state: Coordinator, event: NodeRegistering, now: float, out: Out) -> None:
    """Judge a registration: the same id needs the same key, the same session is the same boot, another one is the next."""
    asked, record = event.request, event.record
    if record is not None and record.key != asked.key:
        _refuse(state, event, now, out)
        return
    same = record is not None and record.session == asked.session
    boot = 1 if record is None else record.boot if same else record.boot + 1
    wanted = NodeRecord(
        asked.node, asked.key, asked.session, boot, asked.capabilities, asked.offer,
        now if record is None else record.first_seen, now,
        record is not None and record.drained, {} if record is None else record.policy, asked.version,
    )  # fmt: skip
    state.registering[event.reply] = (event, now)
    if record is not None and same and structs.replace(record, last_seen=now) == wanted:
        stored(state, NodeStored(record, event.reply, event.revision), now, out)
    else:
        out.append(StoreNode(wanted, event.revision, event.reply))


def _refuse(state: Coordinator, event: NodeRegistering, now: float, out: Out) -> None:
    node = event.request.node
    state.counts["nodes refused"] += 1
    error = f"the id {node} belongs to a node with another key"
    hint = "choose another --name, or bring back this node's own node.key file"
    out.append(Answer(event.reply, Registered(error=error, hint=hint, term=state.term)))
    data = NodeEvent(node, 0, f"another key: {event.request.key[:12]}…")
    out.append(Emit("node.refused", node, f"{node}.{event.request.session}.refused", data))


def stored(state: Coordinator, event: NodeStored, now: float, out: Out) -> None:
    """A node's record is written. With a reply, its registration is complete and is answered."""
    node = state.nodes.get(event.record.node)
    waiting = state.registering.pop(event.reply, None) if event.reply else None
    if waiting is None:
        if node is not None:
            node.revision = max(node.revision, event.revision)
        return
    request = waiting[0].request
    _join(state, node, event, request, now, out)


def _join(
    state: Coordinator, node: NodeView | None, event: NodeStored, request: Register, now: float, out: Out
) -> None:
    """Take a registered node in: as it says it is, with those of its attempts that still count."""
    record = event.record
    known_as = None if node is None else (node.boot, node.record.capabilities, node.record.offer)
    if node is None:
        node = add(state, record)
    new_boot = known_as is not None and known_as[0] != record.boot
    node.accept(record)
    node.revision = event.revision
    node.interval_s = interval_s(state)
    node.asleep = node.self_draining = node.left = False
    node.resume_asked_at = 0.0
    node.beat_seq = -1
    node.orphans = frozenset()
    if new_boot or known_as is None:
        node.device = NO_CHANGE
    node.merge(request.state)
    node.derive()
    heard(state, node, node.interval_s, now)
    if known_as is None or known_as != (record.boot, record.capabilities, record.offer):
        names = tuple(f.name for f in record.offer.functions)
        data = NodeRegistered(node.id, record.boot, record.capabilities, record.offer.labels, names)
        out.append(Emit("node.registered", node.id, node.next_event("registered"), data))
    keep = _sort_held(state, node, request, new_boot, now, out)
    if node.state is NodeState.LEAVING:
        node.state = NodeState.LATE  # it left and came again
    if known_as is None and not node.drained:
        node.state = NodeState.ONLINE  # told by node.registered
    else:
        change(state, node, cause_of(node), "it registered", now, out)
    node_changed(state, node)
    answer = Registered("", "", "", node.boot, state.term, node.interval_s, keep, record.policy)
    out.append(Answer(event.reply, answer))


def _sort_held(
    state: Coordinator, node: NodeView, request: Register, new_boot: bool, now: float, out: Out
) -> tuple[str, ...]:
    """Which attempts the node keeps: all that are on its books. What a former boot had and this one has not is lost at once."""
    kept = set()
    for h in request.held:
        task = state.tasks.get(h.task)
        if task is None or task.history.placement != h.placement or task.bound != node.id:
            continue
        if task.node is node or adopt(state, node, task, now):
            task.running = h.running
            kept.add(h.task)
    if new_boot:
        gone = [t for t in node.attempts.values() if t.id not in kept and t.state is not Life.SPLITTING]
        lose(state, node, gone, f"node {node.id} was started anew", now, out)
    return tuple(node.attempts)


def add(state: Coordinator, record: NodeRecord) -> NodeView:
    """Give a node a slot and hold it from now on."""
    if state.free_slots:
        slot = state.free_slots.pop()
    else:
        slot = len(state.slots)
        state.slots.append(None)
    node = NodeView(record, slot, interval_s(state))
    state.slots[slot] = node
    state.nodes[node.id] = node
    return node


def known(state: Coordinator, event: NodeKnown, now: float, out: Out) -> None:
    """While taking over: a node of the bucket. It takes no work before it was heard of."""
    if event.record.node not in state.nodes:
        node = add(state, event.record)
        node.revision = event.revision
        node_changed(state, node)


def expect_all(state: Coordinator, now: float) -> None:
    """After a takeover: who is not heard of within one full lease is lost."""
    for node in state.nodes.values():
        if node.heard_at < now and node.state is NodeState.LATE:
            node.missed = limits.BEATS_MISSED - 1
            node.next_due = now + node.silence_s()
            watch(state, node)


def beat(state: Coordinator, event: Beat, now: float, out: Out) -> None:
    """A heartbeat: what changed, when the next is due, what is held."""
    b = event.beat
    node = state.nodes.get(b.node)
    if node is None or b.boot != node.boot:
        _stranger(state, node, b, now, out)
        return
    if b.seq <= node.beat_seq:
        state.counts["old beats"] += 1
        return
    if b.seq != node.beat_seq + 1 and not b.full and now - node.reported_at >= tune.REPORT_AGAIN_S:
        node.reported_at = now
        out.append(Command(node.id, "report"))
    node.beat_seq = b.seq
    node.last_beat = now
    heard(state, node, b.next_due_s, now)
    changed = b.state is not NO_CHANGE and node.merge(b.state)
    if b.offer is not None and b.offer != node.record.offer:
        _offer_changed(node, structs.replace(node.record, offer=b.offer, last_seen=now), out)
        changed = True
    _said(node, b)
    if node.resume_asked_at and now - node.resume_asked_at >= tune.REPORT_AGAIN_S:
        _ask_to_resume(node, now, out)
    back = node.state is NodeState.LOST
    cause = Cause.LEAVE if b.leaving else cause_of(node)
    if cause is not Cause.ALIVE or node.state is not NodeState.ONLINE:
        change(state, node, cause, "it beats again" if cause is Cause.ALIVE else "it said so", now, out)
    if changed:
        node_changed(state, node)
    elif node.blocked:
        reopen(state, node)
    if b.held or node.attempts or node.orphans:
        _check_held(state, node, b, back, now, out)


def _said(node: NodeView, b: Heartbeat) -> None:
    node.asleep = b.asleep
    node.self_draining = b.draining
    node.bad_messages = b.bad_messages
    if b.power_mode:
        node.power_mode = b.power_mode
    if b.harvest_state:
        node.harvest_state = b.harvest_state


def _offer_changed(node: NodeView, record: NodeRecord, out: Out) -> None:
    node.accept(record)
    out.append(StoreNode(record, node.revision))
    names = tuple(f.name for f in record.offer.functions)
    data = NodeRegistered(node.id, node.boot, record.capabilities, record.offer.labels, names)
    out.append(Emit("node.registered", node.id, node.next_event("registered"), data))


def _stranger(state: Coordinator, node: NodeView | None, b: Heartbeat, now: float, out: Out) -> None:
    """A beat of an older boot is ignored; one of a node or boot not known here is asked to report (and so to register)."""
    if node is not None and b.boot < node.boot:
        state.counts["beats of an older boot"] += 1
        return
    state.counts["beats of unknown nodes"] += 1
    if now - state.strangers.get(b.node, 0.0) < tune.REPORT_AGAIN_S:
        return
    state.strangers.pop(b.node, None)
    state.strangers[b.node] = now
    if len(state.strangers) > tune.STRANGERS_MAX:
        state.strangers.popitem(last=False)
    out.append(Command(b.node, "report"))


def _check_held(state: Coordinator, node: NodeView, b: Heartbeat, back: bool, now: float, out: Out) -> None:
    """Compare what the node holds with what it should. Only work that had reached it when it spoke can be missing."""
    here = 0
    orphans: list[tuple[str, int]] = []
    for h in b.held:
        task = node.attempts.get(h.task)
        if task is not None and task.history.placement == h.placement:
            task.running = h.running
            task.missed_in = -1
            here += 1
        elif not _take_back(state, node, h.task, h.placement, now):
            orphans.append((h.task, h.placement))
    if orphans or node.orphans:
        _stop_orphans(state, node, orphans, back, out)
    if here < len(node.attempts) and state.term:
        _find_missing(state, node, b, now, out)


def _take_back(state: Coordinator, node: NodeView, task_id: str, placement: int, now: float) -> bool:
    """A node that was given up holds the placement that counts, and the task was not moved yet."""
    task = state.tasks.get(task_id)
    if task is None or task.history.placement != placement or task.bound != node.id or not node.takes_work():
        return False
    return adopt(state, node, task, now)


def _stop_orphans(state: Coordinator, node: NodeView, orphans: list[tuple[str, int]], back: bool, out: Out) -> None:
    """Stop attempts that do not count: at once when that is certain, else (they may just have ended) at the next beat."""
    if state.term:
        stop = tuple(orphan[0] for orphan in orphans if _may_stop(state, node, orphan, back))
        if stop:
            out.append(Command(node.id, "cancel", tasks=stop, reason="moved or done"))
    node.orphans = frozenset(orphans)


def _may_stop(state: Coordinator, node: NodeView, orphan: tuple[str, int], back: bool) -> bool:
    task = state.tasks.get(orphan[0])
    if task is None:
        return back or orphan in node.orphans
    if task.node is node:
        return False  # the current placement is here as well, and a cancel would end both
    if task.source.stream == "work" and task.source_placement == orphan[1]:
        return False  # the node would ack the only message that holds the task: not before it lies elsewhere
    return back or task.history.placement > orphan[1] or orphan in node.orphans


def _find_missing(state: Coordinator, node: NodeView, b: Heartbeat, now: float, out: Out) -> None:
    """Attempts that reached the node and are not held: after one more beat they are lost (their result may be under way).

    So are those that never seem to reach it, though it beats.
    """
    held = {h.task for h in b.held}
    gone = []
    for task in node.attempts.values():
        if task.id in held or task.state is not Life.PLACED or not task.seq:
            continue
        if task.seq > b.seen_seq:
            if now - task.since <= limits.WORK_ACK_WAIT_S:
                continue
            task.running = False
        if task.missed_in < 0:
            task.missed_in = b.seq
        else:
            gone.append(task)
    lose(state, node, gone, f"node {node.id} does not hold it any more", now, out)


def drain_asked(state: Coordinator, event: DrainAsked, now: float, out: Out) -> None:
    """Take a node out of service, or back into it."""
    node = state.nodes.get(event.node)
    if node is None:
        out.append(Log("warning", f"cannot drain {event.node}: no such node"))
        return
    in_service = not (node.drained or node.self_draining)
    node.drained = not event.resume
    if node.record.drained != node.drained:
        node.record = structs.replace(node.record, drained=node.drained)
        out.append(StoreNode(node.record, node.revision))
    if event.resume:
        if not in_service:
            _ask_to_resume(node, now, out)
    else:
        node.resume_asked_at = 0.0
        out.append(Command(node.id, "drain", deadline_s=event.deadline_s, reason="an operator drains this node"))
    if node.state is NodeState.ONLINE:
        change(state, node, cause_of(node), f"drained, by {event.deadline_s:g} s from now", now, out)


def _ask_to_resume(node: NodeView, now: float, out: Out) -> None:
    """Until it has answered it gives back whatever comes, so it gets nothing."""
    node.resume_asked_at = now
    out.append(Command(node.id, "resume"))


def _resumed(state: Coordinator, node: NodeView, now: float, out: Out) -> None:
    node.resume_asked_at = 0.0
    node.self_draining = False
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


def give_up_registrations(state: Coordinator, now: float) -> None:
    """Forget registrations whose record was never stored."""
    old = [reply for reply, (_, since) in state.registering.items() if now - since > tune.REGISTERING_S]
    for reply in old:
        del state.registering[reply]
