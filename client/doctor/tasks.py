"""Are tasks where they should be? What waits, for what, and what would set it free?"""

from __future__ import annotations

from collections.abc import Iterator

from client.doctor.facts import Facts
from client.doctor.finding import Finding, few, ok, problem, warning
from client.show import span
from schemas.api import StatusReply, StuckTask, TroubleReply, WaitingGroup

STORED_MIN = 1  # tasks in FOG_TASKS that nobody has taken in
UNFIT = "no node fits"
WORDS = {  # by kind: what is seen, what to do
    "queued": (
        "is first in the queue for {time}, and a node stands ready for it",
        "that is a fault of ours; stopping the coordinator and starting it again places it",
    ),
    "unconfirmed": (
        "waits for the broker's word for {time} ({reason})",
        "see the findings about the broker and streams; if there are none, stop the coordinator and start it again",
    ),
    "overdue": (
        "runs on {node} for {time}, longer than its timeout",
        "`fog cancel {task}`; if that does not help, stop {node} and start it again",
    ),
    "unreported": (
        "was given to {node} {time} ago, which does not tell of it",
        "stop {node} and start it again: the task then moves",
    ),
}


def judge(facts: Facts) -> Iterator[Finding]:
    """Checks ``tasks.*``."""
    if facts.status is not None:
        yield from _intake(facts.status)
    if facts.trouble is None:
        return
    for group in facts.trouble.waiting:
        yield _waiting(group)
    yield from _stuck(facts.trouble)
    for part in facts.parts_lost:
        seen = f"the part {part} of a split map chunk is in no stream: its map will never end"
        yield problem("tasks.parts", seen, "interrupt that `fog map` and give the same command again with --job", part)


def _intake(status: StatusReply) -> Iterator[Finding]:
    stored, pending = status.tasks.get("stored", 0), sum(status.pending.values())
    if stored >= STORED_MIN and not pending and status.slots > status.slots_used:
        seen = f"{stored} tasks are stored and not taken in, though slots are free"
        advice = "see the findings about consumers and FOG_RESULTS; if there are none, stop and start the coordinator"
        yield problem("tasks.intake", seen, advice)
    else:
        yield ok("tasks.intake", f"{sum(status.tasks.values())} tasks have no result yet")


def _waiting(group: WaitingGroup) -> Finding:
    count = f"{group.count} tasks wait" if group.count > 1 else "1 task waits"
    seen = f"{count}, the oldest for {span(group.oldest_s)}: {group.reason or 'no reason is known'}"
    if group.until or "it is exclusive" in group.reason:  # until its lease is over
        return ok("tasks.waiting", f"{seen} (tried again by itself)", group.oldest)
    return warning("tasks.waiting", seen, _unblock(group), group.oldest)


def _unblock(group: WaitingGroup) -> str:
    """What would set these free, from the filters' own words (coordinator/core/filters.py)."""
    reason, task = group.reason, group.oldest
    if "does not offer" in reason:
        return f"start a node that offers it (`fog node --import MODULE`), or `fog cancel {task}`"
    if "does not allow" in reason:
        return f"start a node whose owner allows it (`fog node --allow command`), or `fog cancel {task}`"
    if "wants node" in reason:
        return f"start that node, or `fog cancel {task}`"
    if "not labelled" in reason:
        return f"start a node with that label (`fog node --label KEY=VALUE`), or `fog cancel {task}`"
    if "battery" in reason:
        return "plug the device in, or start a node that has mains"
    if "too many different kinds" in reason:
        return "they are looked at again as others end; submit with fewer different needs"
    return f"`fog task {task}` shows what stands against each node; start one that fits, or `fog cancel {task}`"


def _stuck(trouble: TroubleReply) -> Iterator[Finding]:
    for kind, (seen, advice) in WORDS.items():
        some = [task for task in trouble.stuck if task.kind == kind]
        if not some:
            continue
        first: StuckTask = max(some, key=lambda task: task.for_s)
        told = {"task": first.task, "node": first.node, "time": span(first.for_s), "reason": first.reason}
        more = trouble.counts.get(kind, len(some)) - 1
        others = f"; so are {more} more: {few([t.task for t in some if t is not first])}" if more else ""
        yield problem(f"tasks.{kind}", f"{first.task} {seen.format(**told)}{others}", advice.format(**told), first.task)
    if not trouble.counts:
        yield ok("tasks.stuck", "none is stuck")
