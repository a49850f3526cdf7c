"""`fog task`, `fog tasks`, `fog cancel`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from client import show
from client.commands import common
from client.fleet import Fleet
from schemas.api import TaskInfo, Why
from schemas.errors import BadInput, Refused
from schemas.task import AttemptError, Result

UNKNOWN = "unknown-task"


def parser(name: str) -> argparse.ArgumentParser:
    """The parser of each."""
    if name == "tasks":
        made = common.parser(name, "The tasks that have no result yet: most urgent first, then oldest.")
        for option, what in (("state", "in this state"), ("priority", "of this priority"), ("submitter", "of this submitter"),
                             ("node", "on this node"), ("job", "of this map job")):  # fmt: skip
            made.add_argument(f"--{option}", default="", help=f"only those {what}")
        made.add_argument("--limit", type=int, metavar="N", help="only the first N")
        return made
    if name == "cancel":
        made = common.parser(name, "End tasks, queued or running.")
        made.add_argument("words", nargs="+", metavar="ID")
        made.add_argument("--reason", default="", help="kept with the result")
        return made
    made = common.parser(name, "One task: its state, its attempts, why it is on its node or why on none.")
    made.add_argument("words", nargs="*", metavar="ID")
    return made


async def run(name: str, args: argparse.Namespace) -> int:
    """Run one of them."""
    async with common.connected(args) as fleet:
        return await {"task": _task, "tasks": _tasks, "cancel": _cancel}[name](fleet, args)


async def _tasks(fleet: Fleet, args: argparse.Namespace) -> int:
    if args.limit is not None and args.limit < 1:
        raise BadInput("limit", "must be at least 1")
    filters = {name: getattr(args, name) for name in ("state", "priority", "submitter", "node", "job")}
    rows = await fleet.tasks(limit=args.limit, **filters)
    if args.json:
        show.print_json(rows)
        return 0
    show.print_table(
        ("TASK", "STATE", "PRIORITY", "WHAT", "NODE", "TRIES", "AGE", "REASON"),
        [
            (r.task, r.state, r.priority, r.what, r.node, r.attempts or "", show.ago(r.submitted_at), r.reason)
            for r in rows
        ],
        empty="no such task" if any(filters.values()) else "no task is queued, waiting or running",
    )
    return 0


async def _cancel(fleet: Fleet, args: argparse.Namespace) -> int:
    """Cancel each; what cannot be cancelled is told, and the others are cancelled all the same."""
    said, code = [], 0
    for task in [*args.words, *args.after]:
        try:
            note, error = (await fleet.cancel(task, args.reason)).note or "cancelled", None
        except (Refused, BadInput) as problem:
            note, error, code = "", problem.message, common.OWN_FAILURE
        said.append({"task": task, "note": note, "error": error})
        if error is not None:
            print(f"fog cancel: {error}", file=sys.stderr)
        elif not args.json:
            print(f"{task}: {note}")
    if args.json:
        show.print_json(said)
    return code


async def _task(fleet: Fleet, args: argparse.Namespace) -> int:
    task = common.one_word(args, "task")
    result = await fleet.stored_result(task)
    info = None
    try:
        info = await fleet.task(task)
    except Refused as error:
        if result is None or error.code != UNKNOWN:
            raise
    if args.json:
        show.print_json(await _document(fleet, task, info, result))
    else:
        await _show(fleet, task, info, result)
    return 0


async def _document(fleet: Fleet, task: str, info: TaskInfo | None, result: Result | None) -> dict[str, Any]:
    from client.commands.submit import as_document

    found: dict[str, Any] = {"task": task}
    if info is not None:
        found |= show.plain(info.row)
        found |= {name: show.plain(getattr(info, name)) for name in info.__struct_fields__ if name != "row"}
    ended = await as_document(fleet, result) if result is not None else None
    if ended is not None:
        found |= {
            "state": ended["state"],
            "node": ended["node"],
            "attempts": ended["attempts"],
            "errors": ended["errors"],
        }
    return {**found, "result": ended}


async def _show(fleet: Fleet, task: str, info: TaskInfo | None, result: Result | None) -> None:
    row = info.row if info is not None else None
    fields: list[tuple[str, object]] = [("task", task)]
    if row is not None:
        fields += [
            ("what", f"{row.kind} {row.what}".strip()),
            ("submitter", row.submitter),
            ("priority", row.priority),
            ("job", row.job),
        ]
    if result is not None:
        fields += _how_it_ended(result)
    elif row is not None and info is not None:
        running = {True: " (running)", False: " (queued there)", None: ""}[info.running]
        fields += [("state", f"{row.state}{running} for {show.ago(row.since)}"), ("node", row.node), ("attempts", row.attempts),
                   ("result", _when_told(info)),
                   ("reason", row.reason), ("retries used", f"{info.retries_used} of {info.retry_limit}"),
                   ("not before", show.clock(info.not_before)), ("deadline", show.clock(info.deadline_at or 0))]  # fmt: skip
    show.print_fields(fields)
    if info is not None and result is None:
        _show_why(info.why)
    show_errors(result.errors if result is not None else info.errors if info is not None else ())


def _when_told(info: TaskInfo) -> str:
    """Of a task on a device that sends its results in batches: it may have ended already."""
    if not info.told_by:
        return ""
    return f"if it has ended, its device holds the result for its next heartbeat, at {show.clock(info.told_by)} at the latest"


def _how_it_ended(result: Result) -> list[tuple[str, object]]:
    return [
        ("state", result.state.value),
        ("node", result.node),
        ("attempts", result.attempts),
        ("reason", result.reason),
        ("started", show.clock(result.started_at)),
        ("took", show.span(result.duration_ms / 1000 or None)),
        ("exit code", result.exit_code),
        ("parts", ", ".join(result.parts)),
        ("dead letter", f"fog dead {result.task}" if result.dead_letter else ""),
    ]


def _show_why(why: Why) -> None:
    if why.text:
        print(f"\nwhy: {why.text}")
    for candidate in why.candidates:
        factors = " x ".join(f"{name} {value:.2f}" for name, value in candidate.factors.items())
        print(f"  {'→' if candidate.chosen else ' '} {candidate.node:<20} {candidate.score:.3f}  {factors}")
    for name, count in why.failing.items():
        print(f"  {count} of {why.nodes} nodes: {name}")
    for against in why.against:
        print(f"    {against.node}: {'; '.join(against.reasons)}")


def show_errors(errors: tuple[AttemptError, ...]) -> None:
    """Every attempt that did not succeed, with all that it said."""
    for error in errors:
        print(f"\nattempt {error.attempt} on {error.node or 'no node'}, {show.clock(error.at)}: {error.kind}")
        print("  " + error.error.rstrip().replace("\n", "\n  "))
