"""A real fleet with a phone in it: what the phone does when its battery falls or it gets hot, and when an operator says so.

The phone is a node daemon that reads its signals from files of the same form as the real ones.
"""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schemas.advice import Advice, PowerMode, TransportPreference
from schemas.api import NodeInfo, NodeRequest
from schemas.errors import Refused
from schemas.policy import AdviceReply, PolicyReply, PolicyRequest
from schemas.target import Target
from tests.core.test_device import plant
from tests.integration.stack import Stack, stack
from tests.until import eventually

BATTERY = "sys/class/power_supply/battery"
PHONE = {
    f"{BATTERY}/type": "Battery",
    f"{BATTERY}/status": "Discharging",
    f"{BATTERY}/capacity": "80",
    f"{BATTERY}/temp": "300",
    "proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB",
}


class Phone:
    """The files that play it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        plant(root, PHONE)

    def write(self, name: str, text: str) -> None:
        plant(self.root, {name: text})

    def battery(self, percent: int, charging: bool = False) -> None:
        self.write(f"{BATTERY}/status", "Charging" if charging else "Discharging")
        self.write(f"{BATTERY}/capacity", str(percent))

    def heat(self, celsius: int) -> None:
        self.write(f"{BATTERY}/temp", str(10 * celsius))

    def __str__(self) -> str:
        return str(self.root)


@pytest.fixture
async def fleet(target: Target, tmp_path: Path) -> AsyncIterator[Stack]:
    async with stack(target, tmp_path / "fleet") as made:
        await made.coordinator()
        yield made


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    return Phone(tmp_path / "phone")


async def advice(fleet: Stack, node: str = "phone") -> Advice:
    return (await fleet.api.call("node", "advise", NodeRequest(node), AdviceReply)).advice


async def set_policy(fleet: Stack, node: str = "phone", reset: bool = False, **pairs: Any) -> PolicyReply:
    request = PolicyRequest(node, {key: str(value) for key, value in pairs.items()}, reset)
    return await fleet.api.call("policy", "set", request, PolicyReply)


async def power_mode(fleet: Stack, mode: PowerMode, slots: int) -> None:
    async def told() -> bool:
        info = await fleet.node_info("phone")
        return (info.power_mode, info.row.slots) == (mode.value, slots)

    await eventually(told, 60.0, f"the coordinator knows that the phone is in {mode}")


async def test_a_phone_lives_by_its_battery(fleet: Stack, phone: Phone) -> None:
    """Full: two at a time. Low: one. Nearly empty: everything goes back, nothing comes, and none of it is a failure."""
    await fleet.node("phone", "--sysroot", str(phone), "--slots", "4", "--cores", "4")
    await power_mode(fleet, PowerMode.PERFORMANCE, 2)
    tasks = [await fleet.submit("sleep", 60) for _ in range(4)]
    await eventually(lambda: len(fleet.seen("task.started")) == 2, what="two run at a time")

    phone.battery(18)
    await power_mode(fleet, PowerMode.POWER_SAVE, 1)
    now = await advice(fleet)
    assert (now.limits.cpu_percent, now.limits.tasks, now.transport) == (35, 1, TransportPreference.BITCHAT_PREFERRED)

    phone.battery(9)
    await power_mode(fleet, PowerMode.CRITICAL, 1)
    await eventually(
        lambda: {e["subject"] for e in fleet.seen("task.returned")} >= set(started(fleet)), 5.0, "handed back"
    )
    assert "battery 9 %" in fleet.seen("task.returned")[0]["data"]["reason"]
    info = await fleet.node_info("phone")
    assert any("critical" in reason for reason in info.fit_reasons)
    assert [e["data"]["power_mode"] for e in fleet.seen("node.power-mode")] == ["power_save", "critical"]

    await fleet.node("server", "--slots", "4", "--cores", "4")
    await eventually(lambda: len([e for e in fleet.seen("task.started") if e["data"]["node"] == "server"]) == 4, 15.0)
    for task in tasks:
        await fleet.cancel(task)
    await fleet.all_results(tasks)
    assert fleet.seen("task.attempt-failed") == []
    assert len(fleet.seen("task.started")) == 6, "nothing was begun on the phone after it was empty"


def started(fleet: Stack) -> list[str]:
    return [e["subject"] for e in fleet.seen("task.started")]


async def test_a_hot_phone_is_logged_and_gets_nothing_until_it_is_cool(fleet: Stack, phone: Phone) -> None:
    await fleet.node("phone", "--sysroot", str(phone))
    assert (await advice(fleet)).power_mode is PowerMode.PERFORMANCE
    await fleet.submit("sleep", 60)
    await fleet.event("task.started")
    phone.heat(50)
    await eventually(lambda: heat_is(fleet, "hot"), 60.0, "the coordinator knows that it is hot")
    assert re.search(r"warning .*thermal state hot: throttle to 50 %", fleet.log("phone")), "operators grep for it"
    task = await fleet.submit("echo", 1)
    await fleet.event("task.waiting", task)
    assert any("hot" in against.reasons[0] for against in (await fleet.task_info(task)).why.against)
    await fleet.cancel(task)


async def heat_is(fleet: Stack, word: str) -> bool:
    return (await fleet.node_info("phone")).row.thermal == word


async def test_an_operators_policy_holds_at_once_and_over_every_restart(fleet: Stack, phone: Phone) -> None:
    await fleet.node("phone", "--sysroot", str(phone))
    with pytest.raises(Refused, match="max_cpu_percent"):
        await set_policy(fleet, max_cpu_percent=500)
    with pytest.raises(Refused, match="there is no node"):
        await set_policy(fleet, "nobody", priority="balanced")
    reply = await set_policy(fleet, max_cpu_percent=30, battery_save_threshold=25)
    assert reply.in_force and reply.advice is not None
    assert reply.advice.limits.cpu_percent == 30

    info: NodeInfo | None = None

    async def told() -> bool:
        nonlocal info
        info = await fleet.node_info("phone")
        return info.limits is not None and info.limits.cpu_percent == 30

    await eventually(told, what="its beat says so")
    assert info is not None
    assert info.enforced.cpu_percent == 30, "by the same beat: not the limit of before until the next"
    reply = await set_policy(fleet, priority="battery_save")
    assert reply.policy == {"max_cpu_percent": "30", "battery_save_threshold": "25", "priority": "battery_save"}
    await power_mode(fleet, PowerMode.POWER_SAVE, 2)

    fleet.kill("phone")
    fleet.kill("c1")
    before = len(fleet.events)
    fleet.start_node("phone", "--sysroot", str(phone))
    await fleet.coordinator("c2")
    await fleet.event("node.registered", "phone", since=before)
    await power_mode(fleet, PowerMode.POWER_SAVE, 2)
    assert (await advice(fleet)).limits.cpu_percent == 30

    fleet.kill("phone", signal.SIGTERM)
    reply = await set_policy(fleet, reset=True, max_memory_mb=512)
    assert (reply.policy, reply.in_force) == ({"max_memory_mb": "512"}, False)
    fleet.start_node("phone", "--sysroot", str(phone))
    await eventually(lambda: now_in_force(fleet), 60.0, "what was changed while it was away is brought to it")
    now = await advice(fleet)
    assert (now.power_mode, now.limits.cpu_percent, now.limits.memory_mb) == (PowerMode.PERFORMANCE, 50, 512)
    assert [e["data"]["policy"] for e in fleet.seen("node.policy-set")][-1] == {"max_memory_mb": "512"}


async def test_a_policy_that_its_node_cannot_keep_is_said_to_be_refused_and_brought_once_it_can(
    fleet: Stack, phone: Phone
) -> None:
    await fleet.node("phone", "--sysroot", str(phone))
    in_its_place = fleet.folder / "nodes" / "phone" / "policy.json"
    in_its_place.mkdir()
    with pytest.raises(Refused, match="phone refused: the policy cannot be kept"):
        await set_policy(fleet, max_cpu_percent=30)
    assert (await advice(fleet)).limits.cpu_percent == 50, "not in force, for it would not survive a restart"
    in_its_place.rmdir()
    await eventually(lambda: now_in_force(fleet), 60.0, "it is told again")
    assert (await advice(fleet)).limits.cpu_percent == 30


async def now_in_force(fleet: Stack) -> bool:
    return (await fleet.api.call("policy", "show", NodeRequest("phone"), PolicyReply)).in_force
