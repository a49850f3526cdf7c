"""A phone on a low battery: it holds its results, sends them in one batch, and loses and doubles none, whatever happens."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from node.outbox import AT_ONCE
from schemas import subjects
from schemas.jetstream import call, stream_info
from schemas.membership import NodeAnswer
from schemas.streams import RESULTS
from schemas.target import Target
from schemas.task import FunctionRun, OutcomeKind
from schemas.transport import OutboxReport, Transport, What
from tests.integration.node_fleet import Fleet, behind_a_proxy, until
from tests.integration.test_advised_node import Phone
from tests.proxy import Proxy, Way

OWN = '''
import os, time
import node

@node.function
def fail_when(path: str) -> str:
    """Leave a mark when begun, and fail once told to."""
    open(path + ".begun", "w").close()
    while not os.path.exists(path):
        time.sleep(0.01)
    raise ValueError("as it was told")
'''

FULL_AT_FOUR = """
import sys
from node import outbox
from schemas import limits
limits.OUTBOX_LETTERS = 4
outbox.REFUSED_AGAIN_S = 0.2
del sys.argv[1:3]  # -m node
from node.__main__ import main
sys.exit(main())
"""


SAYS_WITH_EACH_BEAT = """
import sys
from node import intake
intake.SAID_AGAIN_S = 0.0
del sys.argv[1:3]  # -m node
from node.__main__ import main
sys.exit(main())
"""


class Far:
    """A fleet and a phone that reaches it through a proxy. Nothing comes by a heartbeat unless a test asks for one."""

    def __init__(self, fleet: Fleet, proxy: Proxy, folder: Path) -> None:
        self.fleet, self.proxy, self.folder = fleet, proxy, folder
        self.phone = Phone(folder / "phone")
        self.phone.battery(15)
        self.outbox = folder / "nodes" / "n1" / "outbox"

    async def start(self) -> None:
        await self.fleet.node("n1", "--sysroot", str(self.phone), "--import", "own_functions", "--slots", "4")

    def letters(self) -> int:
        return len(list(self.outbox.glob("*.letter")))

    async def hold(self, number: int) -> list[str]:
        """So many tasks whose results the phone holds."""
        tasks = [(await self.fleet.place()).id for _ in range(number)]
        await until(lambda: self.letters() == number, what=f"it holds {number}; {self.fleet.log()}")
        return tasks

    async def report(self) -> OutboxReport:
        answer: NodeAnswer = await self.fleet.command("advise")
        assert answer.outbox is not None
        return answer.outbox


@pytest.fixture
async def far(target: Target, tmp_path: Path) -> AsyncIterator[Far]:
    async with behind_a_proxy(target, tmp_path, OWN) as (fleet, proxy):
        fleet.interval_s = 20.0  # three times that in power_save
        yield Far(fleet, proxy, tmp_path)


async def test_a_phone_at_15_percent_holds_its_results_and_sends_them_in_one_batch_with_a_heartbeat(far: Far) -> None:
    await far.start()
    tasks = await far.hold(8)
    report = await far.report()
    assert (report.held, report.waiting, report.batches, report.direct) == (8, 8, 0, 0)
    assert report.bytes > 0 and 0 < time.time() - report.oldest_at < 60
    assert report.last is not None and (report.last.what, report.last.about) == (What.RESULT, tasks[-1])
    assert report.last.routing.transport is Transport.BITCHAT and "battery 15 %" in report.last.routing.reason
    assert not far.fleet.results
    assert {held.task for held in far.fleet.beats[-1].held} <= set(tasks)
    assert far.fleet.beats[-1].hold_s == 60.0, "so the coordinator can say that they may have ended"

    await far.fleet.command("report")
    await until(lambda: len(far.fleet.results) == 8, what=f"the batch; {far.fleet.log()}")
    assert list(far.fleet.results) == tasks, "in the order in which they ended"
    await far.fleet.until_acked()
    await until(lambda: far.letters() == 0)
    report = await far.report()
    assert (report.held, report.waiting, report.batches, report.batched) == (0, 0, 1, 8)


async def test_killed_in_the_middle_of_a_batch_each_result_arrives_once_and_in_order(far: Far, tmp_path: Path) -> None:
    """The broker has stored some of them, and the phone has not heard of one, when it dies. A failed attempt made them go."""
    await far.start()
    tasks = await far.hold(20)
    path = tmp_path / "told"
    failing = await far.fleet.place(FunctionRun("fail_when", Raw(f'["{path}"]'.encode())))
    await until(lambda: path.with_name("told.begun").exists(), what=f"it runs; {far.fleet.log()}")
    far.proxy.swallow(Way.FROM_BROKER)
    path.touch()
    await until(lambda: len(far.fleet.results) == AT_ONCE, what=f"so many are under way at a time; {far.fleet.log()}")
    node = far.fleet.nodes[-1]
    node.send_signal(signal.SIGKILL)
    node.wait()
    far.proxy.mend()
    assert far.letters() >= 20, "it has not heard of any"

    await far.start()
    await until(lambda: len(far.fleet.results) == 20, what=f"the others; {far.fleet.log()}")
    assert list(far.fleet.results) == tasks, "in the order in which they ended; a second one would have been noticed"
    assert (await far.fleet.outcome(failing)).kind is OutcomeKind.FAILED
    await far.fleet.until_acked(left=1)  # of what failed, perhaps nothing was on the disk yet
    await until(lambda: far.letters() == 0)
    assert int((await stream_info(far.fleet.bus, RESULTS))["state"]["messages"]) == 20
    assert len(far.fleet.outcomes) == 1


async def limit(fleet: Fleet, most: int) -> None:
    """The broker keeps at most so many results."""
    there = (await stream_info(fleet.bus, RESULTS))["config"]
    await call(fleet.bus, f"STREAM.UPDATE.{RESULTS}", {**there, "max_msgs": most})


async def test_a_phone_whose_outbox_is_full_says_so_refuses_more_work_with_that_reason_and_takes_it_again(
    far: Far,
) -> None:
    """Four are as much as it keeps, here, and the broker takes no more results for a while."""
    fleet, events = far.fleet, list[Any]()
    fleet.python = ("-c", FULL_AT_FOUR)
    await fleet.bus.subscribe(subjects.event("node.*", "*"), lambda _s, _r, data, _h: events.append(json.loads(data)))
    await far.start()
    await far.hold(1)
    await fleet.command("report")
    await until(lambda: len(fleet.results) == 1)
    await limit(fleet, 1)

    before = len(fleet.beats)
    tasks = [(await fleet.place()).id for _ in range(4)]
    await until(lambda: [e["type"] for e in events] == ["fog.node.outbox-full"], what=f"it is told; {fleet.log()}")
    reason = events[0]["data"]["reason"]
    assert reason.startswith("its outbox is full: 4 results of ")
    await until(lambda: any(b.draining and b.closed_for == reason for b in fleet.beats[before:]), what="in a heartbeat")
    more = await fleet.outcome(await fleet.place())
    assert (more.kind, more.error) == (OutcomeKind.RETURNED, reason)
    report = await far.report()
    assert (report.full, report.waiting, report.held) == (reason, 4, 0)

    await limit(fleet, -1)
    await until(lambda: len(fleet.results) == 5, what=f"they go; {fleet.log()}")
    assert sorted(list(fleet.results)[1:]) == sorted(tasks)
    await until(lambda: events[-1]["type"] == "fog.node.outbox-room" and far.letters() == 0)
    last = await fleet.place()
    await until(lambda: far.letters() == 1 or last.id in fleet.results, what=f"it works again; {fleet.log()}")
    await fleet.command("report")
    await fleet.result(last)


async def test_that_held_work_is_worked_on_is_said_with_a_heartbeat_for_which_the_radio_wakes_anyway(far: Far) -> None:
    """So the broker does not deliver it again while its result waits; by itself that is said only where no beat goes."""
    fleet, said = far.fleet, list[bytes]()
    fleet.python = ("-c", SAYS_WITH_EACH_BEAT)
    await fleet.bus.subscribe("$JS.ACK.>", lambda _s, _r, data, _h: said.append(data))
    await far.start()
    await far.hold(2)
    assert not said
    await fleet.command("report")
    await until(lambda: said.count(b"+WPI") == 2 and len(fleet.results) == 2, what=f"{said}; {fleet.log()}")
