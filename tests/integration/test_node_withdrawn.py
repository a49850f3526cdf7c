"""Whatever a runner is asked to give back, each attempt begins once: taking back and starting exclude each other."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
from msgspec import Raw, json

from node.core.attempts import Attempt, attempt_of
from node.core.desk import Desk
from node.core.lanes import STUCK_S, Room
from node.executor import CUT, Executor
from node.runners.frames import Failed, Finished, Printed, Progressed
from schemas.loop import run
from schemas.task import FunctionRun, History, Task, Work
from tests.integration.node_fleet import ROOT, until

NOTE = """
import os, re, time
import node
from msgspec import Struct

class Reading(Struct):
    takes_s: float

    def __post_init__(self):
        time.sleep(self.takes_s)

@node.function
def read(argument: Reading, path: str, task: str) -> None:
    note(path, task, 0.0)

@node.function
def note(path: str, task: str, hold_s: float, how: str = "") -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, f"{task}\\n".encode())
    os.close(file)
    time.sleep(hold_s)
    if how == "die":
        os._exit(3)
    if how == "hog":
        re.match("(a+)+b", 40 * "a")
"""


class Ends:
    """A sink that keeps how each ended, and whether it had begun."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.ends: dict[str, tuple[str, bool]] = {}

    def _end(self, attempt: Attempt, how: str, began: bool = True) -> None:
        assert attempt.task.id not in self.ends, "an attempt ends once"
        self.ends[attempt.task.id] = how, began
        self.desk.close(attempt)

    def started(self, attempt: Attempt) -> None:
        pass

    def unstarted(self, attempt: Attempt) -> None:
        pass

    def printed(self, attempt: Attempt, message: Printed | Progressed) -> None:
        pass

    def finished(self, attempt: Attempt, message: Finished) -> None:
        self._end(attempt, "finished")

    def failed(self, attempt: Attempt, message: Failed) -> None:
        self._end(attempt, message.error)

    def died(self, attempt: Attempt, how: str, began: bool) -> None:
        self._end(attempt, "died", began)

    def stopped(self, attempt: Attempt, why: str, began: bool) -> None:
        self._end(attempt, why, began)


class Bench:
    """An executor with real runners, whose functions are all thought to be quick, however long they take."""

    def __init__(self, folder: Path, slots: int) -> None:
        self.path = folder / "journal"
        self.desk = Desk(Room(slots, float(slots), 1000))
        self.desk.pace.learn("note", 0.000_05, 1)
        self.desk.pace.learn = lambda *_: None  # type: ignore[method-assign]
        self.sink = Ends(self.desk)
        self.executor = Executor(self.desk, ("notes",), self.sink)

    def place(self, task: str, hold_s: float = 0.0, how: str = "") -> None:
        """Queue an attempt."""
        self.call(task, "note", str(self.path), task, hold_s, how)

    def call(self, task: str, function: str, *args: object) -> None:
        """Queue an attempt that calls the function."""
        made = Task(task, "me", FunctionRun(function, Raw(json.encode(args))))
        one = attempt_of(made, Work(Raw(b"{}"), History(placement=1)), 1, f"reply-{task}")
        assert self.desk.take(one)[0].value == "new"
        self.desk.queue(one)
        self.executor.pump()

    def began(self) -> Counter[str]:
        """How often each task began."""
        return Counter(self.path.read_text().splitlines() if self.path.exists() else ())


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "notes.py").write_text(NOTE)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    return tmp_path


def test_a_line_that_is_taken_back_just_as_its_slow_head_ends_begins_nothing_twice(notes: Path) -> None:
    """On the daemon's own event loop. Each head takes about as long as one may before its line is given to others."""
    rng = random.Random(4)

    async def main() -> None:
        bench = Bench(notes, 2)
        await bench.executor.pool.hello()
        for number in range(12):
            bench.place(f"head-{number}", STUCK_S + rng.uniform(-0.002, 0.008))
            for i in range(30):
                bench.place(f"t{number}-{i}", 0.0005)
            await until(lambda: not bench.desk.held)
        assert {how for how, _ in bench.sink.ends.values()} == {"finished"}
        assert len(bench.sink.ends) == 12 * 31
        twice = {task: times for task, times in bench.began().items() if times > 1}
        assert not twice and len(bench.began()) == 12 * 31
        await bench.executor.pool.close()

    run(main())


def test_what_a_dead_runner_had_begun_is_known_and_the_rest_of_its_line_begins_once(notes: Path) -> None:
    """Its answers go in batches: those that waited went with it, and yet nobody else is blamed, and nobody begins again."""

    async def main() -> None:
        bench = Bench(notes, 1)
        await bench.executor.pool.hello()
        for number in range(6):
            for i in range(10):
                bench.place(f"t{number}-{i}", how="die" if i == 5 else "")
            await until(lambda: not bench.desk.held)
        ends = bench.sink.ends
        assert set(bench.began().values()) == {1}
        assert {task for task, (how, _) in ends.items() if how == "died"} == {f"t{number}-5" for number in range(6)}
        assert all(began for _, began in ends.values())
        for number in range(6):
            after = [ends[f"t{number}-{i}"][0] for i in range(6, 10)]
            assert after == ["finished"] * 4, "what had not begun runs elsewhere"
        await bench.executor.pool.close()

    run(main())


