"""Map chunks that are split: those too long for their node, and those that kill what runs them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from coordinator.core import actions as a
from coordinator.core import events as e
from coordinator.core import tune
from coordinator.core.splitting import cut, for_speed, kills
from schemas.chunks import Span, tile
from schemas.task import AttemptError, History, MapHead, Outcome, OutcomeKind, ResultHead, ResultState, Retry
from tests.core.world import World, head

spans = st.builds(Span, st.integers(0, 10**9), st.integers(1, 100_000))
times = st.floats(0, allow_nan=False, allow_infinity=False)
speeds = st.floats(0.1, 10)
limits_ms = st.sampled_from([tune.SPLIT_MS, tune.SPLIT_SHORT_MS])


@given(spans, st.integers(-3, 64))
def test_a_cut_holds_every_item_once_in_parts_of_nearly_the_same_size(span: Span, number: int) -> None:
    parts = cut(span, number)
    assert tile(span, list(parts))
    assert list(parts) == sorted(parts)
    assert len(parts) == max(1, min(number, span.count))
    sizes = [part.count for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@given(spans, times, speeds, limits_ms)
def test_a_chunk_is_split_only_if_it_is_too_long_for_its_node(
    span: Span, item_ms: float, speed: float, split_ms: float
) -> None:
    parts = for_speed(span, item_ms, speed, split_ms)
    ms = item_ms * speed * span.count
    if span.count < 2 or ms <= split_ms:
        assert parts == ()
        return
    assert tile(span, list(parts))
    assert 2 <= len(parts) <= tune.PARTS_MAX
    if len(parts) < min(tune.PARTS_MAX, span.count):
        largest = max(part.count for part in parts) * item_ms * speed
        assert largest <= split_ms / 2 + item_ms * speed, "parts take about the time that is aimed at, to an item"


@given(spans, times, speeds, limits_ms)
def test_splitting_ends(span: Span, item_ms: float, speed: float, split_ms: float) -> None:
    """The same estimate, applied to parts again and again, comes to an end: at what is short enough, or at one item."""
    rounds, longest = 0, span
    while parts := for_speed(longest, item_ms, speed, split_ms):
        longest = max(parts, key=lambda part: part.count)
        rounds += 1
    assert rounds <= 5  # 16^5 is more than a chunk may hold
    assert longest.count == 1 or item_ms * speed * longest.count <= split_ms


@given(spans, speeds)
def test_what_is_not_known_to_be_long_is_not_split(span: Span, speed: float) -> None:
    assert for_speed(span, None, speed, tune.SPLIT_MS) == ()


@given(st.integers(1, 100_000))
def test_halving_finds_the_item_in_as_many_steps_as_there_are_doublings(count: int) -> None:
    span, steps = Span(0, count), 0
    while span.count > 1:
        span = max(cut(span, 2), key=lambda part: part.count)
        steps += 1
    assert steps == (count - 1).bit_length()


def test_what_counts_as_killing() -> None:
    def after(kind: str, lost: int = 0, attempts: int = 1) -> History:
        return History(attempts=attempts, lost=lost, errors=(AttemptError("n1", 1, 0.0, "x", kind),))

    assert kills(after("died"))
    assert kills(after("timeout"))
    assert not kills(History())
    assert not kills(after("failed"))
    assert not kills(after("lost", lost=1, attempts=1)), "a node may go for reasons of its own"
    assert kills(after("lost", lost=2, attempts=2))
    assert not kills(after("lost", lost=5, attempts=0)), "it had not begun on any of them"
    assert not kills(after("failed", lost=5, attempts=5)), "this time it was something else"


class Splitting(World):
    """A world with map chunks, whose broker stores parts: they come in as tasks before the split is confirmed."""

    def __init__(self) -> None:
        super().__init__()
        self.refusing = ""
        self.splits: list[a.Split] = []

    def chunk(self, first: int, count: int, **more: Any) -> e.TaskArrived:
        arrived = self.arrive(f"j-{first}-{count}", "echo", **more)
        return replace(arrived, head=replace(arrived.head, run=MapHead("echo", "j", first, count)))

    def answer(self, action: a.Action) -> list[e.Event]:
        if not isinstance(action, a.Split):
            return super().answer(action)
        self.splits.append(action)
        if self.refusing:
            return [e.SplitEnded(action.task, error=self.refusing)]
        parts = [self.chunk(p.first, p.count, deadline_s=action.deadline_s) for p in reversed(action.parts)]
        return [*parts, e.SplitEnded(action.task, tuple(f"j-{p.first}-{p.count}" for p in action.parts))]

    def take(self, action: a.Action) -> list[e.Event]:
        if isinstance(action, a.Split) and self.hold:
            self.log.append("split")
            self.held_back.append(action)
            return []
        return super().take(action)

    def died(self, task: str) -> list[str]:
        """Its runner ended under it."""
        held = self.state.tasks[task]
        h, self.seq = held.history, self.seq + 1
        error = AttemptError(held.bound, h.attempts + 1, self.now, "the runner ended: exit code 9", "died")
        told = replace(h, attempts=h.attempts + 1, errors=(*h.errors, error))
        outcome = a_failure(held.bound, told)
        return self.feed(e.OutcomeArrived(held.head, outcome, e.Source("outcomes", self.seq, f"o{self.seq}")))

    def learn(self, item_ms: float) -> None:
        """What an item takes is known."""
        self.feed(replace(self.arrive("first"), head=replace(head("first"), run=MapHead("echo", "j0", 0, 1))))
        self.done("first", ms=item_ms)


def a_failure(node: str, history: History) -> Outcome:
    return Outcome(Raw(b"{}"), history, OutcomeKind.FAILED, node, 1, history.errors[-1].error)


def moves(lines: list[str]) -> list[str]:
    """The lines without what outside tools are told of the parts' way."""
    return [line for line in lines if "started" not in line and "assigned" not in line]


