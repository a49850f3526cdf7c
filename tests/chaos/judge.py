"""What must hold after a campaign, from what the broker stored and what the functions wrote down."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import msgspec

from schemas import jetstream, streams, subjects
from schemas.task import Result, ResultState
from tests.chaos.load import Load, folder_of
from tests.integration.stack import result_of
from tests.until import gone

ENDS = {"succeeded", "failed", "cancelled", "expired"}
WANTED = {
    "short": {ResultState.SUCCEEDED}, "long": {ResultState.SUCCEEDED}, "steady": {ResultState.SUCCEEDED},
    "flaky": {ResultState.SUCCEEDED}, "deadly": {ResultState.SUCCEEDED}, "hopeless": {ResultState.FAILED},
    "fatal": {ResultState.FAILED}, "cancelled": {ResultState.CANCELLED}, "expires": {ResultState.EXPIRED},
    "overdue": {ResultState.EXPIRED},
}  # fmt: skip
COUNTED = {ResultState.SUCCEEDED, ResultState.FAILED}  # an end of which every start is told
CLOCK_S = 0.02  # by which two readings of the machine's clock, in milliseconds, may seem to be in the wrong order


@dataclass
class Attempt:
    """One start in the journal, and its end, if it came to one."""

    at: float
    pid: int
    node: str
    ended: float = 0.0
    how: str = ""


@dataclass
class Verdict:
    """`wrong` must be empty; `seen` is told."""

    wrong: list[str] = field(default_factory=list)
    seen: dict[str, object] = field(default_factory=dict)


def journal(folder: Path) -> dict[str, list[Attempt]]:
    """The attempts of each task, in order."""
    found: dict[str, list[Attempt]] = defaultdict(list)
    for line in (folder / "journal").read_text().splitlines():
        at, what, task, pid, node = line.split()
        if what == "start":
            found[task].append(Attempt(float(at), int(pid), node))
        else:
            attempt = next(a for a in found[task] if a.pid == int(pid) and not a.how)
            attempt.ended, attempt.how = float(at), what
    return found


async def judge(load: Load) -> Verdict:
    """Everything that was acknowledged, against what became of it."""
    verdict = Verdict()
    stored = {}
    for message in await jetstream.read_all(load.fleet.bus, streams.RESULTS, subjects.result("*", "*")):
        result = result_of(message.data)
        if result.task in stored:
            verdict.wrong.append(f"{result.task} has two results")
        stored[result.task] = (result, datetime.fromisoformat(message.time).timestamp())
    attempts = journal(folder_of(load.fleet))
    for task, kind in load.kinds.items():
        if task not in stored:
            verdict.wrong.append(f"{task} ({kind}) was acknowledged and has no result")
            continue
        result, at = stored[task]
        verdict.wrong += [f"{task} ({kind}): {wrong}" for wrong in _ended(kind, result, at, attempts[task])]
        verdict.wrong += [f"{task} ({kind}): {wrong}" for wrong in _retried(load, task, result, attempts[task])]
    verdict.wrong += load.wrong + [f"{task} was told {n + 1} times" for task, n in load.fleet.doubled.items()]
    missed = set(load.kinds) - set(load.fleet.results)
    verdict.wrong += [f"{task} was never told of on done.>" for task in missed]
    await _events(load, stored, verdict)
    _tell(load, stored, attempts, verdict)
    return verdict


def _ended(kind: str, result: Result, at: float, attempts: list[Attempt]) -> Iterator[str]:
    if result.state not in WANTED[kind]:
        yield f"ended as {result.state.value}: {result.reason} {result.errors}"
    if result.state in COUNTED:
        late = [a for a in attempts if a.at > at + CLOCK_S]
        if late:
            yield f"ran again {late[0].at - at:.3f} s after its result was stored, on {late[0].node}"
    for attempt in attempts:
        if not attempt.how and not gone(attempt.pid):
            # The process may have gone on to other work: what it began last, and did not end, is what it still does.
            yield f"has its result, and runs on as pid {attempt.pid} on {attempt.node}"


def _retried(load: Load, task: str, result: Result, attempts: list[Attempt]) -> Iterator[str]:
    """How often it began, and when."""
    moved = _lost(result)
    if load.kinds[task] == "steady" and (result.attempts, result.errors, attempts[0].how) != (1, (), "end"):
        yield f"was not left to run to its end, though nobody touched its node: {result.errors}"
    if not moved and result.state in COUNTED and len(attempts) != result.attempts:
        yield f"began {len(attempts)} times, and its result tells of {result.attempts} attempts: {result.errors}"
    if moved or any(e.kind == "returned" for e in result.errors):
        return  # else the n-th start is the n-th attempt, and ended by itself
    backoff_s = load.tasks[task].retry.backoff_s
    for n, (one, next_one) in enumerate(pairwise(attempts)):
        least_s = 0.75 * backoff_s * 2**n
        if one.how and next_one.at - one.ended < least_s - CLOCK_S:
            yield f"was tried again after {next_one.at - one.ended:.3f} s, not {least_s:.3f}"


async def _events(load: Load, stored: dict[str, tuple[Result, float]], verdict: Verdict) -> None:
    """Each task's end is told once."""
    ends: Counter[str] = Counter()
    for message in await jetstream.read_all(load.fleet.bus, streams.EVENTS, subjects.event("task.*", "*")):
        event = msgspec.json.decode(message.data)
        if event["type"].removeprefix("fog.task.") in ENDS:
            ends[event["subject"]] += 1
    verdict.wrong += [f"{task}: its end was told {n} times" for task, n in ends.items() if n > 1]
    untold = set(stored) - set(ends)
    verdict.wrong += [f"{len(untold)} ends were never told: {sorted(untold)[:3]}"] if untold else []


