"""Clusters of real nodes: they form, their leader is killed, another leads, a successor of the coordinator keeps them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from client.clusters import Clusters
from schemas import subjects
from schemas.cluster import ClusterRow, Membership, Peer
from schemas.codec import Decoder, encode
from schemas.membership import NodeAnswer
from schemas.target import Target
from tests.integration.stack import ROOT, Stack, stack
from tests.until import eventually

_answer = Decoder(NodeAnswer)
STRONG = ("--device", "cpu_freq_ghz=3", "--device", "cpu_cores=8")


def fog(fleet: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    where = ("--creds", str(fleet.folder / "fog.creds"), "--home", str(fleet.folder))
    argv = [sys.executable, "-P", "-m", "client.cli", *words, *where]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


async def led(fleet: Stack, cluster: str = "c1", by: str = "", size: int = 0) -> ClusterRow:
    """The cluster, once it has a leader (`by`) and so many members."""
    found: list[ClusterRow] = []

    async def so() -> bool:
        found[:] = [row for row in await Clusters(fleet.api).list() if row.id == cluster]
        return bool(found) and bool(found[0].leader) and by in ("", found[0].leader) and len(found[0].members) >= size

    await eventually(so, 60.0, f"{cluster} led by {by or 'anyone'}")
    return found[0]


def told(fleet: Stack, kind: str) -> list[dict[str, Any]]:
    return [event["data"] for event in fleet.seen(f"cluster.{kind}", "c1")]


async def test_a_killed_leader_is_followed_by_another_at_once_under_a_higher_term(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path / "stack") as fleet:
        await fleet.coordinator()
        await fleet.node("n1")
        await fleet.node("n2", *STRONG)
        await fleet.node("n3")
        before = await led(fleet, size=3)
        assert {member.node for member in before.members} == {"n1", "n2", "n3"}
        await eventually(lambda: "leading" in fleet.log(before.leader), 60.0, "the leader was told")
        since = len(fleet.events)
        fleet.kill(before.leader)
        await fleet.event("cluster.leader-elected", "c1", since=since)
        after = await led(fleet, size=2)
        assert after.leader != before.leader and after.term > before.term
        assert told(fleet, "leader-elected")[-1]["reason"] == f"{before.leader} was lost"
        lines = fog(fleet, "events", "cluster").stdout
        assert f"{before.leader} was lost" in lines and "cluster.formed" in lines

        # What the old leader's term says is refused by the members.
        stale = Membership(99, "c1", before.term, 99, before.leader, (Peer(before.leader), Peer("n3")))
        left = next(member.node for member in after.members if member.node != after.leader)
        await eventually(lambda: "leading" in fleet.log(after.leader), 60.0, "the new leader was told")
        answer = _answer(await fleet.bus.request(subjects.command(left, "cluster"), encode(stale)))
        assert not answer.ok and "is older than" in answer.error


async def test_a_successor_keeps_clusters_and_leaders_and_tasks_find_their_cluster(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path / "stack") as fleet:
        await fleet.coordinator("first")
        for name in ("n1", "n2", "n3"):
            await fleet.node(name, "--label", f"room={name}")
        before = await led(fleet, size=3)
        assert fog(fleet, "cluster", "create", "attic", "--selector", "room=n2").returncode == 0
        assert fog(fleet, "cluster", "create", "mine", "n1").returncode == 0
        attic = await led(fleet, "attic", by="n2")
        fleet.kill("first")
        await fleet.coordinator("second")
        rows = {row.id: row for row in await Clusters(fleet.api).list()}
        assert {name: [m.node for m in row.members] for name, row in rows.items()} == {
            "c1": ["n2", "n3"], "attic": ["n2"], "mine": ["n1"],
        }  # fmt: skip
        assert (rows["attic"].leader, rows["attic"].term) == ("n2", attic.term)
        assert rows["c1"].leader in ("n2", "n3") and rows["c1"].term >= before.term
        there = await fleet.result(await fleet.submit("echo", 1, cluster="attic"))
        assert there.node == "n2"
        refused = fog(fleet, "cluster", "dissolve", "nothing")
        assert refused.returncode == 125 and "there is no cluster nothing" in refused.stderr
        shown = json.loads(fog(fleet, "clusters", "--json").stdout)
        assert {row["id"] for row in shown} == {"c1", "attic", "mine"}
        assert all(row["why"] for row in shown)
