"""A 50 MB version to many real nodes at once, against as many plain copies of it over the same loopback.

The plain copy is what a careful person writes by hand: a process for each device that reads the bytes from a TCP connection
into a file, checks their SHA-256 and forces the file to the disk. It has no resume, no signature, no atomic install, and
sends everything each time.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from pathlib import Path

from client.api import Api
from client.app_file import AppFile
from client.rollouts import Rollouts
from schemas.artifact import digest_of
from schemas.rollout import DataOnly, Strategy, StrategyKind
from schemas.rollout_state import RolloutPhase
from schemas.store import Store
from tests.bench.figures import Figure
from tests.bench.processes import ROOT, cpu_seconds, environment
from tests.bench.stack import Stack

NODES = int(os.environ.get("FOG_BENCH_NODES", "50"))  # 40 MB of memory and 100 MB of disk each
AT_ONCE = 5  # nodes that start at a time
FILES, FILE_BYTES = 10, 5_000_000
TOTAL = FILES * FILE_BYTES
EVERYBODY = Strategy(StrategyKind.ROLLING, max_concurrent=10_000, between_s=0.0)

# What cannot be had for less, in times of the plain copies' work, whatever machine it is: those send, receive, hash and write
# each byte once. A version lies in the broker's store (read there, sent) and on a device goes through a file of its own for
# each chunk, so that a download goes on after a kill: hashed as it comes and again when the files are put together (what a
# crash spoiled must not run), written twice. That is twice of everything but the wire. The aim is at most twice that floor:
# as with the tasks' `single_throughput_ratio`, half of what the machine could do.
FLOOR = 2.0
TARGET = 2 * FLOOR

COPY = """
import hashlib, os, socket, sys
from schemas.procs import die_with_parent
die_with_parent()
print("ready", flush=True)
sys.stdin.readline()
digest = hashlib.sha256()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as link, open(sys.argv[2], "wb") as file:
    while data := link.recv(1 << 18):
        digest.update(data)
        file.write(data)
    file.flush()
    os.fsync(file.fileno())
