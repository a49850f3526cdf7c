"""`fog demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from client.commands import common
from schemas.errors import BadInput


def parser(name: str) -> argparse.ArgumentParser:
    """``fog demo [rollout | battery] …``."""
    made = common.Parser(
        f"fog {name}",
        description="Run a fleet of four played devices and a real job on it, kill one in the middle, and check every item. "
        "rollout: bring a real model to ten devices, use it, and see two bad versions of it stop themselves. "
        "battery: play a phone's evening in two minutes, and draw what it did for others.",
    )
    made.add_argument("what", nargs="?", choices=["rollout", "battery"], help="one of these instead of a job")
    made.add_argument("--nodes", type=int, default=10, metavar="N", help="with rollout: so many devices (default 10)")
    made.add_argument(
        "--input", type=Path, metavar="DIR", help="work on the files below DIR (default: the machine's documentation)"
    )
    made.add_argument("--keep", action="store_true", help="keep the demo's home, with its events, for looking at it")
    made.add_argument("--seconds", type=float, default=120.0, metavar="S", help="with battery: so long (default 120)")
    made.add_argument(
        "--png", type=Path, metavar="FILE", help="with battery: draw the chart there too (needs matplotlib)"
    )
    return made


async def run(_name: str, args: argparse.Namespace) -> int:
    """Run it."""
    if args.what == "rollout":
        from client.demo import rollout

        if args.nodes < 1:
            raise BadInput("nodes", "must be at least 1")
        return await rollout.play(args.input, nodes=args.nodes, keep=args.keep)
    if args.what == "battery":
        from client.demo import battery

        if not 20 <= args.seconds <= 3600:
            raise BadInput("seconds", "must be from 20 to 3600")
        return await battery.play(args.png, args.seconds, keep=args.keep)
    from client.demo.play import play

    return await play(args.input, keep=args.keep)
