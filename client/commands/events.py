"""`fog events`: what happened, as it is kept in the broker, and what happens."""

from __future__ import annotations

import argparse
from contextlib import aclosing
from typing import Any

import msgspec

from client import show
from client.commands import common
from client.watch import since
from schemas.errors import BadInput
from schemas.event import CloudEvent

LATELY = "1h"  # what is shown when neither --since nor --follow says more


def parser(name: str) -> argparse.ArgumentParser:
    """``fog events [KIND]``."""
    made = common.parser(
        name, "What happened (the last hour unless --since), oldest first; --json prints one CloudEvent a line."
    )
    made.add_argument(
        "words", nargs="*", metavar="KIND", help="only these: a type such as task.failed, or its first word"
    )
    made.add_argument("--follow", action="store_true", help="go on with what happens from now")
    made.add_argument("--since", metavar="TIME", help="from then on: 30s, 10m, 2h, 7d (ago), or 2026-05-01T12:00:00Z")
    made.add_argument(
        "--after",
        dest="after_seq",
        type=int,
        metavar="SEQ",
        help="what came after that sequence, as the error of a slow reader names it",
    )
    return made


async def run(_name: str, args: argparse.Namespace) -> int:
    """Print events until the last one, or for ever."""
    kinds = [*args.words, *args.after]
    if len(kinds) > 1:
        raise BadInput("kind", "only one is taken")
    lately = None if args.follow or args.after_seq is not None else since(LATELY)
    begin = since(args.since) if args.since else lately
    async with common.connected(args) as fleet:
        events = fleet.events(follow=args.follow, since=begin, after=args.after_seq, kind=kinds[0] if kinds else "")
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                if args.json:
                    show.print_json_line(event)
                else:
                    print(line(event), flush=True)
    return 0


def line(event: CloudEvent) -> str:
    """One event for a person: when, what, about whom, and what else is known."""
    data: Any = msgspec.to_builtins(event.data) if not isinstance(event.data, dict) else event.data
    told = " ".join(
        f"{name}={_short(value)}" for name, value in data.items() if name not in _KNOWN and _says_something(value)
    )
    return f"{event.time}  {event.type.removeprefix('fog.'):<20}  {event.subject}  {told}".rstrip()


_KNOWN = ("task", "capabilities", "errors", "functions")


def _says_something(value: Any) -> bool:
    return value not in (None, "", 0, 0.0, {}, [])


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    text = (
        show.one_line(value)
        if isinstance(value, (dict, list, tuple))
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )
    text = " ".join(text.split())
    return f'"{text}"' if " " in text else text