def test_a_cancel_of_what_stands_in_a_line_stops_it_alone(notes: Path) -> None:
    """Behind a head that takes long, it is given back without having begun; the head and the others go on."""

    async def main() -> None:
        bench = Bench(notes, 1)
        await bench.executor.pool.hello()
        bench.place("head", 0.09)
        for i in range(4):
            bench.place(f"t{i}")
        await until(lambda: bench.began()["head"])
        assert bench.executor.stop("t2", "cancelled")
        await until(lambda: not bench.desk.held)
        assert bench.sink.ends.pop("t2") == ("cancelled", False)
        assert set(bench.sink.ends.values()) == {("finished", True)} and len(bench.sink.ends) == 4
        assert bench.began() == Counter({"head": 1, "t0": 1, "t1": 1, "t3": 1})
        await bench.executor.pool.close()

    run(main())


def test_a_runner_that_is_stopped_with_others_in_its_line_begins_none_of_them_twice(notes: Path) -> None:
    """What it had begun besides is told as such; what it had not waits until it is gone, and runs then.

    One may be told as begun that did nothing yet: its runner had turned to it, and was stopped before its function's first
    line. So what the functions wrote down is among what is told as begun, and each stop makes a difference of one at most.
    """
    rng = random.Random(5)

    async def main() -> None:
        bench, stops = Bench(notes, 2), 0
        await bench.executor.pool.hello()
        for number in range(8):
            for i in range(40):
                bench.place(f"t{number}-{i}", 0.001)
            await until(lambda n=number: bench.began()[f"t{n}-0"])
            await asyncio.sleep(rng.uniform(0, 0.02))
            lane = next(iter(bench.desk.lanes.open.values()), None)
            if lane is not None:
                stops += bench.executor.stop(lane.line[0].task.id, "cancelled")
            await until(lambda: not bench.desk.held)
        began, ends = bench.began(), bench.sink.ends
        assert set(began.values()) == {1}
        told = {task for task, (_, begun) in ends.items() if begun}
        assert set(began) <= told, "what began is never told as not begun"
        assert len(told - set(began)) <= stops
        assert {task for task, (how, _) in ends.items() if how == "finished"} <= set(began)
        assert len(ends) == 8 * 40
        assert {how for how, _ in ends.values()} <= {"finished", "cancelled", CUT}
        await bench.executor.pool.close()

    run(main())


def test_what_is_stopped_before_its_functions_first_line_is_told_as_begun(notes: Path) -> None:
    """Its runner had turned to it, and only the function could tell whether it did anything: it counts as begun."""

    async def main() -> None:
        bench = Bench(notes, 1)
        await bench.executor.pool.hello()
        (runner,) = bench.executor.pool.all
        bench.call("one", "read", {"takes_s": 60.0}, str(bench.path), "one")
        await until(lambda: runner.at_work_on)
        assert bench.executor.stop("one", "cancelled")
        await until(lambda: not bench.desk.held)
        assert bench.sink.ends == {"one": ("cancelled", True)} and not bench.began()
        await bench.executor.pool.close()

    run(main())


def test_at_the_deadline_of_a_drain_what_stood_behind_a_running_one_is_handed_back_too(notes: Path) -> None:
    async def main() -> None:
        bench = Bench(notes, 1)
        await bench.executor.pool.hello()
        bench.place("head", 60.0)
        for name in ("behind", "last"):
            bench.place(name)
        await until(lambda: bench.began()["head"])
        bench.executor.stop_all("moving")
        await until(lambda: not bench.desk.held)
        assert bench.sink.ends == {"head": ("moving", True), "behind": ("moving", False), "last": ("moving", False)}
        assert set(bench.began()) == {"head"}
        await bench.executor.pool.close()

    run(main())


def test_one_that_holds_pythons_lock_cannot_keep_what_is_cancelled_behind_it(notes: Path) -> None:
    """Its runner does not answer: it is stopped, which costs nobody else more than a moment."""

    async def main() -> None:
        bench = Bench(notes, 1)
        await bench.executor.pool.hello()
        for i in range(20):  # what ended before is told by the page
            bench.place(f"t{i}")
        bench.place("hog", how="hog")
        bench.place("behind")
        await until(lambda: bench.began()["hog"])
        assert bench.executor.stop("hog", "cancelled")
        await until(lambda: not bench.desk.held)
        assert bench.sink.ends["hog"] == ("cancelled", True)
        assert bench.sink.ends["behind"] == ("finished", True)
        assert set(bench.began().values()) == {1}
        await bench.executor.pool.close()

    run(main())
