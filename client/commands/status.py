"""`fog status` and `fog functions`."""

from __future__ import annotations

import argparse

from client import show
from client.commands import common
from client.fleet import Fleet
from schemas.api import FunctionRow
from schemas.device import FunctionOffer


def parser(name: str) -> argparse.ArgumentParser:
    """The parser of each."""
    return common.parser(name, "The fleet at a glance." if name == "status" else "The functions that the fleet offers.")


async def run(name: str, args: argparse.Namespace) -> int:
    """Run one of them."""
    async with common.connected(args) as fleet:
        return await (_status if name == "status" else _functions)(fleet, args)


async def _status(fleet: Fleet, args: argparse.Namespace) -> int:
    status = await fleet.status()
    if args.json:
        show.print_json(status)
        return 0
    show.print_fields([
        ("coordinator", f"{status.coordinator}, term {status.term}, up {show.span(status.up_s)}"), ("version", status.version),
        ("broker", status.broker), ("nodes", _counts(status.nodes) or "none"), ("tasks", _counts(status.tasks) or "none"),
        ("pending", _counts(status.pending)), ("slots", f"{status.slots_used} of {status.slots} used"),
        ("cores", f"{status.cores_used:g} of {status.cores:g} used"), ("so far", _counts(status.counts)),
        ("dead letters", f"{status.dead_letters} (see fog dead)" if status.dead_letters else ""),
        ("min/max tasks of a node", "" if status.balance is None else f"{status.balance:.2f}"),
        ("bad messages", _counts(status.bad)),
    ])  # fmt: skip
    for note in status.notes:
        print(f"note: {note}")
    return 0


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


async def _functions(fleet: Fleet, args: argparse.Namespace) -> int:
    rows = await fleet.functions()
    if args.json:
        show.print_json(rows)
        return 0
    show.print_table(
        ("FUNCTION", "NODES", "SLOTS", "TAKES", "WHAT IT DOES"),
        [_row(row) for row in rows],
        empty="nothing is offered: no node has joined yet",
    )
    return 0


def _row(row: FunctionRow) -> tuple[object, ...]:
    mean = show.span(None if row.mean_ms is None else row.mean_ms / 1000)
    return signature(row.offer), row.nodes, row.slots, mean, row.offer.doc.split("\n")[0]


def signature(offer: FunctionOffer) -> str:
    """``sha256(content: bytes) → str``."""
    parts = [f"{p.name}: {p.annotation or p.type}" + (" = …" if p.optional else "") for p in offer.parameters]
    returns = f" → {offer.returns}" if offer.returns else ""
    return f"{offer.name}({', '.join(parts)}{', …' if offer.variadic else ''}){returns}"
