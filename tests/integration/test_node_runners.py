"""Runners as real processes: kept while warm, let go when idle, ended with everything below them; output gathered."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw

from node import outputs, progress
from node.core.attempts import Attempt, attempt_of
from node.outputs import Outputs
from node.runners import pool, tree, work
from node.runners import runner as runner_module
from node.runners.calls import Function
from node.runners.frames import Call, CallEach, Failed, Finished, FromRunner, Launch, Printed, Progressed
from node.runners.pool import Pool
from node.runners.runner import Runner
from schemas import limits
from schemas.codec import Decoder
from schemas.procs import start_mark
from schemas.task import FunctionRun, History, Output, Task, Work
from tests.integration.node_fleet import ROOT, until


class Heard:
    """A pool whose messages are kept."""

    def __init__(self, *modules: str) -> None:
        self.messages: list[FromRunner] = []
        self.gone: list[str] = []
        self.pool = Pool(modules, self._message, lambda _runner, how: self.gone.append(how))

    def _message(self, _runner: Runner, message: FromRunner) -> None:
        self.messages.append(message)

    async def answer(self, key: int, timeout_s: float = 60.0) -> Any:
        """What the call came to."""

        def find() -> FromRunner | None:
            return next((m for m in self.messages if isinstance(m, Finished | Failed) and m.key == key), None)

        return await until(find, timeout_s, f"the answer to {key}; {self.gone}")


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


# Functions that do what functions should not. Each leaves its runner fit for the next call, or ends it with a clear word.

ODD = """
import asyncio, os, signal, subprocess, sys, threading, time
import node

class Own(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")

@node.function
def raises_own() -> None:
    raise Own("of my own")

@node.function
def cancelled(value: int) -> int:
    if value == 1:
        raise asyncio.CancelledError
    if value == 2:
        raise Mute
    return value

@node.function
def odd_letters(value: int = 0) -> None:
    node.progress(0.5, "\\udc80")
    node.progress(0.6, 7)
    raise ValueError("\\udcff")

@node.function
def forks_and_returns() -> int:
    os.fork()
    return os.getpid()

@node.function
def forks_and_dies(path: str) -> None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(600)
    with open(path, "w") as file:
        file.write(str(pid))
    os.kill(os.getpid(), 9)

@node.function
def shells_and_dies() -> None:
    os.system("setsid sleep 600 &")
    os.kill(os.getpid(), 9)

@node.function
def prints_in_a_child() -> None:
    if os.fork() == 0:
        print("from the child", flush=True)
        os._exit(0)
    os.wait()

@node.function
def redirects() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)

@node.function
def own_cpu(seconds: float) -> float:
    before = time.process_time()
    time.sleep(seconds)
    return time.process_time() - before

@node.function
def moves(path: str) -> str:
    os.chdir(path)
    os.environ["LEFT_BEHIND"] = "yes"
    return os.getcwd()

@node.function
def where() -> str:
    return os.getcwd()

@node.function
def tells(times: int) -> None:
    for i in range(times):
        node.progress(i / times, str(i))

@node.function
def closes_everything() -> int:
    os.closerange(3, 100)
    return 1
