"""A node behind a cut link: it goes on, keeps what it finished on disk, and delivers it later, whoever it is by then."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import Raw

from node.core.letters import opened
from schemas.objects import Objects
from schemas.target import Target
from schemas.task import FunctionRun, History, OutcomeKind, Task
from tests.integration.node_fleet import Fleet, behind_a_proxy, until
from tests.integration.stack import stack
from tests.proxy import Proxy, proxied

OWN = '''
import os, time
import node

@node.function
def mark(path: str, size: int = 0) -> bytes:
    """Leave a line when begun, so that calls can be counted, and give many bytes back when told to go on."""
    with open(path, "a") as file:
        file.write("x")
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)
    return b"y" * size
'''


# After an answered beat a registration follows all the same, at any moment of the next minute.
NOT_SOON = """
import sys
from node import member
member.LATER_S = 1e9
del sys.argv[1:3]  # -m node
from node.__main__ import main
sys.exit(main())
"""


class Cut:
    """A fleet whose node n1 reaches the broker through a proxy."""

    def __init__(self, fleet: Fleet, proxy: Proxy, folder: Path) -> None:
        self.fleet, self.proxy, self.folder = fleet, proxy, folder
        self.outbox = folder / "nodes" / "n1" / "outbox"
        self.marks = folder / "marks"

    async def start(self) -> subprocess.Popen[bytes]:
        return await self.fleet.node("n1", "--import", "own_functions", "--leave-grace-s", "0.2")

    async def begin(self, size: int = 0, **more: object) -> Task:
        """A task that has begun, and ends after `cut`."""
        before = self.runs()
        args = f'["{self.marks}", {size}]'.encode()
        task = await self.fleet.place(FunctionRun("mark", Raw(args)), **more)
        await until(lambda: self.runs() > before, what=f"it runs; {self.fleet.log()}")
        return task

    async def cut(self, end: bool = True) -> None:
        """The link is cut, the node knows it, and only then what runs ends."""
        self.proxy.cut()
        await until(lambda: "the broker is gone" in self.fleet.log(), what="the node sees it")
        if end:
            self.marks.with_name("marks.go").touch()

    def runs(self) -> int:
        return len(self.marks.read_text()) if self.marks.exists() else 0

    def letters(self) -> list[Path]:
        return sorted(self.outbox.glob("*.letter")) if self.outbox.exists() else []

    async def kept(self, number: int = 1) -> None:
        await until(lambda: len(self.letters()) == number, 60.0, f"{number} letters; {self.fleet.log()}")

    async def delivered(self) -> None:
        """All of it, and nothing is left on the disk or in the node's queue."""
        await until(lambda: not self.letters() and not list(self.outbox.glob("*.blob")), 60.0, self.fleet.log())
        await self.fleet.until_acked(20.0)


@pytest.fixture
async def cut(target: Target, tmp_path: Path) -> AsyncIterator[Cut]:
    async with behind_a_proxy(target, tmp_path, OWN) as (fleet, proxy):
        yield Cut(fleet, proxy, tmp_path)


async def test_a_node_that_is_back_asks_by_one_beat_and_registers_only_where_that_is_not_enough(cut: Cut) -> None:
    """Two thousand of them are back at the same moment after a broker's restart."""
    fleet = cut.fleet
    fleet.python = ("-c", NOT_SOON)
    await cut.start()
    fleet.confirming = True

    async def reconnect() -> None:
        links = fleet.log().count("the broker is back")
        cut.proxy.cut()
        cut.proxy.mend()
        await until(lambda: fleet.log().count("the broker is back") > links, 60.0, "it is back")

    before = len(fleet.beats)
    await reconnect()
    await until(lambda: any(beat.full for beat in fleet.beats[before:]), what="all that it has to say")
    assert (await fleet.result(await fleet.place(), 20.0)).node == "n1", "and it pulls its work"
    assert len(fleet.registers) == 1
    fleet.term, fleet.boot = 2, 2  # another coordinator acts by now, to whom its boot says nothing
    await reconnect()
    await until(lambda: len(fleet.registers) == 2, 60.0, "a registration with the successor")
    fleet.confirming = False
    await reconnect()
    await until(lambda: len(fleet.registers) == 3, 60.0, "a registration where no answer came")


