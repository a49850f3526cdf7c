"""`fog rollout`: bring a version of an app to many devices, watch it, stop it, have it go back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from client import app_file, show
from client.artifacts import Progress
from client.commands import common
from client.commands import rollout_show as shown
from client.fleet import Fleet
from client.rollouts import settled, went_well
from schemas.errors import BadInput, FogError
from schemas.rollout_api import RolloutRow
from schemas.rollout_state import RolloutPhase

ROLLOUT_FAILED = 1

Verb = Callable[[Fleet, str, argparse.Namespace], Awaitable[int]]


def parser(name: str) -> argparse.ArgumentParser:
    """The parser."""
    made = common.parser(
        name,
        "plan APP.toml | apply APP.toml [--watch] | status [ROLLOUT] [--watch] | pause | resume | promote | abort | "
        "retry-failed ROLLOUT | rollback ROLLOUT | rollback APP --to VERSION | history [APP] | gc | key. "
        "ROLLOUT is an id, or an app for its latest. With --watch it ends with 1 when the rollout failed.",
    )
    made.add_argument("words", nargs="*", metavar="VERB WHAT", help=f"one of {', '.join(VERBS)}, and of what")
    made.add_argument(
        "--watch", action="store_true", help="go on until nothing more is to happen; --json: a line a change"
    )
    made.add_argument("--to", default="", metavar="VERSION", help="with rollback: this version, to all devices at once")
    made.add_argument("--reason", default="", help="kept with the rollout")
    made.add_argument("--id", default="", help="with apply: the rollout's id; the same again is the same rollout")
    made.add_argument("--wait-for-node", action="store_true", help="with apply: also while no device can take it")
    return made


async def run(name: str, args: argparse.Namespace) -> int:
    """Run it."""
    verb, *rest = [*args.words, *args.after] or [""]
    if verb not in VERBS:
        raise BadInput("verb", f"{verb!r:.40} is none", hint=f"one of {', '.join(VERBS)}")
    act, wants = VERBS[verb]
    if len(rest) > 1 or (wants and not rest) or (wants is None and rest):
        raise BadInput("words", f"{verb} goes with {wants or 'nothing more'}", hint=f"`fog {name} --help` tells more")
    for option, verbs in (
        ("watch", ("apply", "status", *ASKED, "rollback")),
        ("to", ("rollback",)),
        ("id", ("apply",)),
    ):
        if getattr(args, option) and verb not in verbs:
            raise BadInput(option, f"does not go with {verb}")
    args.verb = verb
    if verb == "key":
        return _key(args)
    async with common.connected(args) as fleet:
        return await act(fleet, rest[0] if rest else "", args)


async def _plan(fleet: Fleet, path: str, args: argparse.Namespace) -> int:
    plan = await fleet.rollouts.plan(app_file.read(Path(path)))
    show.print_json(plan) if args.json else shown.plan(plan)
    return 0


async def _apply(fleet: Fleet, path: str, args: argparse.Namespace) -> int:
    app = app_file.read(Path(path))
    if not args.wait_for_node:
        plan = await fleet.rollouts.plan(app)
        if not plan.possible:
            why = "; ".join(sorted({reason for row in plan.rows for reason in row.reasons})) or "no node is a target"
            raise FogError(
                f"no device can take {app.app} {app.version}: {why}",
                hint="`fog rollout plan` shows all of them; --wait-for-node begins it all the same",
            )
    with Sending(quiet=args.json) as sending:
        row, sent = await fleet.rollouts.apply(app, rollout=args.id, on_progress=sending.tell)
    if args.watch:
        if not args.json:
            shown.applied(row, sent)
        return await _watch(fleet, row.id, args)
    if args.json:
        show.print_json({**show.plain(row), "sent_bytes": sent.sent_bytes, "reused_bytes": sent.reused_bytes})
    else:
        shown.applied(row, sent)
        print(f"`fog rollout status {row.id} --watch` follows it")
    return 0


class Sending:
    """A line on a terminal that says how much of an artifact is sent."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet or not sys.stderr.isatty()

    def __enter__(self) -> Sending:
        return self

    def __exit__(self, *_exc: object) -> None:
        if not self._quiet:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def tell(self, progress: Progress) -> None:
        """So much is there now."""
        if not self._quiet:
            there = progress.sent_bytes + progress.reused_bytes
            text = f"{show.size(there)} of {show.size(progress.total_bytes)} are in the store"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


