"""Rollouts as users run them: APP.toml, `fog rollout`, `fleet.rollouts`, on real nodes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import client
from client import app_file
from client.artifacts import Progress, missing, pack, send
from schemas import streams
from schemas.errors import BadInput, Refused
from schemas.rollout_api import GcReply
from schemas.rollout_state import RolloutPhase, Stage
from schemas.target import Target
from tests.integration.stack import ROOT, Stack, stack
from tests.integration.test_apps_on_nodes import SERVER, in_use
from tests.until import eventually

HEALTH = "[health]\nmin_healthy_s = 0.3\ninterval_s = 0.1\nhealthy_deadline_s = 4\nprogress_deadline_s = 60\n"
ROLLING = '[strategy]\nkind = "rolling"\nmax_concurrent = 2\nbetween_s = 0.1\n'


def app(folder: Path, version: str, files: dict[str, bytes], more: str = "", run: str = 'type = "data"') -> Path:
    """An APP.toml with its artifact beside it."""
    artifact = folder / "files"
    artifact.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (artifact / name).write_bytes(data)
    path = folder / "APP.toml"
    path.write_text(f'app = "app"\nversion = "{version}"\nartifact = "files"\n[run]\n{run}\n{HEALTH}{more}')
    return path


@asynccontextmanager
async def nodes(target: Target, folder: Path, count: int, *options: str) -> AsyncIterator[tuple[Stack, client.Fleet]]:
    async with stack(target, folder) as fleet:
        await fleet.coordinator()
        await asyncio.gather(*(fleet.node(f"n{n}", *options) for n in range(1, count + 1)))
        async with client.connect(creds=folder / "fog.creds", home=folder / "home", submitter="jo") as user:
            yield fleet, user


async def fog(fleet: Stack, *words: object) -> tuple[int, str, str]:
    """A command of the user's, as a process."""
    where = ("--creds", str(fleet.folder / "fog.creds"), "--home", str(fleet.folder / "home"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "client.cli", *map(str, words), *where, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def outcome(user: client.Fleet, rollout: str) -> Any:
    async for info in user.rollouts.watch(rollout):
        last = info
    return last


async def test_a_model_comes_to_all_by_rolling_the_next_by_canary_and_only_what_changed_is_sent(
    target: Target, tmp_path: Path
) -> None:
    weights = os.urandom(900_000)
    async with nodes(target, tmp_path, 3) as (fleet, user):
        first = app_file.read(app(tmp_path / "app", "1.0", {"weights": weights, "labels": b"cat\n"}, ROLLING))
        plan = await user.rollouts.plan(first)
        assert (plan.counts, plan.first_batch, plan.send_bytes) == (
            {"yes": 3, "deferred": 0, "rejected": 0},
            2,
            900_004,
        )
        assert await user.rollouts.list() == []
        assert await fleet.stored(streams.CHUNKS) == 0, "a plan changes nothing"
        told: list[Progress] = []
        row, sent = await user.rollouts.apply(first, on_progress=told.append)
        assert (sent.sent_bytes, sent.reused_bytes, row.by) == (900_004, 0, "jo")
        assert [p.sent_bytes for p in told] == sorted(p.sent_bytes for p in told)
        done = await outcome(user, row.id)
        assert (done.row.phase, done.row.batch, done.success_share) == (RolloutPhase.SUCCEEDED, 1, 1.0)

        second = app_file.read(app(tmp_path / "app", "1.1", {"labels": b"cat\ndog\n"}))
        row, sent = await user.rollouts.apply(second)
        assert (sent.sent_bytes, sent.reused_bytes) == (8, 900_000)
        done = await outcome(user, row.id)
        assert (done.row.phase, done.row.stable) == (RolloutPhase.SUCCEEDED, True)
        for node in ("n1", "n2", "n3"):
            assert (in_use(fleet, node) / "labels").read_bytes() == b"cat\ndog\n"
            assert (in_use(fleet, node) / "weights").read_bytes() == weights

        row = await user.rollouts.rollback_to("app", "1.0")
        assert (await outcome(user, row.id)).row.batch == 0, "to all at once"
        assert (in_use(fleet, "n2") / "labels").read_bytes() == b"cat\n"
        with pytest.raises(Refused, match=r"no version 0\.9 of app") as refused:
            await user.rollouts.rollback_to("app", "0.9")
        assert refused.value.hint == "these are: 1.0, 1.1"
        assert [r.version for r in await user.rollouts.list("app")] == ["1.0", "1.1", "1.0"]


async def test_what_no_device_needs_any_more_is_removed_and_what_somebody_sends_meanwhile_is_sent_again(
    target: Target, tmp_path: Path
) -> None:
    async with nodes(target, tmp_path, 1) as (fleet, user):
        shared = os.urandom(300_000)
        for version in ("1.0", "1.1", "1.2"):
            files = {"shared": shared, "own": version.encode() * 1000}
            path = app(tmp_path / "app", version, files, ROLLING)
            row, _ = await user.rollouts.apply(app_file.read(path))
            assert (await outcome(user, row.id)).row.phase is RolloutPhase.SUCCEEDED
        assert await fleet.stored(streams.CHUNKS) == 2 + 3 + 3
        unused = pack(app(tmp_path / "app", "1.3", {"own": b"1.3"}).parent / "files")
        await send(fleet.bus, unused)
        done = await user.rollouts.gc()
        assert done.versions == ("app 1.0",)
        assert done.chunks == 2 + 2, "of 1.0 and of what is in no rollout: its own file and its manifest"
        assert set(await user.rollouts.versions("app")) == {"1.1", "1.2"}
        assert await fleet.stored(streams.CHUNKS) == 2 + 2 + 2
        assert await user.rollouts.gc() == GcReply()
        row = await user.rollouts.rollback_to("app", "1.1")
        assert (await outcome(user, row.id)).row.phase is RolloutPhase.SUCCEEDED
        code, out, _ = await fog(fleet, "rollout", "gc")
        assert (code, "0 chunks removed" in out) == (0, True)


async def test_a_broken_service_stops_itself_goes_back_and_the_command_says_so(target: Target, tmp_path: Path) -> None:
    check = '[health.check]\ntype = "http"\nport = 18492\n'
    run = f'type = "service"\nargv = ["{sys.executable}", "{{dir}}/serve.py", "18492"]\nstop_s = 1'
    async with nodes(target, tmp_path, 1, "--allow", "app") as (fleet, user):
        good = app(tmp_path / "app", "1.0", {"serve.py": SERVER.encode()}, check, run)
        code, out, err = await fog(fleet, "rollout", "apply", good, "--watch")
        assert code == 0, (out, err, fleet.log("n1"))
        assert "succeeded" in out
        bad = app(tmp_path / "app", "2.0", {"serve.py": b"raise SystemExit('no such model')"}, check, run)
        code, out, err = await fog(fleet, "rollout", "apply", bad, "--watch", "--json")
        rows = [json.loads(line) for line in out.splitlines()]
        assert code == 1, (out, err)
        assert (rows[-1]["phase"], rows[-1]["stages"]) == ("failed", {"back": 1})
        code, out, _ = await fog(fleet, "rollout", "status", "app", "--json")
        (device,) = json.loads(out)["devices"]
        assert (code, device["stage"], device["running"]) == (1, Stage.BACK.value, "1.0")
        _, out, _ = await fog(fleet, "rollout", "history")
        assert "1.0 (stable)" in out
        await user.rollouts.retry_failed("app")

        async def tried_again() -> bool:
            return (await user.rollouts.status("app")).row.stages == {"told": 1}

        await eventually(tried_again, what="the device that failed is told anew, though it was back")


async def test_who_cannot_take_it_is_shown_with_every_reason_and_nothing_begins(target: Target, tmp_path: Path) -> None:
    much = "[needs]\ncores = 4000\nattestation = true\n"
    async with nodes(target, tmp_path, 1) as (fleet, _user):
        path = app(tmp_path / "app", "1.0", {"f": b"f"}, much)
        code, out, _ = await fog(fleet, "rollout", "plan", path)
        assert code == 0
        assert "rejected" in out
        assert "4000 are needed; it cannot attest" in out
        code, _, err = await fog(fleet, "rollout", "apply", path)
        assert (code, "no device can take app 1.0" in err) == (125, True)
        assert await fleet.stored(streams.CHUNKS) == 0
        code, out, _ = await fog(fleet, "rollout", "apply", path, "--wait-for-node", "--id", "r1", "--json")
        assert (code, json.loads(out)["stages"]) == (0, {"rejected": 1})
        code, out, _ = await fog(fleet, "rollout", "abort", "r1", "--watch", "--reason", "a mistake")
        assert (code, "aborted" in out, "a mistake" in out) == (0, True, True)


async def test_what_is_in_the_store_already_is_not_sent_again_and_what_changed_on_the_way_is_noticed(
    target: Target, tmp_path: Path
) -> None:
    async with nodes(target, tmp_path, 0) as (fleet, _user):
        path = tmp_path / "big"
        path.write_bytes(os.urandom(1_000_000))
        packed = pack(path)
        assert len(await missing(fleet.bus, packed)) == 5
        both = await asyncio.gather(send(fleet.bus, packed), send(fleet.bus, packed))
        assert all(sent.sent_bytes + sent.reused_bytes == 1_000_000 for sent in both)
        assert await missing(fleet.bus, packed) == set()
        assert await fleet.stored(streams.CHUNKS) == 5
        path.write_bytes(os.urandom(1_000_000))
        later = pack(path)
        path.write_bytes(os.urandom(1_000_000))
        with pytest.raises(BadInput, match="changed while it was read"):
            await send(fleet.bus, later)
        assert later.name in await missing(fleet.bus, later), "without a manifest nobody fetches it"
