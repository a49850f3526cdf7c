"""`fog submit`: one task, waited for unless detached."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from typing import Any, TextIO

from client import show
from client.commands import common
from client.fleet import Fleet
from client.handle import Handle
from client.values import describe
from schemas.errors import BadInput, FogError
from schemas.task import Result, ResultState

TELL_AFTER_S = 2.0  # a task that has not started by then: say why
TELL_AGAIN_S = 5.0


def parser(name: str) -> argparse.ArgumentParser:
    """``fog submit FUNCTION [ARG…]`` or ``fog submit --command -- ARGV…``."""
    made = common.parser(
        name, "Run a function on the fleet, or a command on a node whose owner allows it, and wait for it."
    )
    made.add_argument(
        "words", nargs="*", metavar="FUNCTION ARG", help="the function and its arguments: JSON, text or a file's path"
    )
    made.add_argument("--command", action="store_true", help="run the program that follows --, and exit with its code")
    made.add_argument("--detach", action="store_true", help="print the task's id and do not wait")
    common.task_arguments(made)
    return made


async def run(_name: str, args: argparse.Namespace) -> int:
    """Submit, and unless detached stream the output and show the result."""
    words = [*args.words, *args.after]
    if not words:
        raise BadInput("command" if args.command else "function", "nothing is given to run")
    async with common.connected(args) as fleet:
        handle = await _start(fleet, words, args)
        if args.detach:
            show.print_json({"task": handle.id}) if args.json else print(handle.id)
            return 0
        try:
            return await _wait(fleet, handle, args)
        except BaseException as error:
            if not handle.done:  # interrupted, or nobody reads us any more: nobody wants it any more
                fleet.cancel_soon(handle.id)
                if isinstance(error, asyncio.CancelledError):
                    print(f"fog submit: interrupted: cancelling task {handle.id}", file=sys.stderr)
            raise


async def _start(fleet: Fleet, words: list[str], args: argparse.Namespace) -> Handle:
    from client.arguments import from_text, parameter

    options = common.task_options(args)
    if args.command:
        return await fleet.start_command(words, **options)
    offer = await fleet.offer(words[0], needed=not args.wait_for_node)
    values = [from_text(word, parameter(offer, index)) for index, word in enumerate(words[1:])]
    return await fleet.start(words[0], *values, **options)


async def _wait(fleet: Fleet, handle: Handle, args: argparse.Namespace) -> int:
    telling = asyncio.create_task(_tell_waiting(fleet, handle))
    try:
        seen = await _stream(handle, args)
        result = await handle.end()
    finally:
        telling.cancel()
    if args.json:
        show.print_json(await as_document(fleet, result))
    else:
        await _show(fleet, result, seen, args)
    if result.exit_code is not None:
        return result.exit_code if result.exit_code >= 0 else 128 - result.exit_code
    return 0 if result.state is ResultState.SUCCEEDED else common.TASK_FAILED


def _targets(args: argparse.Namespace) -> dict[str, TextIO]:
    """Where each stream of a task goes. Of a function, stdout is left to its value: that may go into a file or a pipe."""
    return {"stdout": sys.stdout if args.command else sys.stderr, "stderr": sys.stderr}


async def _stream(handle: Handle, args: argparse.Namespace) -> dict[str, str]:
    """Pass output on as it comes, progress to a terminal only; returns what was passed on, by stream."""
    seen, targets = {"stdout": "", "stderr": ""}, _targets(args)
    async for piece in handle.output():
        if args.json:
            continue
        if piece.stream in seen:
            seen[piece.stream] = (seen[piece.stream] + piece.text)[-1_000_000:]
            targets[piece.stream].write(piece.text)
            targets[piece.stream].flush()
        elif piece.progress is not None and sys.stderr.isatty():
            print(f"fog: {piece.progress:.0%} {piece.text}".rstrip(), file=sys.stderr)
    return seen


async def _show(fleet: Fleet, result: Result, seen: dict[str, str], args: argparse.Namespace) -> None:
    # Output travels unconfirmed: what did not come that way is in the result.
    for stream, target in _targets(args).items():
        kept, passed = getattr(result, stream), seen[stream]
        if kept and not passed.endswith(kept):
            target.write(kept[len(passed) :] if kept.startswith(passed) else kept)
            target.flush()
    if result.state is ResultState.SUCCEEDED:
        show.print_value(await fleet.result_value(result))
    elif result.exit_code is None:
        print(f"fog submit: task {result.task} {describe(result)}", file=sys.stderr)
        if result.dead_letter:
            print(
                f"  it is kept: `fog dead {result.task}` shows every attempt, --retry submits it again", file=sys.stderr
            )


async def _tell_waiting(fleet: Fleet, handle: Handle) -> None:
    """Say on stderr why a task has not started, whenever that changes."""
    told = ""
    await asyncio.sleep(TELL_AFTER_S)
    while True:
        with contextlib.suppress(FogError):
            info = await fleet.task(handle.id)
            reason = info.row.reason or info.why.text
            if not info.row.node and reason and reason != told:
                print(f"fog: {info.row.state}: {reason}", file=sys.stderr)
                told = reason
        await asyncio.sleep(TELL_AGAIN_S)


async def as_document(fleet: Fleet, result: Result) -> dict[str, Any]:
    """A result for scripts: its fields, with the value in place (``value_base64`` for bytes)."""
    found: dict[str, Any] = {"task": result.task, "state": result.state.value}
    if result.state is ResultState.SUCCEEDED and result.exit_code is None and not result.parts:
        value = await fleet.result_value(result)
        found.update({"value_base64": value} if isinstance(value, bytes) else {"value": value})
    if result.exit_code is not None:
        found.update(exit_code=result.exit_code, stdout=result.stdout, stderr=result.stderr)
    found.update(
        node=result.node, attempts=result.attempts, started_at=result.started_at, duration_ms=result.duration_ms,
        dead_letter=result.dead_letter,
    )  # fmt: skip
    if result.reason:
        found["reason"] = result.reason
    found["errors"] = show.plain(result.errors)
    return found
