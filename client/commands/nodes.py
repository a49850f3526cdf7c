"""`fog nodes`, `fog node-info`, `fog drain`, `fog sleep`, `fog wake`."""

from __future__ import annotations

import argparse

import msgspec

from client import show
from client.commands import common
from client.commands.policy import show_outbox
from client.fleet import Fleet
from schemas import limits
from schemas.api import NodeInfo, NodeRow
from schemas.enforced import in_words
from schemas.errors import FogError
from schemas.membership import NodeState
from schemas.transport import OutboxReport


def parser(name: str) -> argparse.ArgumentParser:
    """The parser of each."""
    if name == "nodes":
        made = common.parser(name, "The nodes, and what each has free.")
        made.add_argument(
            "--state", default="", choices=[state.value for state in NodeState], help="only those in this state"
        )
        made.add_argument("--label", default="", metavar="KEY=VALUE", help="only those with this label")
        return made
    if name == "drain":
        made = common.parser(name, "Give a node nothing new; what it has, it finishes or hands back by the deadline.")
        made.add_argument("words", nargs="*", metavar="ID")
        made.add_argument(
            "--deadline-s", type=float, default=60.0, metavar="S", help="until then it may finish (default 60)"
        )
        made.add_argument("--resume", action="store_true", help="take it back into service")
        return made
    if name == "sleep":
        made = common.parser(
            name, "Let a node be silent: it takes nothing new, hands back what waits, and is not called lost."
        )
        made.add_argument("words", nargs="*", metavar="ID")
        made.add_argument(
            "--for",
            dest="for_s",
            type=seconds,
            default=0.0,
            metavar="TIME",
            help="90s, 45m or 2h (default: its owner's)",
        )
        return made
    if name == "wake":
        made = common.parser(name, "Let a node that sleeps take work again. One that is suspended does not hear it.")
        made.add_argument("words", nargs="*", metavar="ID")
        return made
    made = common.parser(name, "One node: its score with its parts, and each signal with its source.")
    made.add_argument("words", nargs="*", metavar="ID")
    return made


def seconds(text: str) -> float:
    """``90s``, ``45m``, ``2h``, ``1d``, or a number of seconds."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}.get(text[-1:])
    try:
        found = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= limits.SLEEP_MAX_S:
        most = show.span(limits.SLEEP_MAX_S)
        raise argparse.ArgumentTypeError(f"{text!r} is no time up to {most}: write 90s, 45m or 2h")
    return found


async def run(name: str, args: argparse.Namespace) -> int:
    """Run one of them."""
    async with common.connected(args) as fleet:
        return await {"nodes": _nodes, "node-info": _info, "drain": _drain, "sleep": _sleep, "wake": _wake}[name](
            fleet, args
        )


async def _nodes(fleet: Fleet, args: argparse.Namespace) -> int:
    common.labels_of([args.label] if args.label else [])
    rows = await fleet.nodes(state=args.state, label=args.label)
    if args.json:
        show.print_json(rows)
        return 0
    show.print_table(
        (
            "NODE",
            "STATE",
            "TYPE",
            "CORES",
            "MEMORY MB",
            "HELD/SLOTS",
            "SCORE",
            "POWER",
            "HEAT",
            "NETWORK",
            "OUTBOX",
            "BEAT",
        ),
        [_row(row) for row in rows],
        empty="no such node" if args.state or args.label else "no node has joined yet: start one with `fog node`",
    )
    return 0


def _row(row: NodeRow) -> tuple[object, ...]:
    beat = show.span(row.last_beat_s) + " ago" if row.last_beat_s is not None else ""
    if row.state is NodeState.ASLEEP and row.due_s is not None:
        beat += f", back in {show.span(max(0.0, row.due_s))}"
    return (
        row.node, _state(row), (row.device_type or "unknown") + (" (played)" if row.pretending else ""),
        f"{row.cores_used:g}/{row.cores:g}", f"{row.memory_used_mb}/{row.memory_mb}", f"{row.held}/{row.slots}",
        f"{row.score:.2f}", power(row), row.thermal or "unknown", row.network or "unknown", row.outbox or "", beat,
    )  # fmt: skip


def _state(row: NodeRow) -> str:
    """Of a device that is its owner's at the moment, why."""
    resting = row.state is NodeState.DRAINING and row.harvest_state
    return row.harvest_state if resting else row.state.value


def power(row: NodeRow) -> str:
    """``mains``, ``60 %, charging``, ``25 %``, or that it is not known."""
    if row.mains:
        return "mains"
    level = "" if row.battery_percent is None else f"{row.battery_percent:g} %"
    charging = {True: "charging", False: "" if level else "not charging", None: ""}[row.charging]
    return ", ".join(part for part in (level, charging) if part) or "unknown"


