"""A whole node under limits of its owner's: they are held, shown, and no task that breaks one takes the node with it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.enforced import Enforced, in_words
from schemas.target import Target
from schemas.task import CommandRun, OutcomeKind
from tests.integration.limited import spinning
from tests.integration.node_fleet import Fleet, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no signal there that stops a process")
HOG = "import time; kept = b'x' * (500 << 20); time.sleep(600)"


@pytest.fixture
async def fleet(target: Target, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = await Fleet.open(target, tmp_path)
    fleet.interval_s = 0.2
    yield fleet
    await fleet.close()


async def test_a_node_holds_its_limits_and_says_how(fleet: Fleet) -> None:
    config = fleet.folder / "node.toml"
    config.write_text("[limits]\ncpu_percent = 80\nmemory_mb = 400\n")
    await fleet.node("n1", "--config", str(config), "--limit", "cpu_percent=20", "--allow", "command")
    told = [beat.enforced for beat in fleet.beats if beat.full]
    assert told[0] == Enforced("duty cycle", 20.0, memory="polled", memory_mb=400)
    busy = await fleet.place(spinning(2))
    hog = await fleet.place(CommandRun((sys.executable, "-c", HOG)))
    outcome = await fleet.outcome(hog)
    assert (outcome.kind, outcome.history.errors[-1].kind) == (OutcomeKind.FAILED, "memory")
    assert "Memory allocation exceeded" in outcome.error and outcome.started
    assert "Memory allocation exceeded" in fleet.log() and "limit_mb=400" in fleet.log()

    def measured() -> Enforced | None:
        return next((b.enforced for b in fleet.beats[::-1] if b.enforced and b.enforced.cpu_measured), None)

    await until(measured, what="what was measured, in a beat")
    await fleet.command("cancel", task=busy.id)
    await until(
        lambda: any(b.enforced and b.enforced.cpu_measured is None for b in fleet.beats[-2:]), what="nothing runs"
    )
    said = len([beat for beat in fleet.beats if beat.enforced])
    seen = len(fleet.beats)
    await until(lambda: len(fleet.beats) >= seen + 3)
    assert len([beat for beat in fleet.beats if beat.enforced]) <= said + 1, "said though nothing changed"
    assert (await fleet.result(await fleet.place())).value


async def test_a_limit_that_makes_no_sense_is_refused_by_its_name(fleet: Fleet) -> None:
    for limit, word in (("cpu_percent=0", "cpu_percent"), ("cpu=50", "cpu"), ("memory_mb=-1", "memory_mb")):
        node = fleet.start_node("n1", "--limit", limit)
        assert await until(lambda node=node: node.poll(), what="its end") == 125
        assert word in fleet.log()


def test_the_mechanism_in_words() -> None:
    rows = dict(in_words(Enforced("duty cycle", 35.0, 34.2, 3, "polled", 512, 100, 10.0, True)))
    assert rows["cpu"] == "duty cycle over 3 processes, limit 35 %, measured 34.2 %"
    assert rows["memory"] == "polled, limit 512 MB, measured 100 MB"
    assert "10 Mbps" in rows["bandwidth"] and rows["work"] == "suspended"
    assert set(dict(in_words(Enforced())).values()) == {"no limit"}
