"""Runners as real processes: kept while warm, let go when idle, ended with everything below them; output gathered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw

from node import outputs, progress
from node.core.attempts import Attempt, attempt_of
from node.outputs import Outputs
from node.runners import pool, tree
from node.runners.frames import Call, Finished, FromRunner, Launch, Printed
from node.runners.pool import Pool
from node.runners.runner import Runner
from schemas import limits
from schemas.codec import Decoder
from schemas.procs import start_mark
from schemas.task import FunctionRun, History, Output, Task, Work
from tests.integration.node_fleet import until


class Heard:
    """A pool whose messages are kept."""

    def __init__(self, *modules: str) -> None:
        self.messages: list[FromRunner] = []
        self.gone: list[str] = []
        self.pool = Pool(modules, self._message, lambda _runner, how: self.gone.append(how))

    def _message(self, _runner: Runner, message: FromRunner) -> None:
        self.messages.append(message)


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    heard = Heard()
    yield heard
    await heard.pool.close()


async def test_a_runner_tells_what_it_offers_and_is_used_again(heard: Heard) -> None:
    hello = await heard.pool.hello()
    assert {"echo", "sleep", "sha256", "wordcount"} <= {offer.name for offer in hello.offers}
    first = heard.pool.take()
    assert first.ready
    heard.pool.give_back(first)
    assert heard.pool.take() is first
    assert heard.pool.take() is not first


async def test_a_new_runner_can_be_sent_to_before_it_is_ready(heard: Heard) -> None:
    heard.pool.take().send([Call(7, "echo", b'["early"]')])
    await until(lambda: any(isinstance(m, Finished) and m.key == 7 for m in heard.messages))


async def test_an_idle_runner_is_let_go(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE_S", 0.1)
    await heard.pool.hello()
    (runner,) = heard.pool.all
    await until(lambda: not heard.pool.all)
    assert not start_mark(runner.pid)


async def test_a_module_that_cannot_be_imported_is_told_and_its_runner_goes() -> None:
    heard = Heard("no_such_module_of_ours")
    hello = await heard.pool.hello()
    assert "cannot import no_such_module_of_ours" in hello.error
    await heard.pool.close()
    assert not heard.pool.all


async def test_a_large_frame_goes_through_both_ways(heard: Heard) -> None:
    size = 20 << 20
    heard.pool.take().send([Call(1, "echo", b"[null]", ((0, b"x" * size),))])
    answer: Any = await until(lambda: next((m for m in heard.messages if isinstance(m, Finished)), None))
    assert answer.blob == b"x" * size


async def test_stopping_a_runner_stops_everything_below_it(heard: Heard, tmp_path: Path) -> None:
    runner = heard.pool.take()
    script = f"(setsid sh -c 'trap \"\" TERM; sleep 600' &); trap '' TERM; touch {tmp_path}/ready; sleep 600; sleep 600"
    runner.send([Launch(1, ("sh", "-c", script), {}, None)])
    await until((tmp_path / "ready").exists)
    await until(lambda: len(tree.below(runner.pid)) >= 4)
    pids = [pid for pid, _ in tree.below(runner.pid)]
    runner.stop()
    await until(lambda: heard.gone, 1.0)
    assert not any(start_mark(pid) for pid in [runner.pid, *pids])


async def test_a_runner_that_is_killed_leaves_nothing_of_its_session(heard: Heard, tmp_path: Path) -> None:
    import os
    import signal

    runner = heard.pool.take()
    runner.send([Launch(1, ("sh", "-c", f"touch {tmp_path}/ready; sleep 600; sleep 600"), {}, None)])
    await until((tmp_path / "ready").exists)
    pids = [pid for pid, _ in tree.below(runner.pid)]
    os.kill(runner.pid, signal.SIGKILL)
    await until(lambda: heard.gone)
    assert "killed by SIGKILL" in heard.gone[0]
    await until(lambda: not any(start_mark(pid) for pid in pids), 1.0)


def test_progress_outside_a_runner_does_nothing() -> None:
    progress(0.5, "half")


# Output.


class Published:
    """A bus that keeps what is published."""

    def __init__(self) -> None:
        self.said: list[Output] = []

    def publish(self, _subject: str, data: bytes) -> None:
        self.said.append(Decoder(Output)(data))


def gathering() -> tuple[Published, Outputs, Attempt]:
    bus = Published()
    context: Any = SimpleNamespace(bus=bus)
    attempt = attempt_of(Task("t", "me", FunctionRun("f")), Work(Raw(b"{}"), History(attempts=1)), 1, "r")
    return bus, Outputs(context), attempt


async def test_many_small_prints_go_out_as_few_messages_in_order() -> None:
    bus, gathered, attempt = gathering()
    for i in range(1000):
        gathered.add(attempt, Printed(1, "stdout", f"{i}\n"))
    assert bus.said == []
    await until(lambda: bus.said, 1.0)
    assert len(bus.said) == 1
    assert (bus.said[0].text, bus.said[0].attempt) == ("".join(f"{i}\n" for i in range(1000)), 2)


async def test_a_large_print_is_cut_into_messages_of_a_bounded_size() -> None:
    bus, gathered, attempt = gathering()
    text = "é" * limits.OUTPUT_FRAME
    gathered.add(attempt, Printed(1, "stdout", text))
    gathered.end(attempt)
    assert "".join(o.text for o in bus.said) == text
    assert all(len(o.text.encode()) <= limits.OUTPUT_FRAME for o in bus.said)


async def test_a_flood_is_cut_and_says_how_much_is_missing() -> None:
    bus, gathered, attempt = gathering()
    for _ in range(100):
        gathered.add(attempt, Printed(1, "stdout", "x" * limits.OUTPUT_FRAME))
    gathered.end(attempt)
    assert sum(len(o.text) for o in bus.said) < outputs.BURST_MAX + 3 * limits.OUTPUT_FRAME
    assert "characters left out" in bus.said[-1].text


async def test_each_stream_keeps_its_order_however_they_alternate() -> None:
    bus, gathered, attempt = gathering()
    for i in range(500):
        gathered.add(attempt, Printed(1, "stdout", f"o{i} "))
        gathered.add(attempt, Printed(1, "stderr", f"e{i} "))
    gathered.end(attempt)
    for stream, letter in (("stdout", "o"), ("stderr", "e")):
        text = "".join(o.text for o in bus.said if o.stream == stream)
        assert text == "".join(f"{letter}{i} " for i in range(500))
    assert len(bus.said) <= outputs.PIECES_MAX
