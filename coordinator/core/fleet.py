"""Membership: who belongs to the fleet, and what each node last said of itself."""

from __future__ import annotations

from msgspec import structs

from coordinator.core import tune
from coordinator.core.accounts import reopen
from coordinator.core.actions import Answer, Command, Emit, StoreNode
from coordinator.core.drains import ask_to_resume, want_drained
from coordinator.core.events import Beat, Clustered, NodeKnown, NodeRegistering, NodeStored
from coordinator.core.exclusive import renew
from coordinator.core.held import check_held, sort_held
from coordinator.core.intake import node_changed
from coordinator.core.liveness import Cause, cause_of, change, heard, take_acks
from coordinator.core.nodeview import CRITICAL, NO_CHANGE, NodeView
from coordinator.core.sleeps import remember
from coordinator.core.state import Coordinator, Out
from schemas import limits
from schemas.advice import PowerMode
from schemas.device import ThermalState
from schemas.event import NodeEvent, NodePower, NodeRegistered
from schemas.membership import Heartbeat, NodeRecord, NodeState, Register, Registered


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
        record is not None and record.drained, asked.version, now + asked.asleep_s if asked.asleep_s else 0.0,
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
            if node.drain_wanted == event.record.drained:
                node.drain_wanted = None
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
    if node.drain_wanted is not None:
        want_drained(node, node.drain_wanted, out)
    node.interval_s = interval_s(state)
    node.asleep, node.left = request.asleep_s > 0, False
    node.resume_asked_at = 0.0
    node.beat_seq = -1
    node.orphans = frozenset()
    if new_boot or known_as is None:
        node.device = NO_CHANGE
        node.power_mode = ""
        node.limit(None)
    node.merge(request.state)
    node.derive()
    heard(state, node, request.asleep_s or node.interval_s, now)
    if known_as is None or known_as != (record.boot, record.capabilities, record.offer):
        names = tuple(f.name for f in record.offer.functions)
        data = NodeRegistered(node.id, record.boot, record.capabilities, record.offer.labels, names)
        out.append(Emit("node.registered", node.id, node.next_event("registered", state.term), data))
    _advised(state, node, request, out)
    _closed(node, request)
    if new_boot:
        take_acks(node, out)
    keep = sort_held(state, node, request, new_boot, now, out)
    if node.state is NodeState.LEAVING:
        node.state = NodeState.LATE  # it left and came again
    if known_as is None and cause_of(node) is Cause.ALIVE:
        node.state = NodeState.ONLINE  # told by node.registered
    else:
        change(state, node, cause_of(node), "it registered", now, out)
    node_changed(state, node)
    state.aside_left = len(state.aside)
    answer = Registered("", "", "", node.boot, state.term, node.interval_s, keep, node.drained)
    out.append(Answer(event.reply, answer))


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


def beat(state: Coordinator, event: Beat, now: float, out: Out) -> None:
    """A heartbeat: what changed, when the next is due, what is held."""
    take(state, event.beat, event.reply, now, now, out)


