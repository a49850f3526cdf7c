"""What a device keeps of an app, and what it removes: real processes, a real broker, no coordinator."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from node.apps import keeper
from node.apps.disk import CHUNKS_S, Disk
from node.apps.fetch import Fetcher
from node.apps.keeper import Apps
from schemas.artifact import Manifest, digest_of
from schemas.codec import encode
from schemas.jetstream import ensure_streams
from schemas.rollout import Assignment, Service, Told
from schemas.target import Target
from tests.integration.sharing import Sharer, sharers
from tests.integration.stack import stack
from tests.integration.test_apps_on_nodes import stored, version_of
from tests.until import eventually


@asynccontextmanager
async def apps_of(one: Sharer, folder: Path) -> AsyncIterator[Apps]:
    apps = Apps(folder, services=True)
    await apps.open()
    apps.attach(
        one.context, lambda disk, shelf: Fetcher(one.bus, disk, shelf, one.peers, lambda: 1 << 18, one.throttle)
    )
    try:
        yield apps
    finally:
        await apps.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no signal there that a process can ignore")
async def test_an_app_that_is_removed_and_told_again_while_it_ends_is_there(target: Target, tmp_path: Path) -> None:
    stubborn = b"trap '' TERM; echo up; while :; do sleep 0.05; done"
    async with stack(target, tmp_path) as fleet, sharers(target, tmp_path, ["n1"]) as (one,):
        await ensure_streams(fleet.bus)
        version = version_of("1.0", await stored(fleet, {"run.sh": stubborn}), Service(("sh", "run.sh"), stop_s=0.5))
        async with apps_of(one, tmp_path / "apps") as apps:
            folder, log = Disk(tmp_path / "apps").folder(version), tmp_path / "apps" / "app" / "1.0.log"
            apps.on_assignment(encode(Assignment("app", 1, Told.RUN, "r1", version=version)))
            await eventually(lambda: log.is_file() and log.read_text() == "up\n")
            apps.on_assignment(encode(Assignment("app", 2, Told.REMOVE, "r2")))
            apps.on_assignment(encode(Assignment("app", 3, Told.RUN, "r3", version=version)))
            await eventually(lambda: log.read_text().count("up") == 2, what="it runs again")
            assert (folder / "run.sh").read_bytes() == stubborn
            apps.on_assignment(encode(Assignment("app", 4, Told.REMOVE, "r4")))
            await eventually(lambda: not folder.exists(), what="removed for good")


def test_chunks_of_a_download_that_was_given_up_do_not_stay_for_ever(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    old, new = digest_of(b"old"), digest_of(b"new")
    disk.put_chunk(old, b"old")
    disk.put_chunk(new, b"new")
    os.utime(disk.chunk(old), (0.0, time.time() - CHUNKS_S - 60.0))
    disk.drop_chunks(Manifest(()))
    assert not disk.chunk(old).exists() and disk.chunk(new).exists()


def test_a_chunk_that_comes_from_two_at_once_is_kept(tmp_path: Path) -> None:
    disk, data = Disk(tmp_path), os.urandom(100_000)
    digest = digest_of(data)
    with ThreadPoolExecutor(2) as two:
        for _ in two.map(lambda _: disk.put_chunk(digest, data), range(400)):
            assert disk.chunk(digest).read_bytes() == data


async def test_a_disk_that_takes_no_state_stops_nothing_and_gets_it_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "WRITE_AGAIN_S", 0.0)
    in_the_way, apps = tmp_path / "app", Apps(tmp_path, services=False)
    await apps.open()
    try:
        in_the_way.write_text("no folder can be made here")
        apps.on_assignment(encode(Assignment("app", 7, Told.REMOVE, "r1")))
        assert in_the_way.is_file()
        in_the_way.unlink()
        await eventually(lambda: bool(Disk(tmp_path).load()[0]), what="written all the same")
        assert Disk(tmp_path).load()[0][0].order == 7
    finally:
        await apps.close()
