"""A real cluster: what its pooled memory costs against the broker's key-value store, and how soon a dead leader is replaced."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from random import Random
from statistics import median

from client.api import Api
from client.clusters import Cluster, Clusters
from schemas import streams, subjects
from schemas.bus import Bus
from schemas.kv import Kv
from schemas.store import Store
from tests.bench.figures import Figure
from tests.bench.stack import Stack

KEYS, READS, VALUE = 200, 1_000, b"x" * 4096
NODES = 5
KILLS = 3
READY_S = 30.0


async def cluster_cache_ratio() -> Figure:
    """Reading 4 KiB values one after the other: our cache's median time against the broker's, and what a lost member costs."""
    async with Stack() as stack:
        names = [f"n{number}" for number in range(NODES)]
        await asyncio.gather(*(stack.start_node(name, "--cache-mb", "16") for name in names))
        cluster = await _ready(stack.bus, NODES)
        kv = Kv(stack.bus, Store(stack.bus), streams.JOBS)
        copies = [await cluster.cache.put(f"k{n}", VALUE) for n in range(KEYS)]
        for number in range(KEYS):
            await kv.put(f"bench-{number}", VALUE)
        rounds = [(await _reads(cluster.cache.get, "k"), await _reads(kv.get, "bench-")) for _ in range(5)]
        stack.end(names[0], signal.SIGKILL)
        hits = await _hits(cluster)
        detail = {
            "cache_get_us": round(median(ours for ours, _ in rounds)),
            "broker_kv_get_us": round(median(theirs for _, theirs in rounds)),
            "copies": min(copies),
            "hits_right_after_a_member_was_killed": f"{hits} of {KEYS}",
        }
        if hits < KEYS:
            raise RuntimeError(f"{KEYS - hits} values are gone with one member")
    ratio = round(median(ours / theirs for ours, theirs in rounds), 2)
    what = "a get from the broker's KV; the way to a member has one hop more"
    return Figure("cluster_cache_ratio", ratio, "times the latency", 2.5, what, at_most=True, detail=detail)


async def leader_change_ms() -> Figure:
    """From the kill of a leader until the event that names the next one is stored and heard."""
    took: list[float] = []
    async with Stack() as stack:
        elected = asyncio.Event()

        def on_event(_subject: str, _reply: str, _data: bytes, _headers: bytes) -> None:
            elected.set()

        await asyncio.gather(*(stack.start_node(f"n{number}") for number in range(NODES)))
        cluster = await _ready(stack.bus, NODES)
        await stack.bus.subscribe(subjects.event("cluster.leader-elected", "*"), on_event)
        for _ in range(KILLS):
            leader = (await cluster.info()).leader
            elected.clear()
            began = time.perf_counter()
            stack.end(leader, signal.SIGKILL)
            async with asyncio.timeout(READY_S):
                await elected.wait()
            took.append(1000 * (time.perf_counter() - began))
    detail = {"kills": [round(ms) for ms in took]}
    return Figure("leader_change_ms", round(median(took)), "ms", 150.0, "kill to the next leader's event", True, detail)


async def _ready(bus: Bus, members: int) -> Cluster:
    clusters = Clusters(Api(bus))
    async with asyncio.timeout(READY_S):
        while True:
            rows = [row for row in await clusters.list() if len(row.members) == members and row.leader]
            if rows:
                cluster = Cluster(rows[0].id, clusters, bus)
                pings = await asyncio.gather(
                    *(cluster.ping(member.node) for member in rows[0].members), return_exceptions=True
                )
                if not any(isinstance(pong, BaseException) for pong in pings):
                    return cluster
            await asyncio.sleep(0.1)


async def _reads(get: Callable[[str], Awaitable[object]], prefix: str) -> float:
    """The median microseconds of a get."""
    draw, took = Random(1), []
    for _ in range(READS // 5):
        key = f"{prefix}{draw.randrange(KEYS)}"
        began = time.perf_counter()
        if await get(key) is None:
            raise RuntimeError(f"{key} is gone")
        took.append(1e6 * (time.perf_counter() - began))
    return median(took)


async def _hits(cluster: Cluster) -> int:
    return sum([await cluster.cache.get(f"k{number}") == VALUE for number in range(KEYS)])
