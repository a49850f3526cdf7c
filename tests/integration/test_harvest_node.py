"""A harvesting node, whole: it works while nobody needs its device, stops when somebody does, and is paid for just that."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from client.harvest import Harvests
from client.ledger import Ledger
from schemas.errors import Refused
from schemas.harvest import HarvestState
from schemas.ledger import claim_of
from schemas.spans import Spans
from schemas.target import Target
from tests.core.test_device import LAPTOP, plant
from tests.integration.stack import Stack, stack
from tests.until import eventually

TERMS = "enabled=true,window=always,start_s=0.3,resume_s=0.3,hand_back_s=60,rest_s=0"
SAID = ("screen_on=false", "user_idle_s=4000", "network_metered=false")
CHARGING = {"sys/class/power_supply/AC/online": "1", "sys/class/power_supply/BAT0/status": "Charging"}
UNPLUGGED = {"sys/class/power_supply/AC/online": "0", "sys/class/power_supply/BAT0/status": "Discharging"}


class Phone:
    """One harvesting node, with the files that play its device."""

    def __init__(self, fleet: Stack, folder: Path) -> None:
        self.fleet, self.root = fleet, folder / "root"
        plant(self.root, {**LAPTOP, **CHARGING, "sys/class/hwmon/hwmon0/temp1_input": "40000"})

    async def start(self, terms: str = TERMS) -> None:
        before = len(self.fleet.events)
        words = [word for text in SAID for word in ("--device", text)]
        usual = ("--name", "n1", "--cores", "2", "--slots", "2", "--memory-mb", "1000", "--leave-grace-s", "0.2")
        self.fleet.start(
            "n1", "node", *usual, "--sysroot", str(self.root), "--import", "tests.integration.stack_functions", *words,
            env={"FOG_NODE_HARVEST": terms},
        )  # fmt: skip
        await self.fleet.event("node.registered", "n1", since=before)

    def play(self, files: dict[str, str]) -> None:
        plant(self.root, files)

    async def state(self, wanted: HarvestState) -> None:
        async def there() -> bool:
            return (await self.fleet.node_info("n1")).harvest_state == wanted

        await eventually(there, what=f"{wanted}; {self.fleet.log('n1')[-2000:]}")


@pytest.fixture
async def fleet(target: Target, tmp_path: Path) -> AsyncIterator[Stack]:
    async with stack(target, tmp_path) as made:
        await made.coordinator()
        yield made


@pytest.fixture
def phone(fleet: Stack, tmp_path: Path) -> Phone:
    return Phone(fleet, tmp_path)


def states_of(pid: int) -> set[str]:
    """The states of a process and all its children, as ps shows them."""
    from node.runners.tree import below

    found = set()
    for one in (pid, *(child for child, _ in below(pid))):
        text = Path(f"/proc/{one}/stat").read_text() if os.path.exists(f"/proc/{one}/stat") else ""
        found.add(text.rpartition(")")[2].split()[0] if text else "gone")
    return found


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_it_takes_nothing_before_its_session_and_works_in_it(fleet: Stack, phone: Phone) -> None:
    phone.play(UNPLUGGED)
    await phone.start()
    await phone.state(HarvestState.CHARGING_LOW)
    task = await fleet.submit("where", 0.0)

    async def told() -> bool:
        return "harvesting: it does not charge, or is low" in str((await fleet.task_info(task)).why)

    await eventually(told, what="why it waits")
    assert task not in fleet.results
    phone.play(CHARGING)
    assert (await fleet.result(task)).node == "n1"
    await fleet.event("harvest.session-started", "n1")


async def test_unplugged_its_work_stands_still_within_a_second_and_goes_on_when_plugged_in_again(
    fleet: Stack, phone: Phone
) -> None:
    await phone.start()
    await phone.state(HarvestState.HARVESTING)
    task = await fleet.submit("where", 1.5)
    await fleet.event("task.started", task)
    before = time.time()
    phone.play(UNPLUGGED)
    suspended = await fleet.event("harvest.suspended", "n1")
    assert suspended["data"]["state"] == "charging_low"
    runners = children(fleet.processes["n1"].pid)
    await eventually(lambda: any(states_of(pid) == {"T"} for pid in runners), what="a runner that is stopped")
    assert task not in fleet.results
    phone.play(CHARGING)
    result = await fleet.result(task)
    assert (result.node, result.attempts) == ("n1", 1)  # it went on where it was
    assert fleet.seen("harvest.resumed", "n1") and before < result.started_at + 60


async def test_a_suspension_that_lasts_gives_the_work_back_for_others_and_that_is_no_failure(
    fleet: Stack, phone: Phone
) -> None:
    await phone.start(TERMS.replace("hand_back_s=60", "hand_back_s=0.5"))
    await phone.state(HarvestState.HARVESTING)
    task = await fleet.submit("where", 600.0, retries=0)
    await fleet.event("task.started", task)
    phone.play(UNPLUGGED)
    returned = await fleet.event("task.returned", task)
    assert "harvesting: it is not charging" in returned["data"]["reason"]
    assert not fleet.seen("task.attempt-failed", task)
    assert (await fleet.event("harvest.handed-back", "n1"))["data"]["reason"] == "it is not charging"
    assert not fleet.seen("harvest.resumed", "n1")
    await fleet.node("n2")
    await eventually(lambda: len(fleet.seen("task.started", task)) == 2, what="it runs elsewhere")


async def test_it_is_paid_for_the_time_that_it_worked_and_for_no_more(fleet: Stack, phone: Phone) -> None:
    await phone.start()
    await phone.state(HarvestState.HARVESTING)
    began = time.time()
    await fleet.result(await fleet.submit("where", 2.0))
    took_s = time.time() - began
    phone.play(UNPLUGGED)
    await fleet.event("harvest.suspended", "n1")
    fleet.kill("n1", signal.SIGTERM)
    await fleet.event("harvest.session-ended", "n1")
    ledger = Ledger(fleet.bus, fleet.api)
    row: Any = None

    async def paid() -> bool:
        nonlocal row
        rows, reply = await ledger.accounts()
        row = rows[0] if rows else None
        return bool(row and row.paid_ms and not reply.waiting)

    await eventually(paid, what=f"pay: {fleet.log('n1')[-1500:]}")
    assert 1900 <= row.claimed_ms <= 1000 * took_s
    assert row.claimed_ms * 0.5 <= row.paid_ms <= row.claimed_ms
    assert row.sessions == 1
    verdict = await ledger.verify()
    assert (verdict.problems, verdict.micro) == ((), {"n1": row.micro})


async def test_claims_that_a_killed_daemon_left_on_its_disk_are_told_by_the_next_one(
    fleet: Stack, phone: Phone
) -> None:
    await phone.start()
    await phone.state(HarvestState.HARVESTING)
    await fleet.submit("where", 600.0)
    folder = fleet.folder / "nodes" / "n1" / "claims"
    await eventually(lambda: list(folder.glob("*.claim")), what="the open claim on the disk")
    fleet.kill("n1")
    (kept,) = [claim_of(path.read_bytes()) for path in folder.glob("*.claim")]
    await phone.start()

    ledger = Ledger(fleet.bus, fleet.api)

    async def claimed() -> bool:
        rows, _ = await ledger.accounts()
        return bool(rows and rows[0].claimed_ms == Spans(kept.spans).total_ms > 0)

    await eventually(claimed, 30, what="the killed session's claim")


async def test_fog_harvest_tells_all_that_stands_against_a_device_and_when_it_could_work(
    fleet: Stack, phone: Phone
) -> None:
    phone.play({**UNPLUGGED, "sys/class/power_supply/BAT0/capacity": "12"})
    await phone.start("enabled=true,window=always")
    await phone.state(HarvestState.CHARGING_LOW)
    harvest = Harvests(fleet.api)
    info = await harvest.device("n1")
    assert info.report is not None
    texts = [reason.text for reason in info.report.reasons]
    assert texts == ["it is not charging", "the battery is at 12 %: more than 20 % is wanted"]
    assert info.report.resume_at == pytest.approx(time.time(), abs=60)
    await fleet.node("n2")
    assert "does not harvest" in (await harvest.device("n2")).problem
    with pytest.raises(Refused, match="no node n9"):
        await harvest.device("n9")
    rows, network = await harvest.devices()
    assert [(row.node, row.state) for row in rows] == [("n1", "charging_low")]
    assert (network.active, network.states, network.micro) == (0, {"charging_low": 1}, 0)
    assert 0 < network.compute_score == rows[0].score
    fleet.kill("n1")
    await fleet.event("node.lost", "n1")
    assert "not connected" in (await harvest.device("n1")).problem
