"""What members of a cluster do together, as real processes: decide, and pool memory."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from client.clusters import Cluster, Clusters
from schemas import limits, streams
from schemas.decision import Verdict
from schemas.errors import BadInput, Refused
from schemas.jetstream import stream_info
from schemas.target import Target
from tests.integration.stack import Stack, stack
from tests.integration.test_cluster_life import STRONG, fog, led
from tests.until import eventually


def cluster(fleet: Stack, name: str = "c1") -> Cluster:
    return Cluster(name, Clusters(fleet.api), fleet.bus)


async def test_a_cluster_decides_by_majority_and_each_outcome_is_recorded_once(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path / "stack") as fleet:
        await fleet.coordinator()
        await fleet.node("n1", *STRONG)
        await fleet.node("n2")
        await fleet.node("n3")
        await fleet.node("against", "--vote", "no")
        await Clusters(fleet.api).create("sole", ("against",))
        await led(fleet, "sole", by="against")
        await led(fleet, size=3)
        shown = fog(fleet, "propose", "c1", "take version 2?", "--json")
        decision = json.loads(shown.stdout)
        assert shown.returncode == 0, shown.stderr
        assert (decision["verdict"], decision["leader"]) == ("accepted", "n1")
        assert len(decision["yes"]) >= 2 and decision["term"] == (await led(fleet)).term
        refused = fog(fleet, "propose", "sole", "take version 2?")
        assert refused.returncode == 1 and "rejected" in refused.stdout and "its owner's policy" in refused.stdout

        # Asked again under the same id, the outcome is the recorded one.
        first = await cluster(fleet).propose("again?", proposal="p-again")
        assert await cluster(fleet).propose("something else?", proposal="p-again") == first

        # The leader is killed with a proposal open that only it has voted on: another one leads it to its end.
        before = await led(fleet)
        for name in ("n2", "n3"):
            fleet.processes[name].send_signal(signal.SIGSTOP)
        deciding = asyncio.create_task(cluster(fleet).propose("and now?", timeout_s=20, proposal="p-handed-on"))
        await eventually(lambda: len(fleet.seen("cluster.proposed", "c1")) == 3, 10)
        fleet.kill("n1")
        for name in ("n2", "n3"):
            fleet.processes[name].send_signal(signal.SIGCONT)
        outcome = await deciding
        assert outcome.verdict is Verdict.ACCEPTED and set(outcome.yes) == {"n2", "n3"}
        assert outcome.leader != "n1" and outcome.term > before.term
        await eventually(lambda: len(fleet.seen("cluster.decided", "c1")) >= 3, 10)
        told = [e["data"]["proposal"] for e in fleet.seen("cluster.decided", "c1")]
        assert len(told) == len(set(told)) == 3 and "p-handed-on" in told
        kept: Any = (await stream_info(fleet.bus, f"KV_{streams.DECISIONS}"))["state"]
        assert kept["num_subjects"] == kept["messages"] == 8, "four proposals, an outcome each"


async def test_members_pool_memory_and_losing_one_loses_nothing(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path / "stack") as fleet:
        await fleet.coordinator()
        for name in ("n1", "n2", "n3"):
            await fleet.node(name, "--cache-mb", "8")
        await led(fleet, size=3)
        one = cluster(fleet)
        await eventually(lambda: all_there(one, 3), 60.0, "all members know each other")
        values = {f"key {number}": bytes([number]) * 1000 for number in range(40)}
        assert {await one.cache.put(key, value, ttl_s=60) for key, value in values.items()} == {2}
        assert {key: await one.cache.get(key) for key in values} == values
        assert await one.cache.get("nothing") is None
        assert sum([(await one.ping(node)).cache_items for node in ("n1", "n2", "n3")]) == 80

        fleet.kill("n2")
        await eventually(lambda: all_there(one, 2), 60.0, "the loss is known")
        assert {key: await one.cache.get(key) for key in values} == values
        await eventually(lambda: held(one, ("n1", "n3"), 80), 60.0, "every key has two copies again")

        fleet.kill("n1")  # the second loss, which without the new copies would lose some
        await eventually(lambda: all_there(one, 1), 60.0, "the loss is known")
        assert {key: await one.cache.get(key) for key in values} == values
        await one.cache.drop("key 1")
        assert await one.cache.get("key 1") is None
        with pytest.raises(BadInput, match="value"):
            await one.cache.put("large", bytes(limits.CACHE_VALUE_MAX + 1))


async def test_a_cluster_whose_members_offer_no_memory_says_so(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path / "stack") as fleet:
        await fleet.coordinator()
        await fleet.node("n1")
        await led(fleet)
        with pytest.raises(Refused, match="offers memory") as refused:
            await cluster(fleet).cache.put("key", b"value")
        assert "cache-mb" in refused.value.hint


async def all_there(one: Cluster, count: int) -> bool:
    members = [m.node for m in (await one.info()).members if m.state == "online"]
    answered = await asyncio.gather(*(one.ping(node) for node in members), return_exceptions=True)
    return len(members) == count and not any(isinstance(pong, BaseException) for pong in answered)


async def held(one: Cluster, nodes: tuple[str, ...], count: int) -> bool:
    return sum([(await one.ping(node)).cache_items for node in nodes]) == count
