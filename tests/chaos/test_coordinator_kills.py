"""Coordinators are killed, stopped and handed over under load, at any moment, with nodes now and then.

Whatever the moment: every acknowledged task has one result, none is stuck, nothing is left, what is done is not done again.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from schemas.target import Target
from tests.chaos.judge import judge, spread
from tests.chaos.kills import Kills
from tests.chaos.load import Load
from tests.integration.stack import Stack, stack
from tests.until import eventually

SETTLE_S = 120.0


async def campaign(target: Target, folder: Path, kills: int, seed: int, length: float = 1.0) -> None:
    """Strike that often, and judge."""
    print(f"\n{kills} strikes with the seed {seed} (FOG_CHAOS_SEED={seed} repeats their order), in {folder}")
    began = time.monotonic()
    async with stack(target, folder) as fleet:
        striking, load = Kills(fleet, random.Random(seed)), Load(fleet, random.Random(seed + 1), length)
        await striking.start()
        load.start()
        for number in range(1, kills + 1):
            await striking.strike()
            if number % 20 == 0:
                print(f"  {number}: {time.monotonic() - began:.0f} s, {len(fleet.results)} results", flush=True)
        await striking.settle()
        await load.stop()
        await all_ended(fleet, load)
        await fleet.nothing_left(SETTLE_S)
        verdict = await judge(load)
        verdict.seen["struck"] = dict(striking.counts)
        takeovers = striking.takeovers()
        for part in takeovers[0]:
            verdict.seen[f"takeovers, {part}"] = spread([each[part] for each in takeovers])
        verdict.seen["errors logged"] = striking.complaints()[:20]
    print(f"  {time.monotonic() - began:.0f} s")
    for what, seen in verdict.seen.items():
        print(f"  {what}: {seen}")
    assert not verdict.wrong, "\n".join([f"{len(verdict.wrong)} things are wrong:", *verdict.wrong[:40]])


async def all_ended(fleet: Stack, load: Load) -> None:
    """Nothing is stuck."""
    try:
        await eventually(lambda: set(load.kinds) <= set(fleet.results), SETTLE_S)
    except AssertionError:
        stuck = [task for task in load.kinds if task not in fleet.results]
        told = [f"{task} ({load.kinds[task]}): {fleet.story(task)} {await fleet.task_info(task)}" for task in stuck[:5]]
        raise AssertionError("\n".join([f"{len(stuck)} tasks are stuck:", *told])) from None


async def test_coordinators_that_are_killed_at_any_moment_lose_and_double_nothing(
    target: Target, tmp_path: Path
) -> None:
    await campaign(target, tmp_path / "fleet", 4, seed=3, length=0.3)


@pytest.mark.chaos
async def test_hundreds_of_kills(target: Target, tmp_path: Path) -> None:
    kills = int(os.environ.get("FOG_CHAOS_KILLS", "200"))
    seed = int(os.environ.get("FOG_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
    await asyncio.wait_for(campaign(target, tmp_path / "fleet", kills, seed), 60 + 30 * kills)
