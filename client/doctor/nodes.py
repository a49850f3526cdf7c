"""Are the nodes there, and what they say they are?"""

from __future__ import annotations

from collections.abc import Iterator

from client.doctor.facts import Facts
from client.doctor.finding import Finding, few, ok, problem, warning
from client.show import span
from schemas import limits
from schemas.api import NodeRow
from schemas.membership import NodeState

REFUSED_S = 86_400.0  # a refusal is told of for this long


def judge(facts: Facts) -> Iterator[Finding]:
    """Checks ``nodes.*``."""
    for refusal in facts.refusals:
        if refusal.ago_s < REFUSED_S:
            seen = f"a node that calls itself {refusal.node} was refused {span(refusal.ago_s)} ago: {refusal.reason}"
            advice = "two devices with one name: start that one with another --name, or bring back its own node.key"
            yield warning("nodes.refused", seen, advice, refusal.node)
    rows = facts.nodes
    if rows is None:
        return
    if not rows:
        yield warning("nodes.present", "no node has joined yet", "start one: `fog node`, or `fog up --nodes 2`")
        return
    yield from _absent(rows)
    for row in rows:
        if row.closed_for or row.outbox > row.outbox_held:
            yield _outbox(row)
    pretending = [row.node for row in rows if row.pretending]
    if pretending:
        seen = f"{few(pretending)} pretends to be another device (BATTERY, THERMAL, … are set in its environment)"
        yield warning("nodes.pretending", seen, "unset them, unless this is a test or a demo", pretending[0])


def _outbox(row: NodeRow) -> Finding:
    """It beats, so its link is up: what it keeps, and does not hold for a batch, should go within seconds."""
    seen = f"{row.node} keeps {row.outbox - row.outbox_held} results that the broker has not taken"
    if row.closed_for or row.outbox >= limits.OUTBOX_LETTERS:
        seen = f"{row.node}: {row.closed_for}" if row.closed_for else seen
        advice = (
            "it starts no more work until they are delivered: is FOG_RESULTS or FOG_OUTCOMES full? Its log says why"
        )
        return problem("nodes.outbox", seen, advice, row.node)
    return warning(
        "nodes.outbox", seen, "they go by themselves; if they stay, its log says what refuses them", row.node
    )


def _absent(rows: tuple[NodeRow, ...]) -> Iterator[Finding]:
    by: dict[NodeState, list[str]] = {}
    resting = [row.node for row in rows if row.state is NodeState.DRAINING and row.harvest_state]
    for row in rows:
        if row.node not in resting:
            by.setdefault(row.state, []).append(row.node)
    for node in by.get(NodeState.LOST, []):
        last = next(row.last_beat_s for row in rows if row.node == node)
        when = f" {span(last)} ago" if last is not None else ""
        seen = f"{node} was lost: its last sign of life was{when or ' before this term'}"
        yield warning(
            "nodes.lost", seen, "start `fog node` there again; a node that stays away is forgotten in a day", node
        )
    if late := by.get(NodeState.LATE, []):
        advice = "are these devices asleep, stopped, or off the network? They are lost after three silent beats"
        yield warning("nodes.late", f"overdue: {few(late)}", advice, late[0])
    if draining := [row.node for row in rows if row.node in by.get(NodeState.DRAINING, []) and not row.closed_for]:
        advice = "`fog drain ID --resume` takes one back into service"
        yield warning("nodes.draining", f"taken out of service: {few(draining)}", advice, draining[0])
    working = by.get(NodeState.ONLINE, [])
    if not working and len(resting) == len(rows):
        yield ok(
            "nodes.present", f"all {len(rows)} nodes are their owners' at the moment: `fog harvest` says until when"
        )
    elif not working:
        yield problem("nodes.present", f"none of {len(rows)} nodes takes work", "start a node: `fog node`")
    else:
        yield ok("nodes.present", f"{len(working)} of {len(rows)} nodes take work")
