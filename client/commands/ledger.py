"""`fog ledger`: balances, `verify`, `export`, `correct`."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import AsyncIterator
from decimal import Decimal, InvalidOperation
from pathlib import Path

from client import show
from client.audit import Verdict
from client.commands import common
from client.fleet import Fleet
from client.ledger import Line, exported, imported, verify
from schemas.errors import BadInput
from schemas.ledger import MICRO, AccountRow, LedgerReply

DAMAGED = 1
_HEAD = re.compile(r"(\d+):([0-9a-f]{64})").fullmatch


def parser(name: str) -> argparse.ArgumentParser:
    """The parser."""
    made = common.parser(name, "Tokens that devices earned. Without a word: every account; with a node's id: that one.")
    made.add_argument(
        "words", nargs="*", metavar="WORD",
        help="NODE; verify (recompute every balance from the events); export [FILE]; correct NODE TOKENS",
    )  # fmt: skip
    made.add_argument(
        "--file", type=Path, metavar="FILE", help="verify this exported copy instead of the fleet's streams"
    )
    made.add_argument("--head", metavar="N:DIGEST", help="verify also that entry N is the one that was noted then")
    made.add_argument("--reason", default="", help="why a correction is booked")
    made.add_argument("--id", default="", help="the correction's id: under the same one it is booked once")
    return made


async def run(name: str, args: argparse.Namespace) -> int:
    """Run it."""
    words = [*args.words, *args.after]
    verb = words[0] if words else ""
    if verb == "verify" and len(words) == 1:
        return await _verify(args)
    if verb == "export" and len(words) <= 2:
        return await _export(args, Path(words[1]) if len(words) == 2 else None)
    if verb == "correct" and len(words) == 3:
        return await _correct(args, words[1], words[2])
    if len(words) > 1 or verb == "correct":
        raise BadInput("words", f"{' '.join(words):.80} is not understood", hint="`fog ledger --help` tells what is")
    async with common.connected(args) as fleet:
        return await _balances(fleet, verb, args)


def tokens(micro: int) -> str:
    """Micro-tokens as tokens, exactly: ``12.345678``."""
    return f"{Decimal(micro) / MICRO:f}"


async def _balances(fleet: Fleet, node: str, args: argparse.Namespace) -> int:
    if node:
        row, reply = await fleet.ledger.account(node)
        rows = [row]
    else:
        rows, reply = await fleet.ledger.accounts()
    if args.json:
        show.print_json(row if node else {**show.plain(reply), "accounts": show.plain(rows)})
        return 0
    columns = ("NODE", "TOKENS", "PAID", "CLAIMED", "SEEN", "SESSIONS", "CLAIMS", "REFUSED")
    show.print_table(columns, [_row(one) for one in rows], empty="nobody has earned anything yet")
    print(_sums(reply))
    return 0


def _row(row: AccountRow) -> tuple[object, ...]:
    spans = (show.span(ms / 1000) for ms in (row.paid_ms, row.claimed_ms, row.observed_ms))
    return row.node, tokens(row.micro), *spans, row.sessions, row.claims, row.refused or ""


def _sums(reply: LedgerReply) -> str:
    waiting = f"; {reply.waiting} claims wait to be booked" if reply.waiting else ""
    return (
        f"\n{tokens(reply.micro)} tokens for {show.span(reply.paid_ms / 1000)}, {tokens(reply.rate)} an hour{waiting}\n"
        f"the book's head: {reply.entries}:{reply.head}"
    )


async def _verify(args: argparse.Namespace) -> int:
    head = None
    if args.head:
        found = _HEAD(args.head)
        if not found:
            raise BadInput("head", f"{args.head:.80} is not N:DIGEST", hint="`fog ledger` prints it")
        head = int(found[1]), found[2]
    if args.file is not None:
        try:
            verdict = verify(imported(await asyncio.to_thread(args.file.read_bytes)), head)
        except OSError as error:
            raise BadInput("file", f"{args.file}: {error.strerror}") from None
    else:
        async with common.connected(args) as fleet:
            verdict = await fleet.ledger.verify(head)
    if args.json:
        show.print_json(verdict)
    else:
        _tell(verdict)
    return DAMAGED if verdict.problems else 0


def _tell(verdict: Verdict) -> None:
    for problem in verdict.problems:
        print(f"DAMAGED: {problem}")
    rows = [(node, tokens(micro), show.span(verdict.paid_ms[node] / 1000)) for node, micro in verdict.micro.items()]
    show.print_table(("NODE", "TOKENS", "PAID"), rows, empty="no account")
    unbooked = f", {verdict.unbooked} more wait to be booked" if verdict.unbooked else ""
    what = "do not add up" if verdict.problems else "add up"
    print(f"\n{verdict.entries} entries with {verdict.claims} claims {what}{unbooked}")
    print(f"the book's head: {verdict.entries}:{verdict.head}")


async def _export(args: argparse.Namespace, path: Path | None) -> int:
    async with common.connected(args) as fleet:
        if path is None:
            async for line in fleet.ledger.events():
                sys.stdout.buffer.write(exported(line))
            sys.stdout.buffer.flush()
            return 0
        try:
            count = await _write(path, fleet.ledger.events())
        except OSError as error:
            raise BadInput("file", f"{path}: {error.strerror}") from None
    print(f"{count} events are in {path}; `fog ledger verify --file {path}` checks them")
    return 0


async def _write(path: Path, lines: AsyncIterator[Line]) -> int:
    count = 0
    with path.open("wb") as file:
        async for line in lines:
            file.write(exported(line))
            count += 1
    return count


async def _correct(args: argparse.Namespace, node: str, amount: str) -> int:
    try:
        micro = Decimal(amount) * MICRO
    except InvalidOperation:
        raise BadInput("tokens", f"{amount!r:.40} is not a number of tokens") from None
    if not micro.is_finite() or micro != micro.to_integral_value() or not micro:
        raise BadInput("tokens", f"{amount!r:.40} is no whole number of micro-tokens, other than none")
    async with common.connected(args) as fleet:
        done = await fleet.ledger.correct(node, int(micro), args.reason, args.id)
    if args.json:
        show.print_json({"node": node, "micro": int(micro), "note": done.note})
    else:
        print(f"{node}: {tokens(int(micro))} tokens {done.note}")
    return 0
