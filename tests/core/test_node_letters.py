"""Letters: what a node keeps of its attempts' ends, and what the desk makes of work that comes again meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from node.core.attempts import Attempt, Place, Taken, attempt_of
from node.core.desk import Desk
from node.core.endings import Done, result_of
from node.core.lanes import Room
from node.core.letters import Kind, attempt_in, is_full, late, letter_of, opened, outcome_instead, sealed, unburden
from schemas import limits
from schemas.codec import encode
from schemas.errors import BadInput
from schemas.task import FunctionRun, History, OutcomeKind, Task, Work


def attempt(task: str = "t1", placement: int = 3, seq: int = 7, result_by: float = 0.0) -> Attempt:
    made = Task(task, "me", FunctionRun("f", Raw(b'["' + b"x" * 100 + b'"]')))
    work = Work(Raw(encode(made)), History(placement=placement, attempts=1), term=2, result_by=result_by)
    return attempt_of(made, work, seq, f"reply-{placement}")


def kept(one: Attempt) -> bytes:
    result = encode(result_of(one, Done(0.1, b"42"), "n1"))
    return sealed(letter_of(one, Kind.RESULT, result, (), 5.0))


def test_a_letter_says_after_a_restart_what_it_was_sealed_with() -> None:
    one = attempt(result_by=99.0)
    letter = opened(kept(one))
    assert (letter.kind, letter.task, letter.submitter, letter.placement) == (Kind.RESULT, "t1", "me", 3)
    assert (letter.made_at, letter.result_by) == (5.0, 99.0)
    again = attempt_in(letter)
    assert again.place is Place.CLOSING and again.final and again.placement == 3
    assert again.reply == "reply-3"  # the node's consumer outlives it, so the work can still be acked


@given(st.data())
def test_a_letter_that_was_cut_or_changed_is_refused(data: st.DataObject) -> None:
    whole = kept(attempt())
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        spoilt = whole[:at]
    else:
        spoilt = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    with pytest.raises(BadInput):
        opened(spoilt)


def test_an_outcome_in_place_of_a_kept_result_carries_the_whole_task_on() -> None:
    """The attempt's own copy of the task is gone from memory by then: the letter has it."""
    one = attempt()
    letter = opened(kept(one))
    whole = one.work.task
    unburden(one)
    outcome = outcome_instead(letter, one, late(), "n1", 4, 100.0)
    assert bytes(outcome.task) == bytes(whole)
    assert (outcome.kind, outcome.boot, outcome.started) == (OutcomeKind.RETURNED, 4, True)
    assert (outcome.history.placement, outcome.history.attempts) == (3, 2)


def test_an_outcome_in_place_of_a_kept_result_is_of_the_newest_placement_seen() -> None:
    """Else the coordinator would take it for old news, after the node has acked the newer message."""
    desk, one = Desk(Room(2, 2.0, 1000)), attempt_in(opened(kept(attempt())))
    desk.restore(one)
    assert desk.take(attempt(placement=5, seq=9)) == (Taken.ADOPTED, "reply-3")
    outcome = outcome_instead(opened(kept(attempt())), one, late(), "n1", 4, 100.0)
    assert outcome.history.placement == 5


def test_work_that_comes_again_while_its_result_lies_in_the_outbox_starts_nothing() -> None:
    """The same placement, after a restart of the node, and a newer one, after the task was moved away and back."""
    desk, one = Desk(Room(2, 2.0, 1000)), attempt_in(opened(kept(attempt())))
    desk.restore(one)
    assert desk.take(attempt(seq=8)) == (Taken.ADOPTED, "")
    assert one.reply == "reply-3"
    assert desk.take(attempt(placement=4, seq=9)) == (Taken.ADOPTED, "reply-3")  # the older message can go
    assert not desk.held and desk.assign() == []
    assert desk.settle(one, final=True) == "reply-4"  # acked last
    assert desk.take(attempt(placement=9, seq=10)) == (Taken.SETTLED, "reply-9")


def test_a_newer_placement_of_what_only_ended_as_an_outcome_is_new_work() -> None:
    desk, one = Desk(Room(2, 2.0, 1000)), attempt()
    letter = letter_of(one, Kind.OUTCOME, b"{}", (), 5.0)
    desk.restore(attempt_in(opened(sealed(letter))))
    assert desk.take(attempt())[0] is Taken.ADOPTED
    assert desk.take(attempt(placement=4))[0] is Taken.NEW


def test_a_paused_desk_starts_nothing_and_loses_nothing() -> None:
    desk = Desk(Room(2, 2.0, 1000))
    desk.paused = True
    desk.take(one := attempt())
    desk.queue(one)
    assert desk.assign() == [] and desk.waiting() == [one]
    desk.paused = False
    assert [lane.line[0] for lane, _ in desk.assign()] == [one]


def test_the_outbox_is_full_by_number_or_by_size() -> None:
    assert not is_full(limits.OUTBOX_LETTERS - 1, limits.OUTBOX_BYTES - 1)
    assert is_full(limits.OUTBOX_LETTERS, 0)
    assert is_full(1, limits.OUTBOX_BYTES)


def test_a_heartbeat_lists_no_more_than_it_may() -> None:
    desk = Desk(Room(2, 2.0, 1000))
    for number in range(limits.HELD_MAX + 5):
        desk.restore(attempt_in(opened(sealed(letter_of(attempt(f"t{number}"), Kind.OUTCOME, b"{}", (), 0.0)))))
    assert len(desk.report()) == limits.HELD_MAX
