"""A running version of an app is held to its share of the device, with its children, and can be ended all the same."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import psutil
import pytest

from node.apps import process
from node.apps.process import Running
from node.enforce import share
from schemas.rollout import Service
from tests.integration.limited import CORES, SPIN
from tests.until import eventually, gone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no signal there that stops a process")


def family(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def used_s(pid: int) -> float:
    return sum(times.user + times.system for times in (one.cpu_times() for one in family(pid)))


async def test_a_busy_app_is_held_to_its_share_and_hears_that_it_is_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "START_S", 0.3)
    script = f"trap 'echo told; exit' TERM; ({SPIN}) & ({SPIN}) & wait"
    ends: list[str] = []
    run, log = Service(("sh", "-c", script), cpu_percent=20.0, stop_s=5.0), tmp_path / "app.log"
    app = Running("app", "1", run, tmp_path, log, ends.append)
    try:
        await eventually(lambda: len(family(app.pid)) == 3)
        await eventually(
            lambda: {one.status() for one in family(app.pid)} == {psutil.STATUS_STOPPED},
            what="all of it stopped for a while",
        )
        app.measure(time.monotonic())
        begun, before = time.monotonic(), used_s(app.pid)
        await eventually(lambda: used_s(app.pid) - before >= 0.3, what="going on all the same")
        await asyncio.sleep(max(0.0, begun + 2.0 - time.monotonic()))
        assert (used_s(app.pid) - before) / (time.monotonic() - begun) / CORES <= 0.35
        percent, mib = app.measure(time.monotonic())
        assert 0 < percent <= 35 and mib > 0
        pids = [one.pid for one in family(app.pid)]
    finally:
        await app.stop()
    assert log.read_text() == "told\n" and not ends
    assert all(gone(pid) for pid in pids)


async def test_what_an_app_says_takes_no_more_room_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "OUTPUT_MAX", 1000)
    more, log = tmp_path / "more", tmp_path / "1.0.log"
    script = f"seq 5000; until [ -e {more} ]; do sleep 0.02; done; echo after; exec sleep 600"
    app = Running("app", "1", Service(("sh", "-c", script)), tmp_path, log, lambda how: None)
    try:
        await eventually(lambda: log.read_text().endswith("\n5000\n"))
        app.measure(time.monotonic())
        assert log.read_text() == "" and log.with_suffix(".old").read_text().endswith("\n4999\n5000\n")
        assert log.with_suffix(".old").stat().st_size == 1000
        more.touch()
        await eventually(lambda: log.read_text() == "after\n", what="written at the beginning again")
        app.measure(time.monotonic())
        assert log.read_text() == "after\n", "that is not too long"
    finally:
        await app.stop()


async def test_an_app_without_a_limit_is_not_looked_at(tmp_path: Path) -> None:
    app = Running("app", "1", Service(("sleep", "600")), tmp_path, tmp_path / "app.log", lambda how: None)
    assert app._holding is None
    await app.stop()


async def test_an_app_that_ends_by_itself_is_held_no_longer(tmp_path: Path) -> None:
    ends: list[str] = []
    run = Service(("sh", "-c", "exit 3"), cpu_percent=20.0)
    app = Running("app", "1", run, tmp_path, tmp_path / "app.log", ends.append)
    await eventually(lambda: ends == ["exit code 3"])
    assert app._holding is not None
    await app._holding
