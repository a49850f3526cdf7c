"""Limits on real running work: its share of the device, its suspension, and that nothing is ever left stopped."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from node.core.ceilings import Ceilings
from node.core.endings import CANCELLED, LEASE_OVER, TIMEOUT
from schemas.advice import Limits
from schemas.procs import start_mark
from schemas.task import CommandRun
from schemas.ticks import ticks
from tests.integration.limited import CORES, device, spinning
from tests.integration.node_fleet import ROOT, until
from tests.until import gone
from tests.until import until as until_now

HOARD = "tests.integration.greedy_functions"
STOPPED = psutil.STATUS_STOPPED
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no signal there that stops a process")


async def test_busy_commands_with_children_are_held_to_their_share_together() -> None:
    async with device(Ceilings(cpu_percent=20)) as d:
        d.place(spinning())
        d.place(spinning(2))
        await until(lambda: len(d.processes()) >= 7, what="two runners, two shells, three children")
        await until(lambda: (d.enforcer.report().cpu_measured or 100) <= 25, what="measured below the limit")
        before, used_before = d.seconds()
        await until(lambda: d.seconds()[1] - used_before >= 0.3, what="work going on all the same")
        await until(lambda: d.seconds()[0] - before >= 2.0)
        after, used_after = d.seconds()
        assert (used_after - used_before) / (after - before) / CORES <= 0.35
        report = d.enforcer.report()
        assert (report.cpu, report.cpu_percent) == ("duty cycle", 20) and report.processes >= 7


async def test_a_change_reaches_running_work() -> None:
    async with device() as d:
        d.place(spinning())
        await until(lambda: len(d.processes()) >= 3)
        assert d.enforcer.report().cpu == ""
        d.enforcer.apply(Limits(2.0, 100_000, 1))
        await until(lambda: d.states() == {STOPPED}, 60.0, "stopped for most of the time")
        d.enforcer.apply(None)
        await until(lambda: STOPPED not in d.states(), what="free again")
        assert d.enforcer.report().cpu_measured is None


async def test_no_limit_and_no_work_cost_nothing() -> None:
    async with device() as d:
        d.place(spinning())
        await until(lambda: len(d.processes()) >= 3)
        assert d.executor.on_busy is None and d.enforcer._task is None
    async with device(Ceilings(cpu_percent=10, memory_mb=1000)) as d:
        task = d.call("echo", "[1]")
        await until(lambda: task in d.sink.ends)
        await until(lambda: d.enforcer._task is None, what="watching is over with the work")


@pytest.mark.parametrize("cpu_percent", [100, 30])
async def test_suspended_work_stands_still_and_goes_on(cpu_percent: float) -> None:
    """With and without a duty cycle; suspending and resuming twice is once; nothing new is started meanwhile."""
    async with device(Ceilings(cpu_percent=cpu_percent)) as d:
        d.place(spinning(2))
        await until(lambda: len(d.processes()) >= 4)
        d.enforcer.suspend()
        d.enforcer.suspend()
        assert d.enforcer.report().suspended
        await until(lambda: d.states() == {STOPPED}, 1.0, "everything stopped")
        waiting = d.call("echo", "[1]")
        _, used = d.seconds()
        d.enforcer.apply(Limits(50.0, 100_000, 1))  # changes nothing of that
        await asyncio.sleep(0.5)  # a time in which a duty cycle would have let it run
        assert d.states() == {STOPPED} and d.seconds()[1] == used
        assert d.sink.began == {"t1"}
        d.enforcer.resume()
        d.enforcer.resume()
        await until(lambda: waiting in d.sink.ends, what="what waited runs")
        await until(lambda: d.seconds()[1] > used, what="the busy one goes on")


async def test_suspending_while_a_runner_starts_stops_it_too() -> None:
    async with device() as d:
        d.place(spinning())
        await until(lambda: d.executor.pool.all)
        d.enforcer.suspend()
        await until(lambda: d.states() == {STOPPED}, what="the starting runner stopped")
        d.enforcer.resume()
        await until(lambda: len(d.processes()) >= 3, what="its command running")


async def test_stopped_work_can_be_cancelled_at_once() -> None:
    async with device() as d:
        task = d.place(spinning(2))
        await until(lambda: len(d.processes()) >= 4)
        pids = [process.pid for process in d.processes()]
        d.enforcer.suspend()
        await until(lambda: d.states() == {STOPPED})
        d.executor.stop(task, CANCELLED)
        await until(lambda: d.sink.ends.get(task) == ("stopped", CANCELLED), what="its end")
        assert not any(start_mark(pid) for pid in pids)


async def test_time_that_work_was_kept_stopped_does_not_count_against_its_timeout() -> None:
    async with device() as d:
        task = d.call("sleep", "[600]", timeout_s=0.5)
        await until(lambda: task in d.sink.began)
        d.enforcer.suspend()
        await asyncio.sleep(1.0)  # longer than its timeout
        assert task not in d.sink.ends
        d.enforcer.resume()
        await until(lambda: d.sink.ends.get(task) == ("stopped", TIMEOUT), what="the rest of its time")


async def test_what_was_stopped_over_the_end_of_its_lease_never_runs_again(tmp_path: Path) -> None:
    """As when the daemon itself stood still: the runner cannot see that its lease is over, and must not be continued."""
    async with device() as d:
        command = CommandRun(
            ("sh", "-c", f"trap 'touch {tmp_path}/ran' TERM; touch {tmp_path}/began; sleep 600; sleep 600")
        )
        task = d.place(command, exclusive=True)
        d.desk.grant(task, 1, ticks() + 600)
        d.executor.pump()
        await until((tmp_path / "began").exists)
        d.enforcer.suspend()
        await until(lambda: d.states() == {STOPPED})
        (runner,) = (runner for runner in d.executor.pool.all if runner.lane)
        d.desk.held[task].leased_until = ticks() - 60
        runner.lease(ticks() - 60)
        d.enforcer.resume()
        await until(lambda: d.sink.ends.get(task) == ("stopped", LEASE_OVER))
        assert not (tmp_path / "ran").exists()


ALONE = """
import asyncio
from node.core.ceilings import Ceilings
from tests.integration.limited import Device, spinning