def take(state: Coordinator, b: Heartbeat, reply: str, at: float, now: float, out: Out) -> bool:
    """A heartbeat that was heard `at` (or by who passed it on). False if it does not count."""
    node = state.nodes.get(b.node)
    if node is None or b.boot != node.boot:
        _stranger(state, node, b, now, out)
        return False
    if b.seq <= node.beat_seq:
        state.counts["old beats"] += 1
        return False
    if b.seq != node.beat_seq + 1 and not b.full and now - node.reported_at >= tune.REPORT_AGAIN_S:
        node.reported_at = now
        out.append(Command(node.id, "report"))
    node.beat_seq, node.relayed = b.seq, False
    node.last_beat = at
    node.clock_ahead_s = b.sent_at - at
    heard(state, node, b.next_due_s, at)
    changed = b.state is not NO_CHANGE and node.merge(b.state)
    changed |= _advised(state, node, b, out)
    _said(node, b)
    if b.asleep or node.record.asleep_until:
        remember(node, b.next_due_s, now, out)
    if b.offer is not None and b.offer != node.record.offer:
        _offer_changed(state, node, structs.replace(node.record, offer=b.offer, last_seen=now), out)
        changed = True
    elif now - node.record.last_seen > tune.SEEN_AGAIN_S:
        node.record = structs.replace(node.record, last_seen=now)
        out.append(StoreNode(node.record, node.revision))
    if node.resume_asked_at and now - node.resume_asked_at >= tune.REPORT_AGAIN_S:
        ask_to_resume(node, now, out)
    back = node.state is NodeState.LOST
    cause = Cause.LEAVE if b.leaving else cause_of(node)
    if cause is not Cause.ALIVE or node.state is not NodeState.ONLINE:
        change(state, node, cause, "it beats again" if cause is Cause.ALIVE else "it said so", now, out)
    if changed:
        node_changed(state, node)
    elif node.blocked:
        reopen(state, node)
    if node.restood:
        node.restood = False
        state.changed.add(node.id)
    if b.held or node.attempts or node.orphans:
        check_held(state, node, b, back, now, out)
    if reply:
        renew(state, node, b, reply, now, out)
    return True


def _advised(state: Coordinator, node: NodeView, b: Heartbeat | Register, out: Out) -> bool:
    """What the node is advised to do now; True if it may matter for placing."""
    battery_min = b.battery_min or tune.BATTERY_MIN
    if b.limits is None and b.power_mode in ("", node.power_mode) and battery_min == node.battery_min:
        return False
    before = (node.power_mode == CRITICAL, node.slots, node.memory_now, node.battery_min)
    node.battery_min = battery_min
    if b.power_mode and b.power_mode != node.power_mode:
        if node.power_mode or b.power_mode != PowerMode.PERFORMANCE.value:
            heat = node.device.thermal_state
            told = heat.value if isinstance(heat, ThermalState) else ""
            data = NodePower(node.id, node.boot, b.power_mode, node.power_mode, told)
            out.append(Emit("node.power-mode", node.id, node.next_event("power-mode", state.term), data))
        node.power_mode = b.power_mode
    if b.limits is not None:
        node.limit(b.limits)
    return before != (node.power_mode == CRITICAL, node.slots, node.memory_now, node.battery_min)


def _said(node: NodeView, b: Heartbeat) -> None:
    node.asleep = b.asleep
    node.bad_messages = b.bad_messages
    node.outbox, node.outbox_since, node.outbox_held = b.outbox, b.outbox_since, b.outbox_held
    node.hold_s = b.hold_s
    if b.enforced is not None:
        node.enforced = b.enforced
    _closed(node, b)


def _closed(node: NodeView, b: Heartbeat | Register) -> None:
    """Whether it takes no work by itself, and why."""
    node.self_draining, node.closed_for = b.draining, b.closed_for
    if b.harvest_state:
        node.harvest_state = b.harvest_state


def _offer_changed(state: Coordinator, node: NodeView, record: NodeRecord, out: Out) -> None:
    node.accept(record)
    state.aside_left = len(state.aside)
    out.append(StoreNode(record, node.revision))
    names = tuple(f.name for f in record.offer.functions)
    data = NodeRegistered(node.id, node.boot, record.capabilities, record.offer.labels, names)
    out.append(Emit("node.registered", node.id, node.next_event("registered", state.term), data))


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


def clustered(state: Coordinator, event: Clustered, now: float, out: Out) -> None:
    """The node is in other clusters, for which tasks may have waited."""
    node = state.nodes.get(event.node)
    if node is None or node.clusters == event.clusters:
        return
    node.clusters = event.clusters
    node_changed(state, node)
    state.aside_left = len(state.aside)


def give_up_registrations(state: Coordinator, now: float) -> None:
    """Forget registrations whose record was never stored."""
    old = [reply for reply, (_, since) in state.registering.items() if now - since > tune.REGISTERING_S]
    for reply in old:
        del state.registering[reply]
