"""`fog dead`: the tasks that were given up, what each of their attempts said, and what becomes of them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from client import show
from client.commands import common
from client.commands.tasks import show_errors
from client.dead import Letter
from client.fleet import Fleet
from schemas.errors import BadInput, FogError

CALL_SHOWN = 1_000  # characters of a call that are shown


def parser(name: str) -> argparse.ArgumentParser:
    """``fog dead [ID…]``."""
    made = common.parser(
        name, "The tasks that were given up after their attempts, oldest first; with an ID all that is known of one."
    )
    made.add_argument("words", nargs="*", metavar="ID")
    what = made.add_mutually_exclusive_group()
    what.add_argument(
        "--retry", action="store_true", help="submit these again, each as a new task, and drop their letters"
    )
    what.add_argument("--drop", action="store_true", help="remove the letters of these")
    made.add_argument("--all", action="store_true", help="with --retry or --drop: all that are listed")
    made.add_argument("--submitter", default="", help="list only those of this submitter")
    made.add_argument("--limit", type=int, metavar="N", help="list only the first N")
    return made


async def run(_name: str, args: argparse.Namespace) -> int:
    """List, show, submit again or remove."""
    tasks = [*args.words, *args.after]
    act = args.retry or args.drop
    if args.all and (tasks or not act):
        raise BadInput("all", "goes with --retry or --drop, and without an ID")
    if act and not tasks and not args.all:
        raise BadInput("task", "say which: an ID, or --all")
    if tasks and (args.submitter or args.limit is not None):
        raise BadInput("task", "an ID goes without --submitter and --limit")
    if args.limit is not None and args.limit < 1:
        raise BadInput("limit", "must be at least 1")
    async with common.connected(args) as fleet:
        if act:
            named = tasks or [row.task for row in await _rows(fleet, args)]
            return await _act(fleet, named, args)
        if not tasks:
            return await _list(fleet, args)
        return await _show(fleet, common.one_word(args, "task"), args)


async def _rows(fleet: Fleet, args: argparse.Namespace) -> Any:
    return await fleet.dead(submitter=args.submitter, limit=args.limit)


async def _list(fleet: Fleet, args: argparse.Namespace) -> int:
    rows = await _rows(fleet, args)
    if args.json:
        show.print_json(rows)
        return 0
    show.print_table(
        ("TASK", "SUBMITTER", "WHAT", "TRIES", "GIVEN UP", "REASON"),
        [(r.task, r.submitter, r.what, r.attempts or "", show.clock(r.at), " ".join(r.reason.split())) for r in rows],
        empty="no task was given up",
    )
    return 0


async def _act(fleet: Fleet, tasks: list[str], args: argparse.Namespace) -> int:
    """Each of them; what cannot be done is told, and the others are done all the same."""
    said, code = [], 0
    for task in tasks:
        new, error = "", None
        try:
            if args.retry:
                new = await fleet.resubmit(task)
            else:
                await fleet.drop_letter(task)
        except FogError as problem:
            error, code = problem.message, common.OWN_FAILURE
            print(f"fog dead: {problem}", file=sys.stderr)
        said.append({"task": task, "resubmitted_as": new, "dropped": error is None, "error": error})
        if error is None and not args.json:
            print(f"{task}: submitted again as {new}" if new else f"{task}: dropped")
    if args.json:
        show.print_json(said)
    elif not tasks:
        print("no task was given up")
    return code


async def _show(fleet: Fleet, task: str, args: argparse.Namespace) -> int:
    letter = await fleet.dead_letter(task)
    if args.json:
        show.print_json(document(letter))
        return 0
    row, result, submitted = letter.row, letter.letter.result, letter.task
    show.print_fields([
        ("task", row.task), ("what", f"{row.kind} {row.what}".strip()), ("call", _call(letter)),
        ("submitter", row.submitter), ("priority", row.priority), ("job", row.job), ("given up", show.clock(row.at)),
        ("reason", row.reason), ("attempts", row.attempts), ("retries", submitted.retry.limit), ("last node", row.node),
        ("started", show.clock(result.started_at)), ("took", show.span(result.duration_ms / 1000 or None)),
        ("exit code", result.exit_code), ("resubmitted from", row.resubmitted_from),
        ("resubmitted as", row.resubmitted_as),
    ])  # fmt: skip
    show_errors(result.errors)
    print(f"\nto submit it again: fog dead {task} --retry")
    return 0


def _call(letter: Letter) -> str:
    """What it runs, as it was submitted."""
    run = msgspec.json.decode(letter.letter.task)["run"]
    text = show.one_line({key: value for key, value in run.items() if key not in ("kind", "name")})
    return text if len(text) <= CALL_SHOWN else text[:CALL_SHOWN] + " …"


def document(letter: Letter) -> dict[str, Any]:
    """All of a letter; `submitted` is the task as it came."""
    result = letter.letter.result
    names = ("errors", "started_at", "duration_ms", "exit_code", "stdout", "stderr")
    return {
        **show.plain(letter.row),
        **{name: show.plain(getattr(result, name)) for name in names},
        "submitted": msgspec.json.decode(letter.letter.task),
    }
