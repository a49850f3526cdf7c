"""What an attempt came to, as history, outcome and result say it; heartbeats' deltas; learned durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from node.core.attempts import Attempt, attempt_of
from node.core.beats import JITTER, Beats, wait_s
from node.core.endings import Done, Ending, cut, history_after, outcome_of, result_of
from node.core.letters import is_late
from node.core.pace import NAMES_MAX, Pace
from schemas import limits
from schemas.codec import Decoder, encode
from schemas.device import DeviceState, NetworkQuality
from schemas.task import AttemptError, Blob, FunctionRun, History, Outcome, OutcomeKind, Result, ResultState, Task, Work

FAILED = Ending(OutcomeKind.FAILED, "failed", "boom", True)
BEFORE = History(placement=3, attempts=1, retries_used=1, submitted_at=5.0, failed_on=("n7",), avoid=("n8",))


def attempt(history: History = BEFORE, result_by: float = 0.0) -> Attempt:
    task = Task("t", "me", FunctionRun("f"), input_bytes=9)
    work = Work(Raw(encode(task)), history, term=2, deadline_at=77.0, result_by=result_by)
    one = attempt_of(task, work, 1, "reply")
    one.started_at = 100.0
    return one


def test_a_failure_counts_the_attempt_and_marks_the_node() -> None:
    after = history_after(BEFORE, FAILED, "n1", 50.0)
    assert (after.attempts, after.failed_on, after.avoid) == (2, ("n7", "n1"), ("n8",))
    assert after.errors == (AttemptError("n1", 2, 50.0, "boom", "failed"),)
    assert (after.placement, after.retries_used, after.submitted_at) == (3, 1, 5.0), "the rest is the coordinator's"


def test_what_is_handed_back_before_it_began_leaves_no_trace() -> None:
    assert history_after(BEFORE, Ending(OutcomeKind.RETURNED, "returned", "drain", False), "n1", 50.0) == BEFORE


def test_what_is_handed_back_while_it_ran_counts_as_a_start_and_not_as_a_failure() -> None:
    after = history_after(BEFORE, Ending(OutcomeKind.RETURNED, "returned", "drain", True), "n1", 50.0)
    assert (after.attempts, after.failed_on, after.errors[-1].kind) == (2, ("n7",), "returned")


def test_a_refusal_marks_the_node_as_one_to_avoid_and_is_no_attempt() -> None:
    after = history_after(BEFORE, Ending(OutcomeKind.REFUSED, "refused", "no", False), "n1", 50.0)
    assert (after.attempts, after.avoid, after.failed_on) == (1, ("n8", "n1"), ("n7",))


def test_a_node_is_named_once_however_often_it_failed() -> None:
    once = history_after(BEFORE, FAILED, "n1", 50.0)
    assert history_after(once, FAILED, "n1", 60.0).failed_on == ("n7", "n1")


def test_errors_are_bounded_in_number_and_length() -> None:
    history = BEFORE
    for i in range(limits.ERRORS_KEPT + 5):
        history = history_after(history, Ending(OutcomeKind.FAILED, "failed", "x" * 9000 + f"end {i}", True), "n1", 1.0)
    assert len(history.errors) == limits.ERRORS_KEPT
    assert all(len(error.error) <= limits.ERROR_MAX for error in history.errors)
    assert history.errors[-1].error.endswith(f"end {limits.ERRORS_KEPT + 4}")


@given(st.text(max_size=3 * limits.ERROR_MAX))
def test_a_cut_error_keeps_its_end_within_the_limit(text: str) -> None:
    assert len(cut(text)) <= limits.ERROR_MAX
    assert cut(text)[1:] == text[-limits.ERROR_MAX :][1:] or cut(text) == text


def test_an_outcome_carries_the_whole_task_and_what_its_work_said() -> None:
    one = attempt(result_by=500.0)
    outcome = outcome_of(
        one, Ending(OutcomeKind.FAILED, "failed", "exit code 3", True, 3, "out", "err"), "n1", 4, 101.5
    )
    said = Decoder(Outcome)(encode(outcome))
    assert bytes(said.task) == encode(one.task)
    assert (said.node, said.boot, said.deadline_at, said.result_by, said.duration_ms) == ("n1", 4, 77.0, 500.0, 1500.0)
    assert (said.exit_code, said.stdout, said.stderr) == (3, "out", "err")


def test_an_attempt_that_never_began_took_no_time() -> None:
    ending = Ending(OutcomeKind.RETURNED, "returned", "drain", False)
    assert outcome_of(attempt(), ending, "n1", 4, 101.5).duration_ms == 0


@pytest.mark.parametrize(
    "done", [Done(0.5, b"[1]"), Done(0.5, blob=Blob(1, b"x")), Done(0.5, exit_code=0, stdout="o"), Done(0.5)]
)
def test_a_result_is_valid_json_whatever_it_holds(done: Done) -> None:
    said = Decoder(Result)(encode(result_of(attempt(), done, "n1")))
    assert (said.task, said.submitter, said.state) == ("t", "me", ResultState.SUCCEEDED)
    assert (said.placement, said.attempts, said.duration_ms, said.input_bytes) == (3, 2, 500.0, 9)
    assert (bytes(said.value), said.blob, said.exit_code) == (done.value, done.blob, done.exit_code)


def test_a_result_is_late_only_when_there_is_a_time_for_it() -> None:
    assert not is_late(0.0, 1e9)
    assert not is_late(100.0, 99.0)
    assert is_late(100.0, 101.0)


# Heartbeats.


def test_a_beat_says_only_what_changed_since_the_one_before() -> None:
    beats = Beats()
    state = DeviceState(battery_percent=50.0, is_charging=False)
    assert beats.delta(state, full=True) == state
    assert beats.delta(state, full=False) == DeviceState()
    lower = DeviceState(battery_percent=49.0, is_charging=False)
    assert beats.delta(lower, full=False) == DeviceState(battery_percent=49.0)


def test_a_value_that_became_unknown_is_a_change_and_one_not_looked_at_is_not() -> None:
    beats = Beats()
    beats.delta(DeviceState(battery_percent=50.0, network_quality=NetworkQuality.GOOD), full=True)
    assert beats.delta(DeviceState(battery_percent=None), full=False) == DeviceState(battery_percent=None)
    full = beats.delta(DeviceState(battery_percent=None), full=True)
    assert full.network_quality is NetworkQuality.GOOD
    assert full.ram_available_mb is UNSET


def test_beats_are_numbered_from_one() -> None:
    beats = Beats()
    assert [beats.next_seq(), beats.next_seq()] == [1, 2]


@given(st.floats(0, 1), st.floats(0.1, 100))
def test_the_jitter_stays_within_ten_percent(chance: float, interval_s: float) -> None:
    assert (1 - JITTER) * interval_s * 0.999 <= wait_s(interval_s, chance) <= (1 + JITTER) * interval_s * 1.001


# Durations.


def test_the_estimate_follows_what_was_measured_and_starts_unknown() -> None:
    pace = Pace()
    assert pace.estimate("f", 1) is None
    pace.learn("f", 10.0, 100)
    assert pace.estimate("f", 50) == pytest.approx(5.0)
    for _ in range(50):
        pace.learn("f", 0.2, 1)
    assert pace.estimate("f", 1) == pytest.approx(0.2, rel=0.01)


def test_the_number_of_names_that_are_remembered_is_bounded() -> None:
    pace = Pace()
    for i in range(NAMES_MAX + 10):
        pace.learn(f"f{i}", 1.0, 1)
    assert pace.estimate("f0", 1) is None and pace.estimate(f"f{NAMES_MAX + 9}", 1) == 1.0
