"""`fog harvest`: the devices that work while nobody needs them, or one of them with all that stands against it."""

from __future__ import annotations

import argparse

from client import show
from client.commands import common
from client.commands.ledger import tokens
from client.fleet import Fleet
from schemas.errors import BadInput
from schemas.harvest import HarvestInfo, HarvestReport, HarvestRow


def parser(name: str) -> argparse.ArgumentParser:
    """The parser."""
    made = common.parser(
        name,
        "Devices that harvest: what each does, and has earned. With a node's id: all that stands against its work now.",
    )
    made.add_argument("words", nargs="*", metavar="NODE")
    return made


async def run(name: str, args: argparse.Namespace) -> int:
    """Run it."""
    words = [*args.words, *args.after]
    if len(words) > 1:
        raise BadInput("node", f"one is wanted, {len(words)} are given")
    async with common.connected(args) as fleet:
        return await (_device(fleet, words[0], args) if words else _network(fleet, args))


async def _network(fleet: Fleet, args: argparse.Namespace) -> int:
    rows, reply = await fleet.harvest.devices()
    if args.json:
        show.print_json({**show.plain(reply), "devices": show.plain(rows)})
        return 0
    show.print_table(
        ("NODE", "STATE", "SESSIONS", "USEFUL", "TOKENS", "SCORE"),
        [_row(row) for row in rows],
        empty="no device harvests: start one with `fog node --harvest`",
    )
    if rows:
        states = ", ".join(f"{count} {state}" for state, count in sorted(reply.states.items())) or "none is here"
        print(
            f"\n{reply.active} active; {reply.sessions} sessions, {hours(reply.paid_ms)} useful hours,"
            f" {tokens(reply.micro)} tokens\nstates: {states}\ntotal compute score: {reply.compute_score:.2f}"
        )
    return 0


def _row(row: HarvestRow) -> tuple[object, ...]:
    state = (row.state or "does not harvest") + (" (away)" if row.away and row.state else "")
    return row.node, state, row.sessions, show.span(row.paid_ms / 1000), tokens(row.micro), f"{row.score:.2f}"


def hours(ms: int) -> str:
    """Milliseconds as hours: ``1.25``."""
    return f"{ms / 3_600_000:.2f}"


async def _device(fleet: Fleet, node: str, args: argparse.Namespace) -> int:
    info = await fleet.harvest.device(node)
    if args.json:
        show.print_json(info)
        return 0
    row, report = info.row, info.report
    show.print_fields([
        ("node", row.node), ("state", row.state), ("sessions", row.sessions), ("useful hours", hours(row.paid_ms)),
        ("tokens", tokens(row.micro)), ("score", f"{row.score:.2f}"), *(_fields(report) if report else ()),
    ])  # fmt: skip
    _against(info)
    return 0


def _fields(report: HarvestReport) -> list[tuple[str, object]]:
    session = ""
    if report.session:
        suspended = ", suspended" if report.suspended else ""
        session = (
            f"{report.session} since {show.clock(report.session_since)}, {report.useful_s:.0f} s useful{suspended}"
        )
    return [
        ("window", f"{report.window} in {report.zone}" + (", headless" if report.headless else "")),
        ("session", session),
        ("could work from", show.clock(report.resume_at) if report.resume_at else ""),
        ("claims under way", report.claims or ""),
    ]


def _against(info: HarvestInfo) -> None:
    if info.problem:
        print(f"note: {info.problem}")
    for reason in info.report.reasons if info.report else ():
        until = f" (until {show.clock(reason.until)} at least)" if reason.until else ""
        print(f"against it: {reason.text}{until}")
    if info.report and any(reason.unknown for reason in info.report.reasons):
        print("what is unknown does not stand against a device that nobody uses: `fog node --harvest --headless`")
