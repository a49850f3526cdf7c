"""`fog clusters` and `fog cluster`."""

from __future__ import annotations

import argparse

from client import show
from client.commands import common
from client.fleet import Fleet
from schemas.cluster import ClusterRow, Relay
from schemas.decision import Verdict
from schemas.errors import BadInput

VERBS = ("show", "create", "pin", "grow", "relay", "dissolve")


def parser(name: str) -> argparse.ArgumentParser:
    """The parser of each."""
    if name == "clusters":
        made = common.parser(name, "The clusters: who leads them, who is in them, and why they belong together.")
        made.add_argument("--node", default="", metavar="ID", help="only those that this node is in")
        return made
    if name == "propose":
        made = common.parser(name, "Put something to the vote of a cluster; exit code 1 when it is not accepted.")
        made.add_argument("words", nargs="*", metavar="CLUSTER TEXT")
        made.add_argument("--timeout-s", type=float, default=10.0, metavar="S", help="for the votes (default 10)")
        return made
    made = common.parser(
        name,
        "show ID | create NAME NODE… | create NAME --selector KEY=VALUE | pin ID [--release] | grow ID NODE… | "
        "grow ID --by N | relay ID on|off|default | dissolve ID",
    )
    made.add_argument("words", nargs="*", metavar="VERB ID NODE…", help=f"one of {', '.join(VERBS)}, and of whom")
    made.add_argument(
        "--selector",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with create: all nodes that fit, kept up to date (gpu, type, arch, os, tier, or a label)",
    )
    made.add_argument("--release", action="store_true", help="with pin: give it back to the rule")
    made.add_argument("--by", type=int, default=0, metavar="N", help="with grow: the N most similar nodes")
    return made


async def run(name: str, args: argparse.Namespace) -> int:
    """Run one of them."""
    async with common.connected(args) as fleet:
        return await {"clusters": _clusters, "cluster": _cluster, "propose": _propose}[name](fleet, args)


async def _propose(fleet: Fleet, args: argparse.Namespace) -> int:
    words = [*args.words, *args.after]
    if len(words) < 2:
        raise BadInput("words", "name the cluster, and say what is proposed")
    decision = await fleet.cluster(words[0]).propose(" ".join(words[1:]), timeout_s=args.timeout_s)
    if args.json:
        show.print_json(decision)
    else:
        print(f"{decision.proposal}: {decision.verdict.value}, counted by {decision.leader or 'nobody'}")
        against = [f"{node} ({decision.reasons.get(node, '')})" for node in decision.no]
        show.print_fields(
            [("yes", ", ".join(decision.yes)), ("no", ", ".join(against)), ("silent", ", ".join(decision.silent))]
        )
    return 0 if decision.verdict is Verdict.ACCEPTED else common.TASK_FAILED


async def _clusters(fleet: Fleet, args: argparse.Namespace) -> int:
    rows = await fleet.clusters.list(node=args.node)
    if args.json:
        show.print_json(rows)
        return 0
    show.print_table(
        ("CLUSTER", "KIND", "LEADER", "TERM", "MIN/MAX", "BEATS", "MEMBERS", "WHY TOGETHER"),
        [_row(row) for row in rows],
        empty="there is no cluster: they form when nodes join",
    )
    return 0


def _row(row: ClusterRow) -> tuple[object, ...]:
    kind = row.kind.value + (", pinned" if row.pinned else "")
    balance = "" if row.balance is None else f"{row.balance:.2f}"
    members = ", ".join(member.node for member in row.members)
    return row.id, kind, row.leader or "none", row.term or "", balance, _beats(row), members, _why(row)


def _why(row: ClusterRow) -> str:
    """What they have in common, and how near they are to each other."""
    return ", ".join(part for part in (row.why, _apart(row)) if part)


def _apart(row: ClusterRow) -> str:
    if row.apart is None:
        return ""
    pairs = f"{row.apart.pairs} pair{'' if row.apart.pairs == 1 else 's'}"
    most = f", {row.apart.max_ms} at most" if row.apart.max_ms > row.apart.median_ms else ""
    return f"{row.apart.median_ms:g} ms to each other ({pairs} measured{most})"


async def _cluster(fleet: Fleet, args: argparse.Namespace) -> int:
    words = [*args.words, *args.after]
    verb, cluster, *nodes = words if len(words) >= 2 else ("show", *words, "")
    if verb not in VERBS or not cluster:
        raise BadInput("words", "say what to do, and with which cluster", hint=f"fog cluster {'|'.join(VERBS)} ID …")
    clusters = fleet.clusters
    if verb == "show":
        return _show(await clusters.info(cluster), args)
    if verb == "create":
        done = await clusters.create(cluster, nodes, common.labels_of(args.selector))
    elif verb == "pin":
        done = await clusters.pin(cluster, release=args.release)
    elif verb == "grow":
        done = await clusters.grow(cluster, nodes, by=args.by)
    elif verb == "relay":
        done = await clusters.relay(cluster, _relay(nodes))
    else:
        done = await clusters.dissolve(cluster)
    note = {"cluster": cluster, "note": done.note}
    show.print_json(note) if args.json else print(f"{cluster}: {done.note}")
    return 0


def _relay(words: list[str]) -> Relay:
    """How heartbeats are to go, by the one word that follows."""
    known = [relay.value for relay in Relay]
    if len(words) != 1 or words[0] not in known:
        raise BadInput("words", f"say one of {', '.join(known)}", hint="fog cluster relay ID on")
    return Relay(words[0])


def _beats(row: ClusterRow) -> str:
    """Which way its members' heartbeats go, and of how many the last one came that way."""
    relayed = sum(member.relayed for member in row.members)
    return f"{relayed} of {len(row.members)} relayed" if row.relay or relayed else "direct"


def _show(row: ClusterRow, args: argparse.Namespace) -> int:
    if args.json:
        show.print_json(row)
        return 0
    selector = ", ".join(f"{key}={value}" for key, value in row.selector.items())
    show.print_fields([
        ("cluster", row.id), ("kind", row.kind.value + (", pinned" if row.pinned else "")), ("selector", selector),
        ("leader", row.leader or "none"), ("term", row.term), ("why", row.why), ("apart", _apart(row) or "not measured yet"),
        ("heartbeats", f"{_beats(row)} (set to {row.relaying.value})"),
        ("min/max tasks", "" if row.balance is None else f"{row.balance:.2f}"),
    ])  # fmt: skip
    show.print_table(
        ("MEMBER", "STATE", "SCORE", "TASKS", "CACHE MB", "BEATS", "MS TO OTHERS"),
        [
            (
                m.node, m.state, f"{m.score:.2f}", m.tasks, m.cache_mb, "relayed" if m.relayed else "direct",
                "" if m.apart_ms is None else f"{m.apart_ms:g}",
            )
            for m in row.members
        ],
        empty="no members",
    )  # fmt: skip
    return 0
