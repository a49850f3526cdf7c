"""Run worlds. ``make sim`` is ``python -m tests.sim``; ``--seed 7`` replays one with its transcript, ``--bugs`` looks for the
planted bugs. Prints the command that replays whatever broke, and the last events before it."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Iterable


def main() -> int:
    """0 when no invariant broke, and every planted bug was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this world, with its transcript")
    parser.add_argument("--seeds", default="0:200", metavar="FIRST:END", help="run these worlds (default: %(default)s)")
    parser.add_argument("--fresh", type=int, default=0, metavar="N", help="and N that nobody has seen yet")
    parser.add_argument("--bug", default="", help="with this planted bug, in the worlds that it is looked for in")
    parser.add_argument("--worlds-of", default="", metavar="BUG", help="the worlds of that bug, without it")
    parser.add_argument("--bugs", action="store_true", help="find all planted bugs")
    parser.add_argument(
        "--brief", action="store_true", help="with --bugs: the worlds without them only until they showed"
    )
    parser.add_argument("--fleet", type=int, default=0, metavar="NODES", help="one hour of a fleet of so many nodes")
    parser.add_argument("--hours", type=float, default=1.0, help="so many hours of it (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no transcript")
    parser.add_argument("--go-on", action="store_true", help="go on after a broken invariant")
    args = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of strings is part of a world
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"}
        )
    if args.bugs:
        return find_bugs(brief=args.brief)
    first, _, end = args.seeds.partition(":")
    seeds = [args.seed] if args.seed is not None else list(range(int(first), int(end or int(first) + 1)))
    seeds += [random.SystemRandom().randrange(1 << 32) for _ in range(args.fresh)]
    return run_all(seeds, args)


def run_all(seeds: list[int], args: argparse.Namespace) -> int:
    from tests.sim.bugs import BUGS, planted
    from tests.sim.faults import fleet
    from tests.sim.world import World

    plan = (
        BUGS[args.bug or args.worlds_of].plan
        if args.bug or args.worlds_of
        else fleet(args.fleet, args.hours)
        if args.fleet
        else None
    )
    show = args.seed is not None and not args.quiet
    said = {"bug": args.bug, "worlds-of": args.worlds_of, "fleet": args.fleet, "hours": args.fleet and args.hours}
    more = "".join(f" --{k} '{v}'" for k, v in said.items() if v)
    ran = broken = events = tasks = begun = 0
    fleet_s, since = 0.0, time.process_time()
    for seed in seeds:
        ran += 1
        if ran % 100 == 0:
            print(f"{ran} worlds, {broken} broken", flush=True)
        world = World(seed, plan, transcript=show)
        with planted(args.bug):
            report = world.run()
        print_lines(world.transcript or ())
        fleet_s, events = fleet_s + report.virtual_s, events + report.events
        tasks, begun = tasks + report.tasks, begun + report.begun
        if report.rule:
            broken += 1
            print_lines(report.last if not show else ())
            how = f'make sim SEED={seed} ARGS="{more.strip()}"' if more else f"make sim SEED={seed}"
            print(f"seed {seed}: {report.problem}\nreplay it: {how}", flush=True)
            if not args.go_on:
                break
    took_s = time.process_time() - since
    if len(seeds) <= 50:
        print(f"seeds: {' '.join(map(str, seeds[:ran]))}")
    told = f"{tasks} tasks, {begun} starts, {events} events, {took_s:.1f} s of processor"
    print(f"{ran} worlds from {seeds[0]} on: {broken} broken; {fleet_s / 3600:.1f} h of fleet time, {told}")
    return 1 if broken else 0


def find_bugs(*, brief: bool) -> int:
    """Every planted bug is found within its number of worlds; the world that finds it breaks nothing without it.

    If `brief`, that world without it is run only up to the moment at which the bug broke something.
    """
    from tests.sim.bugs import BUGS, planted
    from tests.sim.world import run

    missed = 0
    for name, bug in BUGS.items():
        for seed in bug.worlds():
            with planted(name):
                report = run(seed, bug.plan)
            if report.rule in bug.rules:
                break
        if report.rule not in bug.rules:
            missed += 1
            print(f"{name}: NOT FOUND in {bug.seeds} worlds ({report.problem or 'nothing broke'})")
            continue
        sound = run(seed, bug.plan, until_s=report.virtual_s if brief else float("inf"))
        missed += bool(sound.rule)
        print(
            f"{name}: seed {seed} of at most {bug.seeds}: {report.problem}"
            + (f"; WITHOUT IT: {sound.problem}" if sound.rule else "")
        )
    return 1 if missed else 0


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


if __name__ == "__main__":
    sys.exit(main())
