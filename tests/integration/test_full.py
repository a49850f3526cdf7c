"""What is full: the broker's disk, a real one; the queue of work; the events. Who waits is told why, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client import connect, submit
from client.doctor.examine import examine
from client.doctor.facts import Facts
from client.doctor.reading import read_all
from coordinator import supervisor
from coordinator.broker import FULL_BELOW, LOOPBACK, ROOM_AGAIN, Broker, any_free
from coordinator.broker_config import Account
from schemas import jetstream, streams
from schemas.creds import new_seed, public_key
from schemas.errors import Unreachable
from schemas.procs import spawn
from schemas.target import Target
from schemas.task import ResultState
from tests.conftest import STORE_BYTES
from tests.integration.stack import Stack, stack
from tests.integration.test_broker_fails import limit
from tests.until import eventually, gone

DISK = 3 * ROOM_AGAIN // 2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    if sys.platform != "linux" or subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


@pytest.fixture
def serve(disk: Path) -> Iterator[Callable[[], Broker]]:
    """Starts a broker that stores on the small disk; again: the same one."""
    seed, port, started = new_seed(), any_free(LOOPBACK), list[Broker]()

    def start() -> Broker:
        account = Account("FOG", public_key(seed))
        started.append(Broker.serve(disk, [account], host=LOOPBACK, port=port, seed=seed, store_bytes=STORE_BYTES))
        return started[-1]

    yield start
    for broker in started:
        broker.kill()


def fill(disk: Path) -> Path:
    """Until nothing more fits."""
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(b"x" * 4096):
            pass
    return disk / "filler"


async def findings(target: Target) -> dict[str, tuple[str, str]]:
    """What `fog doctor` says is wrong, and what to do."""
    facts = Facts("1")
    await read_all(facts, target)
    return {f.check: (f.seen, f.advice) for f in examine(facts) if f.level != "ok"}


async def test_a_full_disk_is_told_to_who_submits_and_what_was_acknowledged_runs_once_there_is_room(
    serve: Callable[[], Broker], disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "GIVE_UP_S", 3.0)
    broker = serve()
    async with stack(broker.target, tmp_path / "fleet") as fleet:
        await fleet.coordinator()
        await fleet.node("a")
        kept = await fleet.put_all([fleet.make("echo", number, labels={"pool": "late"}) for number in range(30)])
        filler = fill(disk)
        async with connect(creds=fleet.folder / "fog.creds") as sdk:
            with pytest.raises(Unreachable, match="did not confirm the task") as unsure:
                await sdk.start("echo", "x" * 200_000)
            assert "a full disk" in unsure.value.hint and "`fog doctor`" in unsure.value.hint
            seen, advice = (await findings(broker.target))["streams.write"]
            assert "stores nothing" in seen and "Make room" in advice
            assert not broker.ails(), "while it is full, nothing is won by another start"
            filler.unlink()
            assert broker.ails() == "its disk was full, and has room again"
            broker.stop()
            broker = serve()
            assert not broker.ails()
            assert (await (await sdk.start("echo", 5)).end()).state is ResultState.SUCCEEDED
        await fleet.node("late", "--label", "pool=late")
        await fleet.all_results(kept, 30.0)
        await fleet.nothing_left(30.0)
        assert not fleet.doubled and {fleet.results[task].attempts for task in kept} == {1}
        assert "streams.write" not in await findings(broker.target)


def test_a_disk_that_is_as_good_as_full_counts_as_full(serve: Callable[[], Broker], disk: Path) -> None:
    """Its log may have had no room for saying so."""
    broker = serve()
    assert not broker.ails()
    filler = fill(disk)
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - FULL_BELOW // 2)
    assert not broker.ails()
    filler.unlink()
    assert broker.ails()


def test_what_ails_a_child_has_it_stopped_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "AILS_S", 0.01)
    said: list[str] = []
    pids: list[int] = []

    def changed(told: dict[str, int]) -> None:
        pids.extend(told.values())
        if len(pids) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def start() -> subprocess.Popen[bytes]:
        return spawn([sys.executable, "-c", "import time; time.sleep(600)"])

    spec = supervisor.ChildSpec("broker", start, vital=True, ails=lambda: "" if len(pids) > 1 else "its disk was full")
    runs = supervisor.Supervisor([spec], restart=False, say=said.append, changed=changed)
    assert runs.run(lambda: None) == 0, "an orderly end, by our signal"
    assert said == ["broker is started again: its disk was full", f"broker runs again (pid {pids[1]})"]
    assert all(gone(pid) for pid in pids)


async def test_with_the_queue_of_work_full_tasks_wait_and_say_why(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        await fleet.node("a")
        await limit(fleet, streams.WORK, max_bytes=100)
        tasks = await fleet.put_all([fleet.make("echo", number) for number in range(20)])
        told = "the broker does not take it, and is asked again: the broker refused"

        async def said() -> bool:
            info = await fleet.task_info(tasks[0])
            return told in info.row.reason and info.why is not None and told in info.why.text

        await eventually(said, 60.0, "the reason")
        assert "maximum bytes" in (await fleet.task_info(tasks[0])).row.reason
        assert await fleet.stored(streams.TASKS) == len(tasks), "they lie where they were"
        await limit(fleet, streams.WORK, max_bytes=-1)
        await fleet.all_results(tasks, 40.0)
        await fleet.nothing_left()
        assert not fleet.doubled and {fleet.results[task].attempts for task in tasks} == {1}


async def test_full_events_stop_no_task_the_oldest_go(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        await fleet.node("a")
        await limit(fleet, streams.EVENTS, max_bytes=20_000)
        first = await first_event(fleet)
        await fleet.all_results(await fleet.put_all([fleet.make("echo", number) for number in range(200)]))
        await eventually(lambda: went(fleet, first), 60.0, "the oldest events gone")
        assert (await jetstream.stream_info(fleet.bus, streams.EVENTS))["state"]["bytes"] <= 20_000
        await fleet.nothing_left()


async def first_event(fleet: Stack) -> int:
    return int((await jetstream.stream_info(fleet.bus, streams.EVENTS))["state"]["first_seq"])


async def went(fleet: Stack, first: int) -> bool:
    return await first_event(fleet) > first