def test_a_chunk_too_long_for_its_node_goes_on_in_parts() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    lines = moves(w.feed(w.chunk(0, 40)))
    assert w.splits[0].parts == (Span(0, 10), Span(10, 10), Span(20, 10), Span(30, 10))
    seq = w.splits[0].source.seq
    assert lines == [
        "split",
        "emit task.split j-0-40.0.split",
        "conclude j-0-40 succeeded: split into 4 parts: it would run for about 4 s on n1",
        "place j-0-10.1 at n1",
        f"remove tasks {seq}",
        "emit task.succeeded j-0-40.0.succeeded",
        "forget j-0-40",
        f"remove tasks {seq + 4}",
    ]
    concluded = next(x for x in w.all if isinstance(x, a.Conclude))
    assert concluded.parts == ("j-0-10", "j-10-10", "j-20-10", "j-30-10")
    assert concluded.node == ""
    assert w.states() == {"j-0-10": "placed", "j-10-10": "queued", "j-20-10": "queued", "j-30-10": "queued"}


def test_while_capacity_falls_short_chunks_are_cut_smaller() -> None:
    """What waits for a slot gets one sooner; a chunk of the same length is left whole when nothing waits for long."""
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    w.feed(w.chunk(0, 15), w.chunk(100, 15))
    assert w.splits == []
    w.wait(tune.SHORT_S + tune.HOUSEKEEPING_S + 1, beating=("n1",))
    w.done("j-0-15", ms=1500)
    assert w.splits[0].parts == (Span(100, 5), Span(105, 5), Span(110, 5))
    for first in (100, 105, 110):
        w.done(f"j-{first}-5", ms=500)
    w.wait(tune.HOUSEKEEPING_S + 1, beating=("n1",))
    w.feed(w.chunk(200, 15))
    assert len(w.splits) == 1


def test_parts_keep_the_place_of_the_whole_and_their_order() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    w.feed(w.chunk(0, 40), w.chunk(100, 1), w.chunk(200, 1))
    order = []
    while w.state.tasks:
        running = next(t for t, state in w.states().items() if state == "placed")
        order.append(running)
        w.done(running, ms=100 * w.state.tasks[running].head.run.count)  # type: ignore[union-attr]
    assert order == ["j-0-10", "j-10-10", "j-20-10", "j-30-10", "j-100-1", "j-200-1"]


def test_only_as_many_chunks_are_split_as_the_node_has_room_for() -> None:
    """The second long chunk waits for a faster node; it is not cut up because the slow one was asked first."""
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    w.hold = True
    w.feed(w.chunk(0, 40), w.chunk(100, 40))
    assert w.states() == {"j-0-40": "splitting", "j-100-40": "queued"}
    w.release()
    assert len(w.splits) == 1
    assert w.state.nodes["n1"].count == 1


@pytest.mark.parametrize("arrive", [lambda w: w.chunk(0, 20), lambda w: w.chunk(0, 1), lambda w: w.arrive("t1")])
def test_what_is_quick_or_single_is_placed_as_it_is(arrive: Any) -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    w.feed(arrive(w))
    assert w.splits == []
    assert list(w.states().values()) == ["placed"]


def test_a_chunk_of_an_unknown_function_is_placed_as_it_is() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.state.nodes.get("n1").speed = 10.0  # type: ignore[union-attr]
    w.feed(w.chunk(0, 1000, estimated_duration_s=1000.0))
    assert w.states() == {"j-0-1000": "placed"}


