"""Areas run beside the tasks: a fault in one is its own affair."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, cast

import pytest
from msgspec import Struct

from coordinator import areas
from coordinator.areas import Area, Areas, Endpoints, Term
from coordinator.inbound import Bad
from coordinator.refusal import Refusal
from schemas.api import Empty
from schemas.errors import Unreachable
from tests.until import eventually


class Seen(Struct):
    nodes: list[str]


class Recording(Area):
    """Says what it was told; fails where the test wants it to."""

    name = "recording"
    made: list[Recording]
    faults: list[Exception]  # one for each begin, from the last

    def __init__(self, term: Term) -> None:
        super().__init__(term)
        self.seen: list[str] = []
        self.stopped = False
        self.made.append(self)

    def endpoints(self) -> Endpoints:
        return {"recording.seen": (Empty, self._seen)}

    async def _seen(self, _: Empty) -> Struct:
        return Seen(self.seen)

    async def start(self) -> None:
        if self.faults:
            raise self.faults.pop()

    def changed(self, nodes: Collection[str], now: float) -> None:
        if "poison" in nodes:
            raise ValueError("a node that this area cannot bear")
        self.seen += nodes

    async def stop(self) -> None:
        self.stopped = True


class Second(Recording):
    name = "second"

    def endpoints(self) -> Endpoints:
        return {"second.seen": (Empty, self._seen)}


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> tuple[type[Recording], type[Second]]:
    monkeypatch.setattr(areas, "AGAIN_S", 0.0)
    for kind in (Recording, Second):
        monkeypatch.setattr(kind, "made", [], raising=False)
        monkeypatch.setattr(kind, "faults", [], raising=False)
    return Recording, Second


def term(nodes: dict[str, Any], bad: Bad) -> Term:
    none = cast(Any, None)
    return Term(none, none, none, bad, lambda: 0.0, 1, "c1", lambda: True, nodes, lambda event: None)


async def test_an_area_hears_of_every_node_first_and_then_of_those_that_change(kinds: Any) -> None:
    both = Areas(kinds, term({"n1": None, "n2": None}, Bad()))
    both.start()
    await eventually(lambda: all(kind.made and kind.made[-1].seen == ["n1", "n2"] for kind in kinds))
    both.changed({"n3"}, 1.0)
    assert kinds[0].made[-1].seen == ["n1", "n2", "n3"]
    await both.stop()
    assert kinds[0].made[-1].stopped


async def test_an_area_that_cannot_begin_is_tried_again_and_says_not_ready_meanwhile(kinds: Any) -> None:
    kinds[0].faults += [Unreachable("no broker"), KeyError("a fault")]
    one = Areas(kinds[:1], term({"n1": None}, Bad()))
    answer = one.endpoints()["recording.seen"][1]
    with pytest.raises(Refusal) as refused:
        await answer(Empty())
    assert refused.value.error.code == "not-ready"
    one.start()
    await eventually(lambda: bool(kinds[0].made[-1].seen))
    assert cast(Seen, await answer(Empty())).nodes == ["n1"]
    await one.stop()


async def test_a_fault_in_one_area_begins_it_anew_and_leaves_the_other_alone(kinds: Any) -> None:
    bad = Bad()
    both = Areas(kinds, term({"n1": None}, bad))
    both.start()
    await eventually(lambda: all(kind.made and kind.made[-1].seen for kind in kinds))
    failed, other = kinds[0].made[-1], kinds[1].made[-1]
    kinds[1].changed = lambda self, nodes, now: self.seen.extend(nodes)
    both.changed({"poison"}, 1.0)
    await eventually(lambda: kinds[0].made[-1] is not failed and bool(kinds[0].made[-1].seen))
    assert failed.stopped and not other.stopped
    assert other.seen == ["n1", "poison"]
    assert bad.counts["area"] == 1
    await both.stop()
    await asyncio.sleep(0)
