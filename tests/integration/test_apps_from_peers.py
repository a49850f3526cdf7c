"""Members of a cluster get an app from each other: one copy over the wide link, which is a proxy that counts here."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.apps import links as links_module
from node.apps import share as share_module
from node.apps.fetch import Progress
from node.apps.links import Link, Links
from node.apps.peers import Wanted
from node.apps.shelf import Shelf
from node.core import swarm
from schemas import subjects
from schemas.artifact import Chunk, digest_of
from schemas.codec import Decoder, encode
from schemas.errors import BadInput
from schemas.jetstream import ensure_streams
from schemas.limits import CHUNK_BYTES
from schemas.peer import ChunksAsk, ChunksHeld
from schemas.peer_link import GREETING
from schemas.rollout import AppVersion, DataOnly
from schemas.rollout_state import RolloutPhase
from schemas.target import Target
from tests.integration.sharing import LOOPBACK, Sharer, sharers
from tests.integration.stack import Stack, stack
from tests.integration.test_apps_on_nodes import app_folder, create, ended, in_use, stored, version_of
from tests.integration.test_cluster_life import led
from tests.proxy import Proxy, proxied
from tests.until import eventually

NAMES = ("n1", "n2", "n3", "n4", "n5")
CHUNKS = 30
DATA = random.Random(1).randbytes(CHUNKS * CHUNK_BYTES)
_held: Decoder[ChunksHeld] = Decoder(ChunksHeld)


class Liar(Shelf):
    """Serves other bytes than it is asked for, of the right size."""

    def read(self, digest: str) -> bytes:
        return bytes(len(super().read(digest)))


@pytest.fixture
def link(target: Target) -> Iterator[Proxy]:
    """The wide link."""
    with proxied(target) as proxy:
        yield proxy


async def ready(fleet: Stack, data: bytes = DATA) -> AppVersion:
    """A version whose artifact is in the store."""
    await ensure_streams(fleet.bus)
    return version_of("1.0", await stored(fleet, {"model.bin": data}), DataOnly())


async def all_fetch(members: list[Sharer], version: AppVersion) -> list[Progress]:
    return await asyncio.gather(*(member.fetch(version) for member in members))


async def test_a_cluster_gets_one_copy_over_the_wide_link_and_each_member_brings_a_part(
    target: Target, link: Proxy, tmp_path: Path
) -> None:
    async with stack(target, tmp_path) as fleet:
        version = await ready(fleet)
        async with sharers(link.target(target), tmp_path, NAMES) as members:
            before = link.passed_bytes
            progress = await all_fetch(members, version)
            assert link.passed_bytes - before < 1.05 * len(DATA), (
                "one copy, five manifests and what they ask each other"
            )
            assert all(member.installed(version, "model.bin") == DATA for member in members)
            brought = [one.got - one.from_peers for one in progress]
            assert sum(brought) == len(DATA) and all(brought)
            assert sum(member.share.served_bytes for member in members) == 4 * len(DATA)


async def test_one_that_comes_later_gets_all_of_it_from_those_that_have_it(
    target: Target, link: Proxy, tmp_path: Path
) -> None:
    async with stack(target, tmp_path) as fleet:
        version = await ready(fleet)
        async with sharers(link.target(target), tmp_path, NAMES[:3]) as members:
            members[2].why_not = "it is not there yet"
            await all_fetch(members[:2], version)
            members[2].why_not = ""
            before = link.passed_bytes
            late = await members[2].fetch(version)
            assert late.from_peers == len(DATA) and link.passed_bytes - before < 0.05 * len(DATA)
            assert all(member.share.served_bytes > 0.6 * len(DATA) for member in members[:2]), "in parallel"


async def test_a_peer_that_serves_rubbish_is_dropped_and_told_of_and_everybody_has_the_app(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path) as fleet:
        version = await ready(fleet)
        async with sharers(target, tmp_path, NAMES[:4], {"n3": Liar}) as members:
            progress = await all_fetch(members, version)
            assert all(member.installed(version, "model.bin") == DATA for member in members)
            event = await fleet.event("cluster.peer-dropped", "c1")
            assert event["data"]["peer"] == "n3" and event["data"]["artifact"] == version.artifact
            dropped = [member.name for member in members if "n3" in member.peers.out]
            assert dropped == ["n1", "n2", "n4"]
            assert members[2].share.served_bytes <= 3 * CHUNK_BYTES, "each asked it for one chunk, and no more"
            assert all(one.got == len(DATA) for one in progress)
            told = len(fleet.seen("cluster.peer-dropped"))
            second = version_of("2.0", await stored(fleet, {"model.bin": DATA[::-1]}), DataOnly())
            await all_fetch(members, second)
            assert members[0].installed(second, "model.bin") == DATA[::-1]
            assert members[2].share.served_bytes <= 3 * CHUNK_BYTES and told == len(fleet.seen("cluster.peer-dropped"))


async def test_who_may_not_serve_is_asked_for_nothing_and_gets_it_all_the_same(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        version = await ready(fleet)
        async with sharers(target, tmp_path, NAMES[:3]) as members:
            members[0].why_not = "its power mode is power_save"
            await all_fetch(members, version)
            assert members[0].share.served_bytes == 0
            assert members[0].progress.from_peers == len(DATA), "the others bring it over the wide link"


async def test_only_members_are_told_where_chunks_are_and_only_they_are_served(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        version = await ready(fleet, DATA[: 3 * CHUNK_BYTES])
        async with sharers(target, tmp_path, NAMES[:2]) as (one, other):
            await one.fetch(version)
            subject = subjects.peer("c1", "n1", "chunks")

            async def asked(node: str) -> ChunksHeld:
                return _held(await fleet.bus.request(subject, encode(ChunksAsk(node, version.artifact)), 2.0))

            stranger = await asked("stranger")
            assert "is not in cluster c1" in stranger.error and not stranger.at and not stranger.key
            held = await asked("n2")
            assert held.takes and held.have is None
            chunk = Chunk(digest_of(DATA[:CHUNK_BYTES]), CHUNK_BYTES)
            for me, key in (("n2", "0" * 64), ("stranger", held.key), ("n1", held.key)):
                guess = await Link.open(me, "c1", ChunksHeld(held.at, key))
                with pytest.raises(EOFError):
                    await guess.get(chunk)
            known = await Link.open("n2", "c1", held)
            assert await known.get(chunk) == DATA[:CHUNK_BYTES]
            nowhere = Chunk("../../../fog.creds", 1)
            assert await known.get(nowhere) is None, "what is on no shelf is not read"
            one.told(["n1"], version=2)
            gone = await Link.open("n2", "c1", held)
            with pytest.raises(EOFError):
                await gone.get(chunk)
            known.close()
            assert other.share.served_bytes == 0


async def test_a_connection_that_the_peer_has_ended_is_made_anew(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        version = await ready(fleet, DATA[: 3 * CHUNK_BYTES])
        async with sharers(target, tmp_path, NAMES[:2]) as (one, _):
            await one.fetch(version)
            held = one.share.held("c1", ChunksAsk("n2", version.artifact))
            links, chunk = Links("n2"), Chunk(digest_of(DATA[:CHUNK_BYTES]), CHUNK_BYTES)
            assert await links.get("c1", "n1", held, chunk) == DATA[:CHUNK_BYTES]
            await one.share.close()
            with pytest.raises(OSError):
                await links.get("c1", "n1", held, chunk)
            host, port = held.at.split(":")
            await one.share.open(host, int(port), ("127.0.0.1", 4222))
            assert await links.get("c1", "n1", held, chunk) == DATA[:CHUNK_BYTES]
            await one.share.close()
            await one.share.open(host, int(port), ("127.0.0.1", 4222))
            assert await links.get("c1", "n1", held, chunk) == DATA[:CHUNK_BYTES]
            links.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"HTTP/1.0 200 OK\n", OSError), (b"x" * 1000, OSError), (b"", OSError), (b"FOG-CHUNKS 1 aa\n", EOFError),
     (b"FOG-CHUNKS 1 aa\n4\nabc", EOFError), (b"FOG-CHUNKS 1 aa\n5\nabcde", BadInput),
     (b"FOG-CHUNKS 1 aa\n" + b"4" * 1000, BadInput)],
)  # fmt: skip
async def test_whatever_a_peer_answers_ends_as_an_error_that_is_expected(answer: bytes, error: type[Exception]) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.write_eof()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        links = Links("n2")
        with pytest.raises(error):
            await links.get("c1", "n1", ChunksHeld(f"127.0.0.1:{port}", "0" * 64), Chunk(digest_of(b"abcd"), 4))
        links.close()


async def test_a_peer_that_says_nothing_is_not_kept_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "CONNECT_S", 0.05)
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError) as kept:  # as long as that is, nothing of the attempt is collected
            await Link.open("n2", "c1", ChunksHeld(f"127.0.0.1:{port}", "0" * 64))
        async with asyncio.timeout(5.0):
            await gone.wait()
        assert isinstance(kept.value, TimeoutError)


async def test_a_share_that_is_opened_twice_at_once_listens_once(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    start = asyncio.start_server

    async def counted(*args: object, **options: object) -> asyncio.Server:
        started.append(args)
        return await start(*args, **options)  # type: ignore[arg-type]

    async with sharers(target, tmp_path, NAMES[:1]) as (one,):
        await one.share.close()
        monkeypatch.setattr(asyncio, "start_server", counted)
        await asyncio.gather(one.share.open(*LOOPBACK), one.share.open(*LOOPBACK))
        assert len(started) == 1 and one.share.at


async def test_answers_that_nobody_reads_do_not_pile_up(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share_module, "SEND_S", 0.05)
    async with sharers(target, tmp_path, NAMES[:1]) as (one,):
        accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
        async with server:
            _, asking = await asyncio.open_connection(*server.sockets[0].getsockname())
            answering = await accepted.get()
            asking.transport.pause_reading()  # type: ignore[attr-defined]
            answering.write(bytes(1 << 25))  # more than the system takes
            with pytest.raises(TimeoutError):
                await one.share._answer("sha256-nothing", answering)
            answering.transport.abort()
            asking.close()


async def test_a_member_that_leaves_while_it_is_asked_ends_no_download(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swarm, "ASK_S", (0.0, 0.0))  # asked again in the very moment in which the first chunks are
    async with stack(target, tmp_path) as fleet:
        version = await ready(fleet)
        async with sharers(target, tmp_path, NAMES[:2]) as (one, other):
            other.why_not = "it is not there yet"
            await one.fetch(version)
            other.why_not = ""
            rounds = iter([{"n1": "c1"}])
            monkeypatch.setattr(other.peers, "near", lambda artifact: next(rounds, {}))
            await other.fetch(version)
            assert other.installed(version, "model.bin") == DATA


async def test_a_disk_that_is_full_is_not_laid_at_a_peer_s_door(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(digest: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    async with stack(target, tmp_path) as fleet:
        version = await ready(fleet)
        async with sharers(target, tmp_path, NAMES[:2]) as (one, other):
            other.why_not = "it is not there yet"
            await one.fetch(version)
            other.why_not = ""
            monkeypatch.setattr(other.disk, "put_chunk", full)
            with pytest.raises(OSError, match="No space"):
                await other.fetch(version)
            assert not other.peers.out


async def test_a_chunk_that_comes_twice_counts_once_and_one_that_another_install_took_away_is_fetched_again(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stack(target, tmp_path) as fleet:
        version = await ready(fleet)
        async with sharers(target, tmp_path, NAMES[:1]) as (one,):
            get = one.peers.get

            async def get_and_lose(wanted: Wanted) -> None:
                await get(wanted)
                wanted.came(wanted.missing[0])
                one.disk.chunk(wanted.missing[0].digest).unlink()

            with monkeypatch.context() as patched:
                patched.setattr(one.peers, "get", get_and_lose)
                with pytest.raises(BadInput, match="not here any more"):  # which is tried again
                    await one.fetch(version)
            assert one.progress.got == len(DATA) and not one.progress.from_peers
            await one.fetch(version)
            assert one.progress.reused == len(DATA) - CHUNK_BYTES
            assert one.installed(version, "model.bin") == DATA


async def test_a_share_holds_to_its_limits_whoever_connects(target: Target, tmp_path: Path) -> None:
    async with sharers(target, tmp_path, NAMES[:2]) as (one, _):
        host, port = one.share.at.split(":")
        links = [await asyncio.open_connection(host, int(port)) for _ in range(16)]
        for reader, _ in links:
            assert (await reader.readline()).startswith(GREETING.encode())
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await reader.read() == b"", "the seventeenth is closed at once"
        links[0][1].write(b"x" * 10_000)
        assert await links[0][0].read() == b"", "a line without an end is no reason to keep it"
        for _, each in (*links, (reader, writer)):
            each.close()


async def test_when_one_is_killed_in_the_middle_the_others_go_on(target: Target, link: Proxy, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        share = ("--nats", link.target(target).url, "--share", "127.0.0.1")
        await fleet.coordinator()
        fleet.start_node("n1", *share)
        fleet.start_node("n2", *share)
        fleet.start_node("n3", *share, "--limit", "bandwidth_mbps=8")  # a quarter of a MiB takes as many seconds
        await led(fleet, size=3)
        version = await ready(fleet)
        before = link.passed_bytes
        await create(fleet, "r1", version)
        chunks = app_folder(fleet, "n3").parent / ".chunks"
        await eventually(lambda: chunks.is_dir() and len(list(chunks.iterdir())) > 3)
        assert not any((app_folder(fleet, name) / "current").exists() for name in NAMES[:2]), "they wait for its part"
        fleet.kill("n3", signal.SIGKILL)
        await eventually(lambda: all((app_folder(fleet, name) / "current").exists() for name in NAMES[:2]))
        assert link.passed_bytes - before < 1.4 * version.artifact_bytes
        fleet.start_node("n3", *share)
        after = await ended(fleet, "r1", RolloutPhase.SUCCEEDED)
        assert all((in_use(fleet, name) / "model.bin").read_bytes() == DATA for name in NAMES[:3])
        assert all(device.peer_bytes for device in after.devices)
