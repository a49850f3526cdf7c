"""How soon a device is its owner's again: from the moment that the charger goes until the work stands still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from client.connecting import connect
from node.runners.tree import below
from tests.bench.figures import Figure
from tests.bench.stack import Stack
from tests.core.test_device import LAPTOP, plant

ROUNDS = 12
CHARGER, BATTERY = "sys/class/power_supply/AC/online", "sys/class/power_supply/BAT0/status"
LENT = {CHARGER: "1", BATTERY: "Charging"}
TAKEN = {CHARGER: "0", BATTERY: "Discharging"}
TERMS = '[harvest]\nenabled = true\nwindow = "always"\nheadless = true\nstart_s = 0\nresume_s = 0\nhand_back_s = 600\n'


async def suspend_ms() -> Figure:
    """The longest of some unpluggings of a device at work, each at another moment between two looks."""
    async with Stack() as stack:
        root, config = stack.home / "root", stack.home / "node.toml"
        plant(root, {**LAPTOP, **LENT, "sys/class/hwmon/hwmon0/temp1_input": "40000"})
        config.write_text(TERMS)
        await stack.start_node("phone", "--sysroot", str(root), "--config", str(config))
        begun, took_ms = stack.home / "begun", []
        async with connect(stack.target.url, stack.home / "fog.creds", None) as fleet:
            handle = await fleet.start("hold", str(begun), 600.0)
            await _until(begun.exists)
            (runner,) = [pid for pid, _ in below(stack.pid("phone")) if _is_runner(pid)]
            for number in range(ROUNDS):
                await asyncio.sleep(0.9 + 0.037 * number)
                took_ms.append(await _unplug(root, runner))
            await handle.cancel("the bench is over")
    took_ms.sort()
    detail = {"median": took_ms[len(took_ms) // 2], "least": took_ms[0], "rounds": ROUNDS}
    what = "the charger's file is changed until every process of the work is stopped"
    return Figure("suspend_ms", took_ms[-1], "ms at most", 1000.0, what, at_most=True, detail=detail)


async def _unplug(root: Path, runner: int) -> float:
    """Milliseconds until the runner is stopped; then the charger is back, and so is the work."""
    began = time.monotonic()
    plant(root, TAKEN)
    await _until(lambda: _state(runner) == "T")
    took_ms = round(1000 * (time.monotonic() - began), 1)
    plant(root, LENT)
    await _until(lambda: _state(runner) != "T")
    return took_ms


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("what is waited for did not come within 30 s")
        await asyncio.sleep(0.002)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _is_runner(pid: int) -> bool:
    return b"node.runners.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
