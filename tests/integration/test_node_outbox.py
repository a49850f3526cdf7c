"""The outbox by itself: what it keeps, and what it does when the broker refuses, the disk is full, or files are spoilt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw

from node import keeper, outbox
from node.core.attempts import Attempt, Taken, attempt_of
from node.core.desk import Desk
from node.core.endings import Done, result_of
from node.core.lanes import Room
from node.core.letters import is_full, opened
from node.core.transport import Way
from node.kept import Folder
from node.outbox import TOO_LARGE, Outbox
from node.transports import Transports
from schemas import subjects
from schemas.advice import TransportPreference
from schemas.codec import Decoder, encode
from schemas.errors import FogError, StoreRefused, Unreachable
from schemas.objects import ref_of
from schemas.store import Ack
from schemas.task import FunctionRun, History, Outcome, OutcomeKind, Task, Work
from tests.until import eventually

outcome_of: Decoder[Outcome] = Decoder(Outcome)
LARGE = b"z" * 300_000


def attempt(task: str, placement: int = 1) -> Attempt:
    made = Task(task, "me", FunctionRun("echo", Raw(b"[1]")))
    work = Work(Raw(encode(made)), History(placement=placement))
    return attempt_of(made, work, 1, f"reply-{task}")


class World:
    """A link that is up or not, a store that answers as it is told, an object store that fails so often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bus: Any = SimpleNamespace(connected=True, max_payload=1 << 20)
        self.acks: list[str] = []
        self.context: Any = SimpleNamespace(
            node="n1", boot=2, bus=self.bus, store=self, leaving=False, closed_to="", sleep=None, full="", outbox_held=0,
            ack=self.acks.append,
        )  # fmt: skip
        self.way = Way(TransportPreference.BALANCED)
        self.desk = Desk(Room(1, 1.0, 1000))
        self.posts: list[tuple[str, bytes, Callable[[Ack | FogError], None]]] = []
        self.withdrawn: list[object] = []
        self.answer: Ack | FogError | None = None
        self.outcome_answer: Ack | FogError | None = Ack("FOG_OUTCOMES", 1)
        self.put_fails: list[Exception] = []
        self.objects: dict[str, bytes] = {}
        self.full: list[bool] = []
        self.box = self.new_box()

    def new_box(self) -> Outbox:
        self.transports = Transports(self.context, lambda: self.way)
        folder = Folder(self.path)
        return Outbox(self.context, self.desk, self, folder, self.transports, self.full.append)  # type: ignore[arg-type]

    def post(
        self, subject: str, data: bytes, _id: str, answered: Callable[[object, Ack | FogError], None], *, about: object
    ) -> object:
        on_answer = partial(answered, about)
        self.posts.append((subject, data, on_answer))
        answer = self.answer if subject.startswith(subjects.result("me", "")) else self.outcome_answer
        if answer is not None:
            on_answer(answer)
        return object()

    def withdraw(self, post: object) -> None:
        self.withdrawn.append(post)

    async def put(self, data: bytes) -> str:
        if self.put_fails:
            raise self.put_fails.pop()
        self.objects[ref_of(data)] = data
        return ref_of(data)

    def end(self, task: str, large: dict[str, bytes] | None = None) -> Attempt:
        """A task ends well."""
        one = attempt(task)
        assert self.desk.take(one)[0] is Taken.NEW
        self.desk.close(one)
        self.box.result(one, encode(result_of(one, Done(0.1, b"1"), "n1")), large)
        return one

    def letters(self) -> list[Path]:
        return sorted(self.path.glob("*.letter"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    async def make() -> World:
        return World(tmp_path / "outbox")

    monkeypatch.setattr(outbox, "KEEP_AFTER_S", 0.01)
    monkeypatch.setattr(outbox, "LOOK_S", 0.01)
    monkeypatch.setattr(outbox, "AGAIN_S", (0.001, 0.01))
    return make  # type: ignore[return-value]


async def test_what_the_broker_does_not_confirm_in_time_is_kept_and_goes_with_its_word(world: Any) -> None:
    w = await world()
    w.end("t1")
    await eventually(w.letters)
    assert w.context.outbox == 1 and w.context.outbox_since > 0
    w.posts[0][2](Ack("FOG_RESULTS", 1))
    await eventually(lambda: not w.letters())
    assert w.acks == ["reply-t1"] and w.context.outbox == 0
    w.box.close()


async def test_what_is_kept_is_taken_from_the_store_while_the_link_is_down(world: Any) -> None:
    """Memory holds none of it, and each letter is read again when the link is back, the oldest first."""
    w = await world()
    w.end("t0")
    w.bus.connected = False
    w.box.link_lost()
    for number in range(1, 30):
        w.end(f"t{number}")
    await eventually(lambda: len(w.letters()) == 30 and len(w.withdrawn) == 1)
    w.posts.clear()
    w.bus.connected, w.answer = True, Ack("FOG_RESULTS", 1)
    w.box.link_back()
    await eventually(lambda: not w.letters())
    assert sorted(w.acks) == sorted(f"reply-t{number}" for number in range(30))
    assert len(w.posts) == 30 and b'"t0"' in w.posts[0][1]
    w.box.close()


@pytest.mark.parametrize(("error", "comes"), [(Unreachable("away"), ""), (KeyError("x"), "KeyError: 'x'")])
async def test_a_large_output_is_stored_before_its_result_however_often_it_takes(
    world: Any, error: Exception, comes: str
) -> None:
    """Where the object store fails in another way, the attempt has failed, and says why."""
    w = await world()
    w.put_fails, w.answer = [error] * 3, Ack("FOG_RESULTS", 1)
    w.end("t1", {ref_of(LARGE): LARGE})
    await eventually(lambda: w.posts)
    subject, data, _ = w.posts[0]
    assert ("outcome" in subject) is bool(comes)
    if comes:
        outcome = outcome_of(data)
        assert outcome.kind is OutcomeKind.FAILED and comes in outcome.error
    else:
        assert w.objects == {ref_of(LARGE): LARGE}
    await eventually(lambda: not w.letters() and not list(w.path.glob("*.blob")))
    w.box.close()


async def test_a_result_that_is_refused_for_good_becomes_an_outcome_also_when_it_lies_on_the_disk(world: Any) -> None:
    w = await world()
    w.bus.connected = False
    w.end("t1")
    await eventually(lambda: w.letters() and w.context.outbox == 1)
    w.bus.connected, w.answer = True, StoreRefused("result", TOO_LARGE, "message size exceeds maximum allowed")
    w.box.link_back()
    await eventually(lambda: w.acks and not w.letters())
    subject, data, _ = w.posts[-1]
    assert ".outcome.n1.t1" in subject and "refused" in outcome_of(data).error and bytes(outcome_of(data).task) != b"{}"
    assert w.acks == ["reply-t1"]
    w.box.close()


async def test_at_the_bound_nothing_is_dropped_and_no_more_is_begun_until_there_is_room(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "is_full", lambda letters, size: is_full(letters + 510, size))
    w = await world()
    w.bus.connected = False
    w.end("t1")
    w.end("t2")
    w.end("t3")
    await eventually(lambda: len(w.letters()) == 3)
    assert w.full == [True]
    w.bus.connected, w.answer = True, Ack("FOG_RESULTS", 1)
    w.box.link_back()
    await eventually(lambda: w.full == [True, False] and not w.letters())
    assert len(w.acks) == 3
    w.box.close()


async def test_a_disk_that_takes_nothing_stops_new_work_and_loses_nothing(world: Any) -> None:
    w = await world()
    w.path.write_text("where the folder should be")
    w.bus.connected = False
    w.end("t1")
    await eventually(lambda: w.full == [True])
    w.bus.connected, w.answer = True, Ack("FOG_RESULTS", 1)
    w.box.link_back()
    await eventually(lambda: w.acks == ["reply-t1"])
    w.box.close()


async def test_a_new_boot_takes_up_what_can_be_read_sets_the_rest_aside_and_tidies_up(world: Any) -> None:
    w = await world()
    w.bus.connected = False
    for number in range(4):
        w.end(f"t{number}", {ref_of(LARGE): LARGE} if number == 3 else None)
    await w.box.keep_all()
    cut, changed = w.letters()[0], w.letters()[1]
    cut.write_bytes(cut.read_bytes()[:40])
    changed.write_bytes(changed.read_bytes().replace(b"t1", b"t9"))
    (w.path / ".000000000009.letter.ab12").write_bytes(b"half")
    (w.path / ("sha256-" + "0" * 64 + ".blob")).write_bytes(b"its letter was never written")
    next(w.path.glob(f"{ref_of(LARGE)}.blob")).write_bytes(b"not what its name says")
    w.box.close()
    w.desk, w.posts = Desk(Room(1, 1.0, 1000)), []
    w.box = w.new_box()
    await w.box.open()
    assert {held.task for held in w.desk.report()} == {"t2", "t3"}
    assert w.context.outbox_spoilt == 2
    assert sorted(path.name for path in w.path.iterdir() if path.is_file()) == [
        "000000000003.letter", "000000000004.letter", f"{ref_of(LARGE)}.blob",
    ]  # fmt: skip
    w.bus.connected, w.answer = True, Ack("FOG_RESULTS", 1)
    w.box.link_back()
    await eventually(lambda: w.context.outbox == 0 and w.context.outbox_spoilt == 3)
    assert [subject for subject, _, _ in w.posts] == [subjects.result("me", "t2")]
    assert not list(w.desk.everything()), "what nobody can read is held no longer: the coordinator will miss it"
    w.box.close()


async def test_letters_go_on_numbering_after_a_restart(world: Any) -> None:
    w = await world()
    w.bus.connected = False
    w.end("t1")
    await w.box.keep_all()
    w.desk = Desk(Room(1, 1.0, 1000))
    w.box = w.new_box()
    await w.box.open()
    w.end("t2")
    await w.box.keep_all()
    assert [opened(path.read_bytes()).task for path in w.letters()] == ["t1", "t2"]
    w.box.close()