async def _watch(fleet: Fleet, name: str, args: argparse.Namespace) -> int:
    last = None
    async for info in fleet.rollouts.watch(name):
        last = info.row
        show.print_json_line(show.plain(info.row)) if args.json else shown.line(info)
    if last is None:
        return ROLLOUT_FAILED
    if not args.json:
        shown.ended(await fleet.rollouts.status(last.id))
    asked_for_end = args.verb in ("abort", "rollback") and last.phase is RolloutPhase.ABORTED
    return 0 if asked_for_end or went_well(last) else ROLLOUT_FAILED


async def _status(fleet: Fleet, name: str, args: argparse.Namespace) -> int:
    if not name:
        if args.watch:
            raise BadInput("watch", "say which rollout")
        rows = shown.latest(await fleet.rollouts.list())
        show.print_json(rows) if args.json else shown.rows(rows)
        return 0
    if args.watch:
        return await _watch(fleet, name, args)
    info = await fleet.rollouts.status(name)
    show.print_json(info) if args.json else shown.info(info)
    return ROLLOUT_FAILED if settled(info) and not went_well(info.row) else 0


async def _history(fleet: Fleet, app: str, args: argparse.Namespace) -> int:
    rows = await fleet.rollouts.list(app)
    show.print_json(rows) if args.json else shown.rows(rows)
    return 0


async def _ask(fleet: Fleet, name: str, args: argparse.Namespace) -> int:
    """Pause, resume …: what the verb says."""
    asked = getattr(fleet.rollouts, args.verb.replace("-", "_"))
    return await _asked(fleet, await asked(name, args.reason), args)


async def _rollback(fleet: Fleet, name: str, args: argparse.Namespace) -> int:
    if not args.to:
        return await _ask(fleet, name, args)
    return await _asked(fleet, await fleet.rollouts.rollback_to(name, args.to), args)


async def _asked(fleet: Fleet, row: RolloutRow, args: argparse.Namespace) -> int:
    if args.watch:
        return await _watch(fleet, row.id, args)
    show.print_json(row) if args.json else print(shown.words(row))
    return 0


async def _gc(fleet: Fleet, _what: str, args: argparse.Namespace) -> int:
    done = await fleet.rollouts.gc()
    if args.json:
        show.print_json(done)
    else:
        for version in done.versions:
            print(f"removed {version}")
        print(f"{done.chunks} chunks removed, {show.size(done.bytes)}")
    return 0


def _key(args: argparse.Namespace) -> int:
    from client.signing import signing_key
    from schemas.home import Home

    key = signing_key(Home.find(args.home).root)
    if args.json:
        show.print_json({"key": key.public, "file": str(key.path)})
    else:
        print(key.public)
    return 0


async def _no_fleet(_fleet: Fleet, _what: str, _args: argparse.Namespace) -> int:
    raise AssertionError("answered before a fleet is asked")


ASKED = ("pause", "resume", "promote", "abort", "retry-failed")
# What each does, and what it is about: "" for what may be left out, None for nothing.
VERBS: dict[str, tuple[Verb, str | None]] = {
    "plan": (_plan, "an APP.toml"),
    "apply": (_apply, "an APP.toml"),
    "status": (_status, ""),
    **dict.fromkeys(ASKED, (_ask, "a rollout")),
    "rollback": (_rollback, "a rollout or an app"),
    "history": (_history, ""),
    "gc": (_gc, None),
    "key": (_no_fleet, None),
}
