"""Rollouts to real nodes: what a device fetches, installs, runs, reports, and keeps over deaths."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from schemas import rollout_api as api
from schemas import streams, subjects
from schemas.api import ListRequest
from schemas.artifact import Chunk, File, Manifest, digest_of, name_of, signed_text
from schemas.cluster import ClustersReply
from schemas.codec import encode
from schemas.creds import new_seed, public_key
from schemas.errors import StoreRefused
from schemas.jetstream import stream_info
from schemas.keys import sign
from schemas.limits import CHUNK_BYTES
from schemas.rollout import AppVersion, DataOnly, Health, HttpCheck, Service, Strategy, StrategyKind
from schemas.rollout_state import RolloutPhase, Stage
from schemas.target import Target
from tests.integration.stack import Stack, stack
from tests.until import eventually

SEED = new_seed()
QUICK = Health(min_healthy_s=0.5, interval_s=0.2, healthy_deadline_s=20.0, progress_deadline_s=60.0)
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/" else 404)
        self.end_headers()
        self.wfile.write(b"VERSION")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


async def stored(fleet: Stack, files: dict[str, bytes]) -> tuple[str, int]:
    """Put an artifact into the store, as a client does; its name and its bytes."""
    made = []
    for path, data in sorted(files.items()):
        pieces = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        for piece in pieces:
            await put_chunk(fleet, piece)
        made.append(File(path, tuple(Chunk(digest_of(piece), len(piece)) for piece in pieces)))
    manifest = Manifest(tuple(made))
    await put_chunk(fleet, encode(manifest))
    return name_of(manifest), manifest.size


async def put_chunk(fleet: Stack, data: bytes) -> None:
    try:
        await fleet.store.put(subjects.chunk(digest_of(data)), data)
    except StoreRefused as error:
        assert error.exists


def version_of(name: str, artifact: tuple[str, int], run: Service | DataOnly, health: Health = QUICK) -> AppVersion:
    digest, size = artifact
    signature = sign(SEED, signed_text("app", name, digest))
    return AppVersion("app", name, digest, size, run, health=health, key=public_key(SEED), signature=signature)


async def create(fleet: Stack, rollout: str, version: AppVersion, kind: str = "rolling") -> None:
    strategy = Strategy(StrategyKind(kind), between_s=0.1)
    await fleet.api.call("rollout", "create", api.CreateRequest(rollout, version, strategy=strategy), api.RolloutRow)


async def info(fleet: Stack, rollout: str) -> api.RolloutInfo:
    return await fleet.api.call("rollout", "info", api.RolloutRequest(rollout), api.RolloutInfo)


async def ended(fleet: Stack, rollout: str, phase: RolloutPhase) -> api.RolloutInfo:
    async def is_so() -> bool:
        return (await info(fleet, rollout)).row.phase is phase

    await eventually(is_so, 60.0, f"{rollout} is {phase.value}")
    return await info(fleet, rollout)


def app_folder(fleet: Stack, node: str) -> Path:
    return fleet.folder / "nodes" / node / "apps" / "app"


def in_use(fleet: Stack, node: str) -> Path:
    return app_folder(fleet, node) / (app_folder(fleet, node) / "current").read_text()


async def test_data_comes_to_every_node_whole_and_what_two_versions_share_is_sent_once(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        for node in ("n1", "n2"):
            await fleet.node(node)
        big = bytes(range(256)) * 4096  # four chunks of the same content, in one megabyte
        first = await stored(fleet, {"weights/big.bin": big, "labels.txt": b"cat\ndog\n"})
        await create(fleet, "r1", version_of("1.0", first, DataOnly()))
        await ended(fleet, "r1", RolloutPhase.SUCCEEDED)
        for node in ("n1", "n2"):
            assert (in_use(fleet, node) / "weights" / "big.bin").read_bytes() == big
            assert (in_use(fleet, node) / "labels.txt").read_text() == "cat\ndog\n"
        second = await stored(fleet, {"weights/big.bin": big, "labels.txt": b"cat\ndog\nfish\n"})
        await create(fleet, "r2", version_of("1.1", second, DataOnly()), "canary")
        await ended(fleet, "r2", RolloutPhase.SUCCEEDED)
        assert (in_use(fleet, "n1") / "labels.txt").read_text() == "cat\ndog\nfish\n"
        held = await stream_info(fleet.bus, streams.CHUNKS)
        assert held["state"]["messages"] == 5  # one chunk of the weights, two of labels, two manifests


async def test_a_service_is_brought_out_and_one_that_fails_goes_back_by_itself(target: Target, tmp_path: Path) -> None:
    port = 18_471
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        await fleet.node("n1", "--allow", "app")
        health = Health(
            HttpCheck(port), min_healthy_s=0.5, interval_s=0.2, healthy_deadline_s=4.0, progress_deadline_s=60.0
        )
        run = Service((sys.executable, "{dir}/serve.py", str(port)), stop_s=1.0)
        good = await stored(fleet, {"serve.py": SERVER.replace("VERSION", "one").encode()})
        await create(fleet, "r1", version_of("1.0", good, run, health))
        before = await ended(fleet, "r1", RolloutPhase.SUCCEEDED)
        assert before.devices[0].running == "1.0"
        bad = await stored(fleet, {"serve.py": b"raise SystemExit('no such model')"})
        await create(fleet, "r2", version_of("2.0", bad, run, health), "canary")
        after = await ended(fleet, "r2", RolloutPhase.FAILED)
        assert "n1" in after.row.reason
        assert after.devices[0].stage is Stage.BACK
        assert after.devices[0].running == "1.0"
        assert "Device n1 failed" in fleet.log("c1")
        assert "Deployment failed" in fleet.log("c1")


async def test_a_service_runs_again_when_its_node_boots_without_a_broker(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        await fleet.node("n1", "--allow", "app")
        mark = tmp_path / "starts"
        text = f"import time; open({str(mark)!r}, 'a').write('x'); time.sleep(600)"
        artifact = await stored(fleet, {"run.py": text.encode()})
        run = Service((sys.executable, "{dir}/run.py"))
        await create(fleet, "r1", version_of("1.0", artifact, run))
        await ended(fleet, "r1", RolloutPhase.SUCCEEDED)
        fleet.kill("n1", signal.SIGKILL)
        begun = mark.read_text()
        fleet.start(
            "n1", "node", "--name", "n1", "--allow", "app", "--nats", "nats://127.0.0.1:9"
        )  # nobody listens there
        await eventually(lambda: len(mark.read_text()) > len(begun))


async def test_a_download_that_was_killed_goes_on_with_what_it_has(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        await fleet.node("n1")
        parts = {f"part{i:02d}": bytes([i]) * CHUNK_BYTES for i in range(60)}
        artifact = await stored(fleet, parts)
        await create(fleet, "r1", version_of("1.0", artifact, DataOnly()))
        chunks = app_folder(fleet, "n1").parent / ".chunks"
        await eventually(lambda: chunks.is_dir() and len(list(chunks.iterdir())) > 3)
        fleet.kill("n1", signal.SIGKILL)
        there = len([path for path in chunks.iterdir() if not path.name.startswith(".")])
        assert there
        await fleet.node("n1")
        after = await ended(fleet, "r1", RolloutPhase.SUCCEEDED)
        assert after.devices[0].got_bytes == artifact[1]
        assert after.devices[0].reused_bytes >= there * CHUNK_BYTES
        for path, data in parts.items():
            assert (in_use(fleet, "n1") / path).read_bytes() == data


async def test_spoilt_bytes_or_a_wrong_signature_are_never_installed(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        await fleet.node("n1")
        digest, size = await stored(fleet, {"a": b"good"})
        # A chunk under a name that is not its content's, and a manifest that names it.
        lie = digest_of(b"what it should be")
        await fleet.store.put(subjects.chunk(lie), b"something else")
        manifest = Manifest((File("b", (Chunk(lie, 17),)),))
        await put_chunk(fleet, encode(manifest))
        await create(fleet, "r1", version_of("1.0", (name_of(manifest), 17), DataOnly()))
        failed = await ended(fleet, "r1", RolloutPhase.FAILED)
        assert "not what its name says" in failed.row.reason
        await create(fleet, "r2", version_of("1.1", (digest, size), DataOnly()))
        await ended(fleet, "r2", RolloutPhase.SUCCEEDED)
        assert sorted(path.name for path in in_use(fleet, "n1").iterdir()) == [".manifest.json", "a"]


async def test_a_cluster_decides_whether_a_version_goes_beyond_its_first_device(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        for node in ("n1", "n2", "n3"):
            await fleet.node(node)

        async def clusters() -> list[str]:
            found = await fleet.api.call("cluster", "list", ListRequest(), ClustersReply)
            return [row.id for row in found.clusters if len(row.members) == 3 and row.leader]

        await eventually(clusters)
        cluster = (await clusters())[0]
        artifact = await stored(fleet, {"a": b"one"})
        strategy = Strategy(StrategyKind.CANARY, decision_of=cluster)
        request = api.CreateRequest("r1", version_of("1.0", artifact, DataOnly()), strategy=strategy)
        await fleet.api.call("rollout", "create", request, api.RolloutRow)
        await fleet.event("cluster.decided", cluster)
        await ended(fleet, "r1", RolloutPhase.SUCCEEDED)
        assert all((in_use(fleet, node) / "a").read_bytes() == b"one" for node in ("n1", "n2", "n3"))
