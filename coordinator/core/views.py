"""What the API tells of the state. Nothing here changes anything, and nothing here is on the hot path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from msgspec import UNSET

from coordinator.core.balance import shortage
from coordinator.core.classes import PLAIN
from coordinator.core.filters import PASSING
from coordinator.core.nodeview import NodeView
from coordinator.core.record import TaskRecord, what_of
from coordinator.core.score import score
from coordinator.core.state import Coordinator
from coordinator.core.why import explain
from schemas import api, limits
from schemas.membership import NodeState
from schemas.task import TaskPriority


def status(state: Coordinator, now: float) -> api.StatusReply:
    """The fleet at a glance; the shell adds what only it knows (`broker`, `version`, what it refused)."""
    working = [n for n in state.nodes.values() if n.takes_work()]
    held = [n for n in state.nodes.values() if n.count]
    return api.StatusReply(
        coordinator=state.name,
        term=state.term,
        at=now,
        up_s=max(0.0, now - state.taken_over_at) if state.term else 0.0,
        nodes=dict(Counter(n.shown.value for n in state.nodes.values())),
        tasks=dict(Counter(t.state.value for t in state.tasks.values())),
        pending={TaskPriority(p).name.lower(): n for p, n in state.pending.items() if n},
        slots=sum(n.slots for n in working),
        slots_used=sum(min(n.count, n.slots) for n in held),
        cores=sum(n.cores for n in working),
        cores_used=round(sum(n.cores - max(0.0, n.cores_free) for n in held), 3),
        balance=balance(working),
        bad=_bad_at_nodes(state),
        counts=dict(state.counts),
        notes=tuple(_notes(state, now)),
    )


def balance(nodes: list[NodeView]) -> float | None:
    """Min/max tasks held by these nodes (SPEC 8.6): 1 is even. None where nobody holds any."""
    most = max((node.count for node in nodes), default=0)
    return round(min(node.count for node in nodes) / most, 3) if most else None


def _bad_at_nodes(state: Coordinator) -> dict[str, int]:
    """What nodes refused, as their beats say."""
    count = sum(n.bad_messages for n in state.nodes.values())
    return {"at nodes": count} if count else {}


def _notes(state: Coordinator, now: float) -> Iterator[str]:
    if not state.link_up:
        yield "the link to the broker is down: no node is judged by its silence"
    hold = state.hold
    if hold is not None:
        yield (
            f"degraded: {hold.silent} of {hold.expected} nodes fell silent at the same moment; none is called lost before"
            f" {max(0.0, hold.until - now):.0f} s from now, unless beats resume"
        )
    yield from shortage(state, now)
    if not any(n.takes_work() for n in state.nodes.values()):
        yield "no node takes work"
    troubled = [f"{n.id} ({n.bad_messages})" for n in state.nodes.values() if n.bad_messages]
    if troubled:
        yield f"messages were refused by {', '.join(troubled[:5])}" + (" and others" if len(troubled) > 5 else "")
    if state.parked >= limits.PAGE:
        yield f"{state.parked} tasks are in the waiting place"


def functions(state: Coordinator) -> api.FunctionsReply:
    """What is offered by nodes that are not lost; where nodes differ, the first by id speaks."""
    rows: dict[str, api.FunctionRow] = {}
    for node in sorted(state.nodes.values(), key=lambda n: n.id):
        if node.is_lost():
            continue
        for offer in node.record.offer.functions:
            old = rows.get(offer.name)
            told = offer if old is None else old.offer
            nodes, slots = (0, 0) if old is None else (old.nodes, old.slots)
            mean = state.estimates.mean_ms(offer.name)
            rows[offer.name] = api.FunctionRow(told, nodes + 1, slots + node.slots, mean)
    return api.FunctionsReply(tuple(rows[name] for name in sorted(rows)))


def nodes(state: Coordinator, ask: api.ListRequest, now: float) -> api.NodesReply:
    """A page of nodes, by id."""
    key, _, value = ask.label.partition("=")
    found = [
        n
        for n in sorted(state.nodes.values(), key=lambda n: n.id)
        if (not ask.state or n.shown.value == ask.state)
        and (not ask.label or n.record.offer.labels.get(key) == value)
        and (not ask.node or n.id == ask.node)
    ]
    page = found[ask.page * ask.size : (ask.page + 1) * ask.size]
    return api.NodesReply(tuple(node_row(n, now) for n in page), len(found), ask.page)


def node_row(node: NodeView, now: float) -> api.NodeRow:
    """One line about a node."""
    d, c = node.device, node.record.capabilities
    return api.NodeRow(
        node=node.id,
        state=node.shown,
        boot=node.boot,
        device_type=c.device_type.value if c.device_type else "",
        cores=node.cores,
        cores_used=round(node.cores - max(0.0, node.cores_free), 3),
        memory_mb=node.memory_mb,
        memory_used_mb=node.memory_now - max(0, node.memory_free),
        slots=node.slots,
        held=node.count,
        score=round(score(node)[0], 3),
        battery_percent=None if d.battery_percent is UNSET else d.battery_percent,
        charging=None if d.is_charging is UNSET else d.is_charging,
        mains=None if d.mains is UNSET else d.mains,
        thermal="" if d.thermal_state is UNSET or d.thermal_state is None else d.thermal_state.value,
        network="" if d.network_quality is UNSET or d.network_quality is None else d.network_quality.value,
        last_beat_s=round(now - node.heard_at, 3) if node.heard_at else None,
        due_s=round(node.next_due - now, 3) if node.next_due and not node.is_lost() else None,
        labels=node.record.offer.labels,
        pretending=c.pretending,
        version=node.record.version,
        clock_ahead_s=None if node.clock_ahead_s is None else round(node.clock_ahead_s, 3),
        bad_messages=node.bad_messages,
        outbox=node.outbox,
        outbox_held=node.outbox_held,
        closed_for=node.closed_for,
        outbox_since=node.outbox_since,
        harvest_state=node.harvest_state,
    )


def node_info(state: Coordinator, node_id: str, now: float) -> api.NodeInfo | None:
    """Everything known of a node; None for one that is not known."""
    node = state.nodes.get(node_id)
    if node is None:
        return None
    total, parts = score(node)
    record = node.record
    return api.NodeInfo(
        row=node_row(node, now),
        score=round(total, 4),
        parts=parts,
        capabilities=record.capabilities,
        state=node.device,
        functions=record.offer.functions,
        kinds=record.offer.kinds,
        held=tuple(_held(t) for t in node.attempts.values()),
        fit_reasons=tuple(fit_reasons(node)),
        speed=round(node.speed, 3),
        done=node.done,
        failed=node.failed,
        first_seen=record.first_seen,
        version=record.version,
        power_mode=node.power_mode,
        limits=node.limits,
        harvest_state=node.harvest_state,
        enforced=node.enforced,
        reserved_for=node.reserved[0].function or node.reserved[0].kind if node.reserved else "",
    )


def fit_reasons(node: NodeView) -> Iterator[str]:
    """What stands against any work at the node now."""
    for f in PASSING:
        text = f.test(PLAIN, node)
        if text:
            yield text
    if node.device.thermal_state in (None, UNSET):
        yield "its temperature is unknown, which does not stop work"
    if node.state is NodeState.ONLINE and node.count >= node.slots:
        yield f"all its {node.slots} slots are taken"


def _held(task: TaskRecord) -> api.HeldTask:
    return api.HeldTask(
        task.id, task.history.placement, task.head.priority.name.lower(), what_of(task.head)[1], task.running
    )


def tasks(state: Coordinator, ask: api.ListRequest) -> api.TasksReply:
    """A page of the tasks that have no result yet: highest priority first, then oldest."""
    found = [t for t in state.tasks.values() if _matches(t, ask)]
    found.sort(key=lambda t: (-t.priority, t.order))
    page = found[ask.page * ask.size : (ask.page + 1) * ask.size]
    return api.TasksReply(tuple(task_row(t) for t in page), len(found), ask.page)


def _matches(task: TaskRecord, ask: api.ListRequest) -> bool:
    return (
        (not ask.state or task.state.value == ask.state)
        and (not ask.priority or task.head.priority.name.lower() == ask.priority.lower())
        and (not ask.submitter or task.submitter == ask.submitter)
        and (not ask.node or (task.node is not None and task.node.id == ask.node))
        and (not ask.job or getattr(task.head.run, "job", "") == ask.job)
    )


def task_row(task: TaskRecord) -> api.TaskRow:
    """One line about a task."""
    kind, what = what_of(task.head)
    h = task.history
    return api.TaskRow(
        task=task.id,
        submitter=task.submitter,
        state=task.state.value,
        priority=task.head.priority.name.lower(),
        kind=kind,
        what=what,
        node=task.node.id if task.node is not None else "",
        placement=h.placement,
        attempts=h.attempts,
        submitted_at=task.order,
        since=task.since,
        job=getattr(task.head.run, "job", ""),
        reason=task.reason,
    )


def task_info(state: Coordinator, task_id: str, now: float) -> api.TaskInfo | None:
    """A task in full, with why it is where it is. None for one not held here: see RESULTS, and `explain`."""
    task = state.tasks.get(task_id)
    if task is None:
        return None
    h = task.history
    return api.TaskInfo(
        row=task_row(task),
        needs=task.head.needs,
        why=explain(state, task_id) or api.Why(),
        errors=h.errors,
        retries_used=h.retries_used,
        retry_limit=task.head.retry.limit,
        lost=h.lost,
        deadline_at=task.deadline_at,
        not_before=task.not_before,
        running=task.running,
        told_by=_told_by(state.nodes.get(task.bound), now),
    )


def _told_by(node: NodeView | None, now: float) -> float:
    """Where its node holds results: when one of an attempt that has ended by now is here at the latest."""
    return min(node.next_due, now + node.hold_s) if node is not None and node.hold_s else 0.0