def _tell(
    load: Load, stored: dict[str, tuple[Result, float]], attempts: dict[str, list[Attempt]], verdict: Verdict
) -> None:
    seen = verdict.seen
    seen["tasks"] = dict(Counter(load.kinds.values()))
    seen["maps"] = dict(load.maps)
    seen["results"] = len(stored)
    seen["attempts"] = sum(map(len, attempts.values()))
    judged = [task for task in load.kinds if task in stored and not _lost(stored[task][0])]
    seen["starts and attempts compared"] = sum(stored[t][0].state in COUNTED for t in judged)
    errors = [e.kind for result, _ in stored.values() for e in result.errors]
    seen["errors"] = dict(Counter(errors))
    seen["split"] = sum(bool(result.parts) for result, _ in stored.values())
    seen["retries later than asked, s"] = spread([late for task in load.kinds for late in _late(load, task, attempts)])
    seen["cancelled or expired ran on for, s"] = spread(list(_ran_on(load, stored)))


def _lost(result: Result) -> bool:
    """Its node died with it: what began there is not known to anybody."""
    return any(e.kind == "lost" for e in result.errors)


def _late(load: Load, task: str, attempts: dict[str, list[Attempt]]) -> Iterator[float]:
    if load.kinds[task] not in ("flaky", "hopeless"):
        return
    for n, (one, next_one) in enumerate(pairwise(attempts[task])):
        if one.how:
            yield next_one.at - one.ended - 1.25 * load.tasks[task].retry.backoff_s * 2**n


def _ran_on(load: Load, stored: dict[str, tuple[Result, float]]) -> Iterator[float]:
    for task, kind in load.kinds.items():
        mark = folder_of(load.fleet) / f"{task}.runs"
        if kind in ("cancelled", "overdue") and task in stored and mark.exists():
            yield max(0.0, mark.stat().st_mtime - stored[task][1])


def spread(values: list[float]) -> str:
    """Number, median, 99th hundredth and greatest."""
    if not values:
        return "none"
    values = sorted(values)
    at = [values[min(len(values) - 1, int(len(values) * share))] for share in (0.5, 0.99)]
    return f"{len(values)}: median {at[0]:.3g}, p99 {at[1]:.3g}, max {values[-1]:.3g}"
