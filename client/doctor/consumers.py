"""Who reads our queues? The acting coordinator and each node, and nobody else."""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.doctor.facts import Consumer, Facts
from client.doctor.finding import Finding, few, ok, problem, warning
from schemas import limits, streams
from schemas.api import NodeRow
from schemas.membership import NodeState
from schemas.task import TaskPriority

INTAKE = [(streams.TASKS, f"p{priority:d}") for priority in TaskPriority] + [(streams.OUTCOMES, "outcomes")]
_of_term = re.compile(rf"{streams.COORDINATOR_CONSUMER}(\d+)_\w+").fullmatch
WORKING = (NodeState.ONLINE, NodeState.DRAINING)


def judge(facts: Facts) -> Iterator[Finding]:
    """Checks ``consumers.*``."""
    if facts.consumers is None:
        return
    yield from _foreign(facts.consumers)
    if facts.status is not None:
        yield from _intake(facts.consumers, facts.status.term)
        yield from _of_other_terms(facts.consumers, facts.status.term)
    if facts.nodes is not None:
        yield from _of_nodes(facts.consumers, facts.nodes, facts.queued_at or {})


def _remove(consumer: Consumer) -> str:
    return f"nats consumer rm {consumer.stream} {consumer.name}"


def _foreign(consumers: tuple[Consumer, ...]) -> Iterator[Finding]:
    good = True
    for c in consumers:
        ours = c.name.startswith(streams.NODE_CONSUMER) if c.stream == streams.WORK else bool(_of_term(c.name))
        if not ours:
            good = False
            takes = few(list(c.filters)) or "everything"
            seen = f"the consumer {c.name} of somebody else reads {c.stream} ({takes}): what it acks is gone"
            yield problem("consumers.foreign", seen, f"{_remove(c)}; to watch, read FOG_EVENTS instead", c.name)
    if good:
        yield ok("consumers.foreign", "nobody else reads the queues")


def _intake(consumers: tuple[Consumer, ...], term: int) -> Iterator[Finding]:
    there = {(c.stream, c.name) for c in consumers}
    wanted = [(stream, f"{streams.COORDINATOR_CONSUMER}{term}_{what}") for stream, what in INTAKE]
    missing = [(stream, name) for stream, name in wanted if (stream, name) not in there]
    for stream, name in missing:
        seen = f"{name} is missing on {stream}: nothing of it is taken in"
        advice = "stop the coordinator and start it again (`fog up`, or `fog coordinator`): it makes its consumers anew"
        yield problem("consumers.intake", seen, advice, name)
    if not missing:
        yield ok("consumers.intake", f"the {len(wanted)} consumers of term {term} are there")


def _of_other_terms(consumers: tuple[Consumer, ...], term: int) -> Iterator[Finding]:
    for c in consumers:
        found = _of_term(c.name)
        if found and int(found[1]) != term:
            seen = f"{c.name} is left of another term and holds {c.unacked} messages"
            advice = f"is a deposed coordinator still running? Stop it, then: {_remove(c)}"
            yield (problem if c.unacked else warning)("consumers.old", seen, advice, c.name)


def _of_nodes(consumers: tuple[Consumer, ...], nodes: tuple[NodeRow, ...], queued: dict[str, int]) -> Iterator[Finding]:
    by_node = {c.name.removeprefix(streams.NODE_CONSUMER): c for c in consumers if c.stream == streams.WORK}
    known = {row.node: row for row in nodes}
    good = True
    for row in nodes:
        for seen, advice in _of_node(row, by_node.get(row.node), queued.get(row.node, 0)):
            good = False
            yield problem("consumers.nodes", seen, advice, row.node)
    for node, count in queued.items():
        if node in known and known[node].state in (NodeState.LOST, NodeState.LEFT):
            good = False
            seen = f"{count} messages still lie in the queue of {node}, which is {known[node].state.value}"
            advice = "they should have been moved: stop the coordinator and start it again, and it looks at them anew"
            yield problem("consumers.nodes", seen, advice, node)
        elif node not in known:
            good = False
            seen = f"{count} messages lie in the queue of {node}, of which the coordinator knows nothing"
            advice = f"start {node} again, or stop and start the coordinator: it then moves them to other nodes"
            yield problem("consumers.nodes", seen, advice, node)
    if good:
        yield ok("consumers.nodes", "each node reads its own queue")


def _of_node(row: NodeRow, c: Consumer | None, queued: int) -> Iterator[tuple[str, str]]:
    again = f"stop {row.node} and start it again; what lies in its queue moves or waits for it"
    if row.state not in WORKING:
        return
    if c is None:
        yield f"{row.node} has no consumer: it gets no work, and {queued} messages wait", again
    elif c.pending and not c.asking and not row.held:
        yield f"{row.node} is online and does not ask for the {c.pending} messages in its queue", again
    elif c.redelivered > row.held and c.redelivered > limits.NODE_QUEUE_MAX // 8:
        yield f"{c.redelivered} messages were sent to {row.node} again and again without an ack", again
