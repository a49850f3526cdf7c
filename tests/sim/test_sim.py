"""The simulator in `make test`: worlds that everybody runs, and every planted bug found. Worlds that nobody has seen yet are
run by `make sim ARGS="--fresh 20"`, and here where new examples are wanted (`make test EXAMPLES=…`).

Each runs in a process of its own, whose hash seed is fixed: the order of sets of strings is part of a world.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXED, FRESH = 8, 4 if os.environ.get("FOG_EXAMPLES") else 0


def sim(*arguments: str) -> str:
    """What `python -m tests.sim` says; it ends well, or the test fails with the seeds and the last events."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_no_invariant_breaks_in_the_worlds_of_the_fixed_seeds_and_of_fresh_ones_where_they_are_wanted() -> None:
    said = sim("--seeds", f"0:{FIXED}", "--fresh", str(FRESH))
    assert f"{FIXED + FRESH} worlds" in said and " 0 broken" in said


def test_every_planted_bug_is_found_within_its_number_of_worlds() -> None:
    """And the world that finds it breaks nothing without the bug, until then (`make sim ARGS=--bugs`: to its end)."""
    assert "NOT FOUND" not in sim("--bugs", "--brief")


def test_a_few_minutes_of_a_fleet_with_everything_that_large_ones_leave_out_break_nothing() -> None:
    assert " 0 broken; 0." in sim("--fleet", "8", "--hours", "0.1", "--seed", "0")


def test_a_seed_is_a_world_that_replays_to_the_last_event() -> None:
    assert sim("--seed", "3").splitlines()[:-1] == sim("--seed", "3").splitlines()[:-1]