sys.exit(digest.hexdigest() != sys.argv[3])
"""


async def rollout_bytes_ratio() -> Figure:
    """What the broker sends until every node has the version, to what plain copies of it are."""
    first, second, _ = await _measured()
    ratio = round(first["sent"] / (NODES * TOTAL), 4)
    detail = {
        "nodes": NODES,
        "sent_mb": round(first["sent"] / 1e6),
        "with_one_file_of_ten_changed": round(second["sent"] / (NODES * TOTAL), 4),
        "uploaded_then_mb": round(second["uploaded"] / 1e6, 1),
    }
    return Figure(
        "rollout_bytes_ratio", ratio, "of plain copies", 1.02, "as many copies of 50 MB", at_most=True, detail=detail
    )


async def rollout_seconds_ratio() -> Figure:
    """From the request until every node is healthy, to plain copies to as many processes at once."""
    first, second, plain_s = await _measured()
    detail = {
        "nodes": NODES,
        "floor": FLOOR,
        "rollout_s": round(first["took_s"], 2),
        "plain_s": round(plain_s, 2),
        "with_one_file_of_ten_changed_s": round(second["took_s"], 2),
        "upload_s": round(first["upload_s"], 2),
        "coordinator_cpu_ms_a_device": round(1000 * first["coordinator_s"] / NODES, 2),
        "broker_cpu_s": round(first["broker_s"], 2),
        "nodes_cpu_s": round(first["nodes_s"], 2),
    }
    what = "plain copies over TCP, checked and forced to the disk"
    ratio = round(first["took_s"] / plain_s, 2)
    return Figure("rollout_seconds_ratio", ratio, "times the time", TARGET, what, at_most=True, detail=detail)


@functools.cache
def _run() -> asyncio.Task[tuple[dict[str, float], dict[str, float], float]]:
    return asyncio.get_running_loop().create_task(_measure())


async def _measured() -> tuple[dict[str, float], dict[str, float], float]:
    """Both figures are of one run."""
    return await _run()


async def _measure() -> tuple[dict[str, float], dict[str, float], float]:
    with tempfile.TemporaryDirectory(prefix="fog-bench-") as folder:
        files, dice = Path(folder, "files"), random.Random(1)
        data = fill(files, dice)
        plain_s = await _plain(data)
        async with Stack() as stack:
            for begin in range(0, NODES, AT_ONCE):
                some = range(begin, min(begin + AT_ONCE, NODES))
                await asyncio.gather(*(stack.start_node(f"n{number}") for number in some))
            rollouts = Rollouts(stack.bus, Store(stack.bus), Api(stack.bus), "bench", Path(folder))
            first = await rolled_out(stack, rollouts, files, "1.0")
            (files / "0.bin").write_bytes(dice.randbytes(FILE_BYTES))
            return first, await rolled_out(stack, rollouts, files, "1.1"), plain_s


def fill(files: Path, dice: random.Random) -> bytes:
    """Make the folder of what is brought out: `TOTAL` bytes, which are returned."""
    files.mkdir()
    for number in range(FILES):
        (files / f"{number}.bin").write_bytes(dice.randbytes(FILE_BYTES))
    return b"".join(path.read_bytes() for path in sorted(files.iterdir()))


async def rolled_out(
    stack: Stack, rollouts: Rollouts, files: Path, version: str, count: int = NODES
) -> dict[str, float]:
    """Bring what is in a folder to that many nodes: ``n0``, ``n1``, …; the seconds and bytes that it takes."""
    app = AppFile("bench", version, str(files), DataOnly(), strategy=EVERYBODY)
    nodes = [stack.pid(f"n{number}") for number in range(count)]
    before = cpu_seconds([stack.pid("coordinator")]), cpu_seconds([stack.broker_pid]), cpu_seconds(nodes)
    began = time.monotonic()
    row, sent = await rollouts.apply(app)
    created, written = time.monotonic(), _written(stack.broker_pid)
    async for info in rollouts.watch(row.id):
        last = info
    took_s = time.monotonic() - created
    if last.row.phase is not RolloutPhase.SUCCEEDED or last.row.stages != {"healthy": count}:
        raise RuntimeError(f"it ended as {last.row.phase.value}: {last.row.stages} {last.row.reason}")
    after = cpu_seconds([stack.pid("coordinator")]), cpu_seconds([stack.broker_pid]), cpu_seconds(nodes)
    coordinator_s, broker_s, nodes_s = (now - then for now, then in zip(after, before, strict=True))
    return {
        "took_s": took_s, "upload_s": created - began, "sent": _written(stack.broker_pid) - written,
        "uploaded": sent.sent_bytes, "from_peers": sum(device.peer_bytes for device in last.devices),
        "coordinator_s": coordinator_s, "broker_s": broker_s, "nodes_s": nodes_s,
    }  # fmt: skip


def _written(pid: int) -> int:
    """Bytes that a process has written to sockets and files (Linux)."""
    words = Path(f"/proc/{pid}/io").read_text().split()
    return int(words[words.index("wchar:") + 1])


async def _plain(data: bytes) -> float:
    """Seconds for as many copies at once; the processes are there before the clock starts."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    digest = digest_of(data).removeprefix("sha256-")
    with tempfile.TemporaryDirectory(prefix="fog-bench-") as folder:
        copying = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", COPY, str(port), str(Path(folder, str(number))), digest,
                stdin=PIPE, stdout=PIPE, env=environment(), cwd=ROOT,
            )
            for number in range(NODES)
        ]  # fmt: skip
        for process in copying:
            assert process.stdout is not None
            await process.stdout.readline()
        began = time.monotonic()
        for process in copying:
            assert process.stdin is not None
            process.stdin.write(b"\n")
        codes = await asyncio.gather(*(process.wait() for process in copying))
        took_s = time.monotonic() - began
    server.close()
    if any(codes):
        raise RuntimeError(f"a plain copy failed: {codes}")
    return took_s
