"""`fog demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from client.commands import common


def parser(name: str) -> argparse.ArgumentParser:
    """``fog demo [--input DIR] [--keep]``."""
    made = common.Parser(
        f"fog {name}",
        description="Run a fleet of four played devices and a real job on it, kill one in the middle, and check every item.",
    )
    made.add_argument(
        "--input", type=Path, metavar="DIR", help="work on the files below DIR (default: the machine's documentation)"
    )
    made.add_argument("--keep", action="store_true", help="keep the demo's home, with its events, for looking at it")
    return made


async def run(_name: str, args: argparse.Namespace) -> int:
    """Run it."""
    from client.demo.play import play

    return await play(args.input, keep=args.keep)