async def test_a_result_of_a_node_whose_link_is_cut_is_kept_on_disk_and_delivered_when_it_is_back(cut: Cut) -> None:
    await cut.start()
    fleet = cut.fleet
    task = await cut.begin()
    await fleet.result(await fleet.place())
    assert not cut.letters(), "what the broker confirms at once does not touch the disk"
    await cut.cut()
    await cut.kept()
    assert task.id not in fleet.results
    letter = opened(cut.letters()[0].read_bytes())
    assert (letter.task, letter.placement) == (task.id, 1)
    before = len(fleet.beats)
    cut.proxy.mend()
    assert (await fleet.result(task, 20.0)).node == "n1"
    await cut.delivered()
    await until(lambda: any(beat.outbox == 0 for beat in fleet.beats[before:]))
    assert cut.runs() == 1


async def test_a_result_outlives_a_daemon_that_is_killed_while_its_link_is_cut(cut: Cut) -> None:
    """The next boot tells the coordinator that it still has it, runs nothing again, and delivers it, large outputs first."""
    node = await cut.start()
    fleet = cut.fleet
    large = await cut.begin(size=400_000)
    small = await cut.begin()
    await cut.cut()
    await cut.kept(2)
    assert len(list(cut.outbox.glob("*.blob"))) == 1
    node.send_signal(signal.SIGKILL)
    node.wait()
    (cut.outbox / "000000000000.letter").write_bytes(cut.letters()[0].read_bytes()[:-9])  # one that is spoilt besides
    cut.proxy.mend()
    fleet.boot = 2
    await cut.start()
    assert {held.task for held in fleet.registers[-1].held} <= {large.id, small.id}
    result = await fleet.result(large, 20.0)
    assert result.blob is not None and result.blob.ref
    assert await Objects(fleet.bus).get(result.blob.ref) == b"y" * 400_000
    await fleet.result(small, 20.0)
    await cut.delivered()
    assert cut.runs() == 2, "the work that is delivered again starts nothing"
    assert [path.name for path in (cut.outbox / "spoilt").iterdir()] == ["000000000000.letter"]
    await until(lambda: fleet.beats[-1].bad_messages == 1)


async def test_a_daemon_that_is_told_to_go_while_its_link_is_cut_keeps_what_it_hands_back(cut: Cut) -> None:
    node = await cut.start()
    task = await cut.begin()
    await cut.cut(end=False)
    node.terminate()
    assert node.wait(30) == 0
    await cut.kept()
    cut.proxy.mend()
    cut.fleet.boot = 2
    await cut.start()
    outcome = await cut.fleet.outcome(task, OutcomeKind.RETURNED, 20.0)
    assert (outcome.boot, outcome.history.placement) == (1, 1)
    await cut.delivered()


async def test_a_kept_result_that_became_too_late_comes_as_an_outcome(cut: Cut) -> None:
    await cut.start()
    task = await cut.begin(result_by=time.time() + 3.0, history=History(placement=4, attempts=1))
    await cut.cut()
    await cut.kept()
    letter = opened(cut.letters()[0].read_bytes())
    await until(lambda: time.time() > letter.result_by)
    cut.proxy.mend()
    outcome = await cut.fleet.outcome(task, OutcomeKind.RETURNED, 20.0)
    assert (outcome.history.placement, outcome.history.attempts, bool(outcome.task)) == (4, 2, True)
    await cut.delivered()
    assert task.id not in cut.fleet.results


async def test_of_a_cut_off_nodes_result_and_its_successors_the_first_stored_counts(
    target: Target, tmp_path: Path
) -> None:
    """The node is given up, its task runs elsewhere and is stored; what comes from the outbox then is refused, and goes."""
    with proxied(target) as proxy:
        async with stack(target, tmp_path / "s") as s, stack(proxy.target(target), tmp_path / "cut") as far:
            await s.coordinator()
            await far.node("n1")
            task = await s.submit("slow_on", ["n1"], 1.0, 0.1)
            await s.event("task.started", task)
            proxy.cut()
            await s.node("n2")
            assert bytes((await s.result(task, 60.0)).value) == b'"n2"'
            outbox = tmp_path / "cut" / "nodes" / "n1" / "outbox"
            await until(lambda: list(outbox.glob("*.letter")), 30.0, far.log("n1"))
            proxy.mend()
            await until(lambda: not list(outbox.glob("*.letter")), 30.0, far.log("n1"))
            await s.nothing_left(30.0)
            assert not s.doubled and s.results[task].node == "n2"