async def main():
    device = Device(Ceilings(), ())
    device.place(spinning(2))
    while len(device.processes()) < 4:
        await asyncio.sleep(0.01)
    device.enforcer.suspend()
    while device.states() != {"stopped"}:
        await asyncio.sleep(0.01)
    print(*(process.pid for process in device.processes()), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_work_that_is_stopped_when_its_daemon_is_killed_ends_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", ALONE], cwd=ROOT, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        pids = [int(word) for word in daemon.stdout.readline().split()]
        assert len(pids) >= 4 and {psutil.Process(pid).status() for pid in pids} == {STOPPED}
        os.kill(daemon.pid, signal.SIGKILL)
    until_now(lambda: all(gone(pid) for pid in pids), what="the runner and all below it gone")


GREEDY = "import time; kept = b'x' * ({mb} << 20); print('there', flush=True); time.sleep(600)"


def greedy(mb: int, first: str = ":") -> CommandRun:
    """A program that takes so much memory, and keeps it; before that, the shell does something."""
    return CommandRun(("sh", "-c", f'{first}; exec "$0" -c "$1"', sys.executable, GREEDY.format(mb=mb)))


async def test_the_task_that_takes_the_most_memory_is_stopped_and_the_others_go_on() -> None:
    async with device(Ceilings(memory_mb=400)) as d:
        modest = d.place(greedy(20))
        hog = d.place(greedy(500))
        how, why = await until(lambda: d.sink.ends.get(hog), what="its end")
        assert how == "stopped" and why.startswith("Memory allocation exceeded") and "400 MiB is the limit" in why
        assert modest not in d.sink.ends
        after = d.call("echo", "[1]")
        await until(lambda: d.sink.ends.get(after, ("",))[0] == "finished", what="the node works on")
        report = d.enforcer.report()
        assert (report.memory, report.memory_mb) == ("polled", 400)


async def test_idle_runners_go_before_any_task_does(tmp_path: Path) -> None:
    async with device(Ceilings(memory_mb=400), HOARD) as d:
        task = d.place(greedy(200, f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"))
        kept = d.call("hoard", "[250]")
        await until(lambda: kept in d.sink.ends)
        assert d.sink.ends[kept][0] == "finished"
        (idle,) = (runner for runner in d.executor.pool.all if runner.lane is None)
        (tmp_path / "go").touch()
        await until(lambda: idle not in d.executor.pool.all, what="the idle runner, which holds most of it, let go")
        await until(lambda: (d.enforcer.report().memory_measured_mb or 999) < 400, what="measured again")
        assert task not in d.sink.ends


async def test_an_allocation_far_over_the_limit_is_refused_by_the_system() -> None:
    """Before it can be looked at: address space that is not touched yet costs nothing, so only far too much is refused."""
    async with device(Ceilings(memory_mb=200), HOARD) as d:
        task = d.call("reserve", "[20000]")
        how, message = await until(lambda: d.sink.ends.get(task), what="its end")
        assert how == "failed" and message.memory and "MemoryError" in message.error


async def test_a_limit_that_is_lifted_leaves_no_trace_on_the_runners() -> None:
    async with device(Ceilings()) as d:
        d.enforcer.apply(Limits(100, 100, 1))
        task = d.call("sleep", "[600]")
        await until(lambda: task in d.sink.began)
        (runner,) = d.executor.pool.all
        unlimited = resource.getrlimit(resource.RLIMIT_DATA)
        await until(lambda: resource.prlimit(runner.pid, resource.RLIMIT_DATA) != unlimited)
        d.enforcer.apply(None)
        assert resource.prlimit(runner.pid, resource.RLIMIT_DATA) == unlimited
