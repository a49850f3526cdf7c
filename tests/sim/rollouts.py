"""``python -m tests.sim.rollouts``: random worlds of a rollout, far more and far larger ones than a test has time for.

Devices flap, dawdle, defer and lie, messages are lost and doubled, coordinators die. Held in every world: no device is told
two things, never more than a batch at once, none past a closed gate, every rollout ends, and a failed one leaves its version
on nobody that is there.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections import Counter

from tests.core.agenda import Agenda
from tests.core.rollout_world import play


def main() -> int:
    """Play the worlds; the exit code says whether one of them broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.rollouts")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--seeds", type=int, default=1000, metavar="N")
    parser.add_argument("--devices", type=int, default=24, metavar="N")
    args = parser.parse_args()
    ends: Counter[str] = Counter()
    broken = []
    begun = time.process_time()
    gc.disable()  # a large world is all alive until it ends: looking through it again and again finds nothing
    for seed in range(args.first, args.first + args.seeds):
        try:
            world = play(seed, args.devices, crashes=seed % 3)
            ends[world.phase("r2").value] += 1
            world.agenda = Agenda()  # what is still to happen holds the world
        except AssertionError as error:
            broken.append(seed)
            print(f"seed {seed}: {error}", flush=True)
        if (played := seed - args.first + 1) % 10 == 0:
            gc.collect()
            print(
                f"{played} of {args.seeds}: {len(broken)} broken; {time.process_time() - begun:.0f} CPU s", flush=True
            )
    ended = ", ".join(f"{count} {phase}" for phase, count in sorted(ends.items()))
    print(
        f"{args.seeds} worlds of {args.devices} devices: {ended}; {len(broken)} broken; {time.process_time() - begun:.1f} CPU s"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
