"""How often a version crosses the wide link to a cluster of real nodes that hand it to each other."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

from client.api import Api
from client.clusters import Clusters
from client.rollouts import Rollouts
from schemas import subjects
from schemas.codec import Decoder
from schemas.errors import FogError
from schemas.peer import Pong
from schemas.store import Store
from tests.bench.figures import Figure
from tests.bench.rollouts import AT_ONCE, TOTAL, fill, rolled_out
from tests.bench.stack import Stack

NODES = 8
CLUSTER = "home"
TOLD_S = 30.0
_pong: Decoder[Pong] = Decoder(Pong)


async def wide_link_copies() -> Figure:
    """All that the broker sends until every node of a cluster has the version, in copies of it; without sharing it is one a
    node. (The broker is what lies beyond the wide link; chunks between nodes go past it.)"""
    with tempfile.TemporaryDirectory(prefix="fog-bench-") as folder:
        files, dice = Path(folder, "files"), random.Random(1)
        fill(files, dice)
        async with Stack() as stack:
            await _cluster(stack)
            rollouts = Rollouts(stack.bus, Store(stack.bus), Api(stack.bus), "bench", Path(folder))
            found = await rolled_out(stack, rollouts, files, "1.0", NODES)
    detail = {
        "nodes": NODES,
        "artifact_mb": TOTAL // 1_000_000,
        "from_peers_mb": round(found["from_peers"] / 1e6),
        "took_s": round(found["took_s"], 2),
        "nodes_cpu_s": round(found["nodes_s"], 2),
        "broker_cpu_s": round(found["broker_s"], 2),
    }
    copies = round(found["sent"] / TOTAL, 3)
    return Figure("wide_link_copies", copies, "copies a cluster", 1.1, "one a node", at_most=True, detail=detail)


async def _cluster(stack: Stack) -> None:
    """Nodes that share, in one cluster that all of them know of."""
    names = [f"n{number}" for number in range(NODES)]
    for begin in range(0, NODES, AT_ONCE):
        some = names[begin : begin + AT_ONCE]
        await asyncio.gather(*(stack.start_node(name, "--share", "127.0.0.1") for name in some))
    await Clusters(Api(stack.bus)).create(CLUSTER, tuple(names))
    async with asyncio.timeout(TOLD_S):
        for name in names:
            while not await _knows(stack, name):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.1)


async def _knows(stack: Stack, name: str) -> bool:
    try:
        answer = await stack.bus.request(subjects.peer(CLUSTER, name, "ping"), b"", 2.0)
    except FogError:
        return False
    return not _pong(answer).error
