"""`fog doctor`: looks at everything, and says what is wrong and what to do. Works also when nothing answers."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from pathlib import Path

from client import show
from client.cli import version
from client.commands import common
from client.doctor.examine import examine, lasting
from client.doctor.facts import Facts, NoConnection
from client.doctor.finding import Finding, Level
from client.doctor.folder import read_folder
from client.doctor.reading import read_all
from schemas.errors import FogError
from schemas.home import Home, resolve

TROUBLE = 1
AGAIN_S = 2.0  # until the second look, which is taken only when the first found something


def parser(name: str) -> argparse.ArgumentParser:
    """``fog doctor``."""
    made = common.parser(
        name,
        "Look at broker, streams, consumers, leases, clocks, versions, nodes and tasks, and say what to do."
        " Ends with 0 when there is no problem, else with 1.",
    )
    made.add_argument("--all", action="store_true", help="show also what is in order")
    return made


async def run(_name: str, args: argparse.Namespace) -> int:
    """Look, look again at what seemed wrong, and tell. BadInput for options that name nothing."""
    facts = await _look(args)
    findings = examine(facts)
    if facts.no_connection is None and any(found.level is not Level.OK for found in findings):
        await asyncio.sleep(AGAIN_S)
        findings = lasting(findings, examine(await _look(args)))
    if args.json:
        show.print_json(findings)
    else:
        _show(findings, args.all)
    return TROUBLE if any(found.level is Level.PROBLEM for found in findings) else 0


async def _look(args: argparse.Namespace) -> Facts:
    chosen = not (args.nats or args.creds)
    facts = Facts(version())
    home: Path | None = args.home
    facts.folder = await asyncio.to_thread(read_folder, Home.find(home), chosen=chosen, now=time.time())
    try:
        target = resolve(args.nats, args.creds, home)
    except FogError as error:
        if not chosen:
            raise
        facts.no_connection = NoConnection(error.message, error.hint)
        return facts
    await read_all(facts, target)
    return facts


def _show(findings: list[Finding], everything: bool) -> None:
    colours = {Level.OK: "32", Level.WARNING: "33", Level.PROBLEM: "31"}
    for found in findings:
        if found.level is Level.OK and not everything:
            continue
        word = f"{found.level.value:<8}"
        print(
            f"\x1b[{colours[found.level]}m{word}\x1b[0m" if sys.stdout.isatty() else word,
            f"{found.check}: {found.seen}",
        )
        if found.advice:
            print(f"         → {found.advice}")
    counts = Counter(found.level for found in findings)
    print(
        f"{_number(counts[Level.PROBLEM], 'problem')}, {_number(counts[Level.WARNING], 'warning')}, {counts[Level.OK]} ok"
    )


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count or 'no'} {what}s"
