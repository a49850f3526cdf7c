"""Exclusive work on real nodes: it stops by itself when its lease ends, its whole process tree, before it runs elsewhere."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from schemas.target import Target
from tests.integration.stack import Stack, stack
from tests.proxy import proxied
from tests.until import eventually


def spans(journal: Path) -> dict[str, tuple[float, float]]:
    """From when to when each node ran it, by the one clock of this machine."""
    found: dict[str, tuple[float, float]] = {}
    for line in journal.read_text().splitlines() if journal.exists() else ():
        words = line.split()
        if len(words) == 2:
            at = float(words[1])
            found[words[0]] = (found.get(words[0], (at, at))[0], at)
    return found


async def short(s: Stack) -> None:
    s.start("c1", "tests.integration.short_leases", "--name", "c1")
    await s.event("coordinator.elected", "c1")


@pytest.mark.parametrize("how", ["its link swallows", "its daemon is frozen"])
async def test_exclusive_work_of_a_node_that_cannot_be_told_ends_before_it_runs_elsewhere(
    target: Target, tmp_path: Path, how: str
) -> None:
    journal = tmp_path / "journal"
    with proxied(target) as proxy:
        async with stack(target, tmp_path / "s") as s, stack(proxy.target(target), tmp_path / "far") as far:
            await short(s)
            await far.node("n1")
            task = await s.submit("journal", str(journal), {"n1": 60.0, "n2": 0.3}, exclusive=True)
            await eventually(lambda: "n1" in spans(journal))
            await s.node("n2")
            if how == "its link swallows":
                proxy.swallow()
            else:
                far.processes["n1"].send_signal(signal.SIGSTOP)
            result = await s.result(task, 60.0)
            ran = spans(journal)
            assert result.node == "n2" and ran["n1"][1] < ran["n2"][0], ran
            if how == "its link swallows":
                proxy.mend()
            else:
                far.processes["n1"].send_signal(signal.SIGCONT)
            await s.nothing_left(60.0)
            assert not s.doubled and s.results[task].node == "n2"


async def test_exclusive_work_outlasts_its_lease_while_that_is_renewed(target: Target, tmp_path: Path) -> None:
    """Other exclusive work on the same node waits for nobody."""
    journal = tmp_path / "journal"
    async with stack(target, tmp_path / "s") as s:
        await short(s)
        await s.node("n1")
        task = await s.submit("journal", str(journal), {"n1": 7.0}, exclusive=True)
        assert bytes((await s.result(await s.submit("echo", 7, exclusive=True))).value) == b"7"
        result = await s.result(task, 60.0)
        assert (result.node, result.attempts, result.placement) == ("n1", 1, 1)
        await s.nothing_left(30.0)


async def test_exclusive_work_runs_on_through_a_takeover(target: Target, tmp_path: Path) -> None:
    """What waits in the broker for another node meanwhile is not held up either."""
    journal = tmp_path / "journal"
    async with stack(target, tmp_path / "s") as s:
        await s.coordinator("c1")
        await s.node("n1")
        task = await s.submit("journal", str(journal), {"n1": 5.0}, exclusive=True)
        await eventually(lambda: "n1" in spans(journal))
        s.kill("c1")
        await s.coordinator("c2")
        assert bytes((await s.result(await s.submit("echo", 7, exclusive=True))).value) == b"7"
        result = await s.result(task, 60.0)
        assert (result.node, result.attempts, result.placement) == ("n1", 1, 1)
        await s.nothing_left(30.0)