def outbox(row: NodeRow) -> str:
    """What it could not deliver yet; empty for nothing."""
    if not row.outbox:
        return ""
    held = f", {row.outbox_held} of them held for a batch" if row.outbox_held else ""
    return f"{row.outbox} not delivered{held}, the oldest {show.ago(row.outbox_since)} old"


async def _drain(fleet: Fleet, args: argparse.Namespace) -> int:
    node = common.one_word(args, "node")
    done = await fleet.drain(node, deadline_s=args.deadline_s, resume=args.resume)
    note = done.note or ("back in service" if args.resume else f"draining, by {args.deadline_s:g} s from now")
    show.print_json({"node": node, "note": note}) if args.json else print(f"{node}: {note}")
    return 0


async def _sleep(fleet: Fleet, args: argparse.Namespace) -> int:
    node = common.one_word(args, "node")
    done = await fleet.sleep(node, args.for_s)
    note = done.note + (f", for {show.span(args.for_s)}" if args.for_s else "")
    show.print_json({"node": node, "note": note}) if args.json else print(f"{node}: {note}")
    return 0


async def _wake(fleet: Fleet, args: argparse.Namespace) -> int:
    node = common.one_word(args, "node")
    done = await fleet.wake(node)
    show.print_json({"node": node, "note": done.note}) if args.json else print(f"{node}: {done.note}")
    return 0


async def _info(fleet: Fleet, args: argparse.Namespace) -> int:
    info = await fleet.node(common.one_word(args, "node"))
    report = await _messages(fleet, info)
    if args.json:
        show.print_json({**show.plain(info), "messages": show.plain(report)})
        return 0
    row = info.row
    labels = " ".join(f"{key}={value}" for key, value in row.labels.items())
    show.print_fields([
        ("node", row.node), ("state", row.state.value), ("boot", row.boot), ("version", info.version), ("labels", labels),
        ("first seen", show.clock(info.first_seen)), ("power mode", info.power_mode), ("limits", _limits(info)),
        ("harvest", info.harvest_state),
        ("cores", f"{row.cores_used:g} of {row.cores:g} used"), ("memory", f"{row.memory_used_mb} of {row.memory_mb} MiB used"),
        ("held", f"{row.held} in {row.slots} slots"), ("speed", f"the same work takes {info.speed:.2f} times the fleet's mean"),
        ("attempts", f"{info.done} done, {info.failed} failed"), ("reserved for", info.reserved_for),
        ("outbox", outbox(row)), ("asleep", show.span(row.due_s) + " more" if row.state is NodeState.ASLEEP else ""),
        ("functions", ", ".join(offer.name for offer in info.functions)), ("kinds", ", ".join(info.kinds)),
    ])  # fmt: skip
    for reason in info.fit_reasons:
        print(f"note: {reason}")
    print("\nlimits in force")
    for what, how in in_words(info.enforced):
        print(f"  {what:<10} {how}")
    show_outbox(report)
    _show_score(info)
    _show_signals("what it is", info.capabilities)
    _show_signals("how it is now", info.state)
    for held in info.held:
        print(f"holds {held.task} ({held.what}, {held.priority}, {'running' if held.running else 'queued'})")
    return 0


async def _messages(fleet: Fleet, info: NodeInfo) -> OutboxReport | None:
    """What the node itself tells of its outbox now; None where it does not answer."""
    if info.row.state in (NodeState.LOST, NodeState.LATE):
        return None
    try:
        return (await fleet.advise(info.row.node)).outbox
    except FogError:
        return None


def _limits(info: NodeInfo) -> str:
    most = info.limits
    return f"{most.cpu_percent:g} % CPU, {most.memory_mb} MiB, {most.tasks} tasks at a time" if most else ""


def _show_score(info: NodeInfo) -> None:
    print(f"\nscore {info.score:.2f}")
    for part in info.parts:
        print(f"  {part.name:<10} {part.value:.2f} x {part.weight:.0%}  {'; '.join(part.reasons)}")


def _show_signals(title: str, signals: msgspec.Struct) -> None:
    """Every value with its source, every unknown with its reason."""
    values = msgspec.to_builtins(signals)
    sources, unknown = values.pop("sources", {}), values.pop("unknown", {})
    print(f"\n{title}")
    names = [name for name in signals.__struct_fields__ if name in values or name in unknown]
    rows = [(name, _value(values.get(name)), unknown.get(name) or sources.get(name, "")) for name in names]
    show.print_table(("SIGNAL", "VALUE", "SOURCE, OR WHY NOT KNOWN"), rows, empty="  nothing is known")


def _value(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
