"""`fog policy` and `fog advise`: what an operator wants of a node, and what a device should do now."""

from __future__ import annotations

import argparse
import time

import msgspec

from client import show
from client.commands import common
from client.fleet import Fleet
from schemas import transport
from schemas.advice import QosPolicy, told
from schemas.errors import BadInput
from schemas.policy import PolicyReply
from schemas.transport import OutboxReport

VERBS = ("set", "show", "reset")


def parser(name: str) -> argparse.ArgumentParser:
    """The parser of each."""
    if name == "advise":
        made = common.parser(name, "What a device should do now, and why: this one, or a running node.")
        made.add_argument("words", nargs="*", metavar="NODE", help="a running node (default: this device)")
        made.add_argument("--device", metavar="FIELD=VALUE", action="append", default=[], help="say what a signal is")
        return made
    made = common.parser(name, f"An operator's policy for a node: {', '.join(QosPolicy.__struct_fields__)}.")
    made.usage = "fog policy set NODE KEY=VALUE… | show NODE | reset NODE"
    made.add_argument("words", nargs="*", metavar="VERB NODE")
    return made


async def run(name: str, args: argparse.Namespace) -> int:
    """Run one of them."""
    words = [*args.words, *args.after]
    if name == "advise" and not words:
        return _advise_here(args)
    async with common.connected(args) as fleet:
        return await (_advise(fleet, args) if name == "advise" else _policy(fleet, args, words))


def _advise_here(args: argparse.Namespace) -> int:
    from client.cli import become

    said = [word for value in args.device for word in ("--device", value)]
    home = ["--home", str(args.home)] if args.home else []
    return become("node", ["--advise", *(["--json"] if args.json else []), *home, *said])


async def _advise(fleet: Fleet, args: argparse.Namespace) -> int:
    reply = await fleet.advise(common.one_word(args, "node"))
    if args.json:
        document = msgspec.to_builtins(reply.advice)
        del document["carried"]
        show.print_json({"node": reply.node, **document, "outbox": msgspec.to_builtins(reply.outbox)})
    else:
        print(told(reply.advice))
        show_outbox(reply.outbox)
    return 0


def show_outbox(report: OutboxReport | None) -> None:
    """What a running node keeps for the broker, and which way its messages went last."""
    if report is None:
        return
    print("\nmessages")
    for what, how in transport.told(report, time.time()):
        print(f"  {what:<13} {how}")


async def _policy(fleet: Fleet, args: argparse.Namespace, words: list[str]) -> int:
    if len(words) < 2 or words[0] not in VERBS:
        raise BadInput("policy", "a verb and a node are wanted", hint="fog policy set NODE max_cpu_percent=30")
    verb, node, *pairs = words
    if bool(pairs) is not (verb == "set"):
        raise BadInput("policy", f"{verb} takes {'at least one KEY=VALUE' if verb == 'set' else 'a node only'}")
    if verb == "show":
        reply = await fleet.policy(node)
    else:
        reply = await fleet.set_policy(node, _parsed(pairs), reset=verb == "reset")
    show.print_json(reply) if args.json else _show(reply)
    return 0


def _parsed(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadInput(
                "policy", f"{pair!r} is not KEY=VALUE", hint=f"keys: {', '.join(QosPolicy.__struct_fields__)}"
            )
        found[key] = value
    return found


def _show(reply: PolicyReply) -> None:
    for key, value in reply.policy.items():
        print(f"{key}={value}")
    if not reply.policy:
        print(f"{reply.node} has no policy: its kind, its battery and its heat decide")
    if not reply.in_force:
        print(f"note: {reply.node} does not answer; it holds to this as soon as it is back")
    if reply.advice is not None:
        print(f"\n{told(reply.advice)}")