def test_a_chunk_that_kills_its_runner_is_halved_until_the_item_is_found() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.feed(w.chunk(0, 8))
    done = []
    for _ in range(100):
        running = next((t for t, state in w.states().items() if state == "placed"), None)
        if running is None:
            if not w.state.tasks:
                break
            w.wait(1, beating=None)
            continue
        run = w.state.tasks[running].head.run
        assert isinstance(run, MapHead)
        if run.first <= 5 < run.first + run.count:
            w.died(running)
        else:
            done.append(Span(run.first, run.count))
            w.done(running)
    assert [len(s.parts) for s in w.splits] == [2, 2, 2]
    assert tile(Span(0, 8), [*done, Span(5, 1)])
    failed = [x for x in w.all if isinstance(x, a.Conclude) and x.state is ResultState.FAILED]
    assert [(x.task, x.attempts) for x in failed] == [("j-5-1", 3)], "the item has its own retries"
    assert "the runner ended: exit code 9" in failed[0].reason


def test_a_chunk_that_may_not_be_tried_again_is_not_halved() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.feed(w.chunk(0, 8, retry=Retry(limit=0)))
    w.died("j-0-8")
    assert w.splits == []
    assert w.results["j-0-8"].state is ResultState.FAILED


def test_a_chunk_under_which_two_nodes_were_lost_is_halved() -> None:
    w = Splitting()
    for name in ("n1", "n2", "n3"):
        w.join(name, cores=1)
    w.feed(w.chunk(0, 8))
    w.kill(w.node_of("j-0-8"))
    assert w.states() == {"j-0-8": "placed"}, "once may be chance"
    w.kill(w.node_of("j-0-8"))
    assert [s.parts for s in w.splits] == [(Span(0, 4), Span(4, 4))]
    assert set(w.state.tasks) == {"j-0-4", "j-4-4"}


def test_parts_have_what_is_left_of_the_deadline() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.feed(w.chunk(0, 8, deadline_s=60.0))
    w.wait(20, beating=None)
    w.died("j-0-8")
    assert w.splits[0].deadline_s == pytest.approx(40, abs=0.01)


def test_a_chunk_that_cannot_be_split_goes_on_whole() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    w.refusing = "its job is not known"
    w.feed(w.chunk(0, 40))
    assert w.states() == {"j-0-40": "placed"}
    w.died("j-0-40")
    w.wait(3, beating=None)
    assert w.states() == {"j-0-40": "placed"}, "a failed attempt like any other"
    assert len(w.splits) == 1


def test_a_cancel_while_it_is_split_reaches_the_parts() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    w.hold = True
    w.feed(w.chunk(0, 40))
    assert moves(w.feed(e.CancelAsked("j-0-40", "ann", "enough"))) == []
    w.release()
    assert w.state.tasks == {}
    assert {w.results[t].state for t in ("j-0-40", "j-0-10", "j-30-10")} == {ResultState.CANCELLED}


def test_a_cancel_of_what_was_split_reaches_the_parts() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    w.feed(w.chunk(0, 40))
    w.feed(e.CancelAsked("j-0-40", "ann", "enough"))
    assert w.state.tasks == {}
    assert w.results["j-0-40"].state is ResultState.SUCCEEDED
    assert w.results["j-20-10"].state is ResultState.CANCELLED
    assert w.state.nodes["n1"].count == 0


def test_a_node_lost_while_its_chunk_is_split_changes_nothing() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    w.hold = True
    w.feed(w.chunk(0, 40))
    w.kill("n1")
    assert w.states() == {"j-0-40": "splitting"}
    w.release()
    assert len(w.state.tasks) == 4
    assert w.results["j-0-40"].state is ResultState.SUCCEEDED


def test_a_deadline_that_passes_while_it_is_split_is_that_of_the_parts() -> None:
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    w.hold = True
    w.feed(w.chunk(0, 40, deadline_s=2.0))
    w.wait(3, beating=None)
    assert w.states() == {"j-0-40": "splitting"}
    w.refusing = "not now"
    w.release()
    assert w.results["j-0-40"].state is ResultState.EXPIRED, "whole again, it is late itself"


def test_a_result_that_comes_while_it_is_split_counts() -> None:
    """A node that was given up had finished all the same."""
    w = Splitting()
    w.join("n1", cores=1)
    w.learn(100)
    w.hold = True
    w.feed(w.chunk(0, 40))
    w.feed(e.ResultSeen(ResultHead("j-0-40", "ann", ResultState.SUCCEEDED, "n0", 3)))
    w.feed(e.SplitEnded("j-0-40", ("j-0-20", "j-20-20")))
    assert w.state.tasks == {}
    assert w.state.nodes["n1"].count == 0