"""


@pytest.fixture
async def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Heard]:
    (tmp_path / "odd_functions.py").write_text(ODD)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(tmp_path))))
    heard = Heard("odd_functions")
    yield heard
    await heard.pool.close()


async def test_whatever_a_function_raises_is_its_failure_and_not_the_runners_end(odd: Heard) -> None:
    runner = odd.pool.take()
    runner.send([Call(1, "raises_own", b"[]"), Call(2, "odd_letters", b"[]"), Call(3, "echo", b"[3]")])
    assert "Own: of my own" in (await odd.answer(1)).error
    assert "ValueError" in (await odd.answer(2)).error
    assert (await odd.answer(3)).value == b"3"
    assert {m.text for m in odd.messages if isinstance(m, Progressed)} <= {"\\udc80", "7"}


async def test_an_item_may_raise_anything_and_the_others_go_on(odd: Heard) -> None:
    odd.pool.take().send([CallEach(1, "cancelled", 0, b"[0,1,2,3]")])
    done = await odd.answer(1)
    assert (done.value, [index for index, _ in done.errors]) == (b"[0,null,null,3]", [1, 2])
    assert [text.split(":")[0] for _, text in done.errors] == ["CancelledError", "Mute"]


async def test_a_function_that_forks_and_returns_twice_answers_once(odd: Heard) -> None:
    runner = odd.pool.take()
    runner.send([Call(1, "forks_and_returns", b"[]")])
    assert (await odd.answer(1)).value == str(runner.pid).encode()
    for key in range(2, 30):
        runner.send([Call(key, "echo", b"[%d]" % key)])
        assert (await odd.answer(key)).value == b"%d" % key
    assert not tree.below(runner.pid)
    assert len([m for m in odd.messages if isinstance(m, Finished)]) == 29


@pytest.mark.parametrize("name", ["forks_and_dies", "shells_and_dies"])
async def test_a_child_that_a_function_left_behind_does_not_hide_its_runners_death(
    odd: Heard, tmp_path: Path, name: str
) -> None:
    runner = odd.pool.take()
    args = json.dumps([str(tmp_path / "pid")] if name == "forks_and_dies" else []).encode()
    runner.send([Call(1, name, args)])
    await until(lambda: odd.gone, 3.0, "the runner's death is seen")
    assert "killed by SIGKILL" in odd.gone[0]
    if name == "forks_and_dies":
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


async def test_what_a_forked_child_prints_is_heard(odd: Heard) -> None:
    odd.pool.take().send([Call(1, "prints_in_a_child", b"[]")])
    await odd.answer(1)
    assert "".join(m.text for m in odd.messages if isinstance(m, Printed)) == "from the child\n"


async def test_a_function_that_redirects_its_output_costs_nothing_afterwards(odd: Heard) -> None:
    runner = odd.pool.take()
    runner.send([Call(1, "redirects", b"[]"), Call(2, "own_cpu", b"[0.5]")])
    assert float((await odd.answer(2)).value) < 0.1


async def test_a_function_that_moves_leaves_the_next_one_and_programs_where_they_were(
    odd: Heard, tmp_path: Path
) -> None:
    runner = odd.pool.take()
    script = "pwd; echo ${LEFT_BEHIND-none}"
    runner.send([Call(1, "moves", json.dumps([str(tmp_path)]).encode()), Call(2, "where", b"[]")])
    assert json.loads((await odd.answer(1)).value) == str(tmp_path)
    assert json.loads((await odd.answer(2)).value) == os.getcwd()
    runner.send([Launch(3, ("sh", "-c", script), {}, None)])
    assert (await odd.answer(3)).stdout == f"{os.getcwd()}\nnone\n"


async def test_progress_told_in_a_tight_loop_is_thinned_and_its_last_word_is_kept(odd: Heard) -> None:
    odd.pool.take().send([Call(1, "tells", b"[100000]")])
    await odd.answer(1)
    told = [m.text for m in odd.messages if isinstance(m, Progressed)]
    assert told[-1] == "99999" and len(told) < 500
    assert isinstance(odd.messages[-1], Finished)


async def test_a_function_that_closes_its_runners_socket_ends_the_runner_soon(odd: Heard) -> None:
    odd.pool.take().send([Call(1, "closes_everything", b"[]")])
    await until(lambda: odd.gone, 3.0, "the runner's end is seen")


async def test_a_result_beyond_all_bounds_is_a_failure_that_says_so(
    odd: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PAYLOAD_MAX", 1000)
    function = Function("f", lambda size: b"x" * size)
    assert isinstance(work.call(Call(1, "f", b"[1000]"), function, lambda: 0.0), Finished)
    failed: Any = work.call(Call(1, "f", b"[1001]"), function, lambda: 0.0)
    assert "its result of 1001 bytes is more than" in failed.error
    failed = work.call_each(CallEach(1, "f", 0, b"[600,600]"), function, lambda: 0.0)
    assert "its result of 1200 bytes is more than" in failed.error


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def f(x: 'Nowhere') -> None: ...", "cannot offer f"),
        ("import os\nos._exit(5)", "exit code 5"),
        ("raise SystemExit('on purpose')", "on purpose"),
        ("raise ValueError('\\udcff')", "ValueError"),
    ],
)
async def test_a_module_that_cannot_be_offered_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    (tmp_path / "unfit_module.py").write_text("import node\n" + source.replace("def f", "@node.function\ndef f"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(tmp_path))))
    heard = Heard("unfit_module")
    try:
        assert says in (await heard.pool.hello()).error
    finally:
        await heard.pool.close()


async def test_a_runner_that_never_gets_ready_is_ended_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(tmp_path))))
    monkeypatch.setattr(runner_module, "START_MAX_S", 0.5)
    heard = Heard("endless")
    try:
        hello = await asyncio.wait_for(heard.pool.hello(), 60)
        assert "did not get ready within 0.5 s" in hello.error and "endless" in hello.error
    finally:
        await heard.pool.close()


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
