"""The life of a task: its moves, its retries, its one end. Most are transcripts: what the core wants, line by line."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from coordinator.core import actions as a
from coordinator.core import events as e
from coordinator.core import tune
from coordinator.core.record import TRANSITIONS, Life
from schemas import limits
from schemas.codec import encode
from schemas.membership import Held
from schemas.task import AttemptError, History, OutcomeKind, ResultHead, ResultState, Retry
from tests.core.world import World, head


def test_a_task_from_submission_to_result() -> None:
    w = World()
    w.join("n1")
    assert w.submit("t1") == ["place t1.1 at n1", "remove tasks 1", "emit task.assigned t1.1.assigned"]
    assert w.done("t1") == ["emit task.started t1.1.started", "emit task.succeeded t1.1.succeeded", "forget t1"]
    assert w.state.tasks == {}
    assert w.state.nodes["n1"].count == 0


def test_the_old_place_goes_only_after_the_new_one_is_stored() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    assert w.submit("t1") == ["place t1.1 at n1"]
    assert w.release() == ["remove tasks 1", "emit task.assigned t1.1.assigned"]


def test_a_task_is_said_to_be_assigned_as_of_the_decision() -> None:
    """Its node may begin before the broker's word is back; by their times the events are in order all the same."""
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1")
    decided = w.now
    w.now += 0.2
    w.release()
    [said] = [x for x in w.all if isinstance(x, a.Emit) and x.kind == "task.assigned"]
    assert said.at == decided


def test_a_result_may_overtake_the_ack_of_its_placement() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1")
    assert w.done("t1") == [
        "remove tasks 1",
        "emit task.started t1.1.started",
        "emit task.succeeded t1.1.succeeded",
        "forget t1",
    ]
    assert w.release() == [], "the node acks its WORK message itself"


def test_a_redelivered_submission_is_not_run_twice() -> None:
    w = World()
    w.join("n1")
    arrived = w.arrive("t1")
    w.feed(arrived)
    assert w.feed(arrived) == ["remove tasks 1"]
    w.done("t1")
    assert w.feed(arrived) == ["remove tasks 1", "forget t1"], "nor is its body kept"


def test_what_is_no_task_fails_with_the_reason_and_touches_no_task_of_that_name() -> None:
    w = World()
    w.join("n1")
    problem = "needs.cores: expected a number"
    source = e.Source("tasks", 9, "r9")
    assert w.feed(e.TaskUnreadable("bad", "ann", problem, source)) == [
        f"conclude bad failed: this is not a task: {problem}",
        "remove tasks 9",
    ]
    w.feed(e.ResultSeen(w.results["bad"]))
    assert w.feed(e.TaskUnreadable("bad", "ann", problem, source)) == ["remove tasks 9"], "it is told once"
    w.submit("t1")
    assert w.feed(e.TaskUnreadable("t1", "ann", problem, source)) == ["remove tasks 9"]
    assert w.states() == {"t1": "placed"}


def test_the_result_of_what_is_no_task_may_come_by_before_its_confirmation() -> None:
    w = World()
    w.hold = True
    w.feed(e.TaskUnreadable("bad", "ann", "no", e.Source("tasks", 9, "r9")))
    seen = w.feed(e.ResultSeen(ResultHead("bad", "ann", ResultState.FAILED)))
    assert seen == ["remove tasks 9", "emit task.failed bad.0.failed"]
    assert w.release() == []


def test_a_submission_that_may_be_done_is_looked_up_first() -> None:
    w = World()
    w.join("n1")
    w.results["t1"] = ResultHead("t1", "ann", ResultState.SUCCEEDED, "n0", 4)
    assert w.submit("t1", maybe_done=True) == [
        "ask t1",
        "remove tasks 1",
        "emit task.started t1.4.started",
        "emit task.succeeded t1.4.succeeded",
        "forget t1",
    ]
    assert w.submit("t2", maybe_done=True)[:2] == ["ask t2", "place t2.1 at n1"]


def test_a_failed_attempt_is_tried_elsewhere_with_backoff_and_fails_with_every_error() -> None:
    w = World()
    w.join("n1")
    w.join("n2")
    w.submit("t1", retry=Retry(limit=2, backoff_s=0.5))
    first = w.node_of("t1")
    assert w.outcome("t1", error="one") == [
        "remove work 2",
        "emit task.started t1.1.started",
        "emit task.attempt-failed t1.1.attempt-failed",
    ]
    assert w.states() == {"t1": "waiting"}
    w.wait(1, beating=None)
    second = w.node_of("t1")
    assert second != first
    w.outcome("t1", error="two")  # 1 s × 0.75..1.25
    w.wait(3, beating=None)
    lines = w.outcome("t1", error="three")
    assert "conclude t1 failed: failed after 3 attempts: three" in lines
    assert lines[-2:] == [f"emit task.failed t1.{w.results['t1'].placement}.failed", "forget t1"]
    concluded = next(x for x in w.all if isinstance(x, a.Conclude))
    assert [(x.error, x.attempt, x.kind) for x in concluded.errors] == [
        ("one", 1, "failed"),
        ("two", 2, "failed"),
        ("three", 3, "failed"),
    ]
    assert w.state.nodes[first].count == w.state.nodes[second].count == 0


def test_a_failed_command_keeps_its_exit_code() -> None:
    w = World()
    w.join("n1")
    w.submit("t1", retry=Retry(limit=0))
    w.outcome("t1", error="exit 3", exit_code=3, stdout="out", stderr="err")
    concluded = next(x for x in w.all if isinstance(x, a.Conclude))
    assert (concluded.exit_code, concluded.stdout, concluded.stderr, concluded.node) == (3, "out", "err", "n1")


def test_a_long_backoff_waits_in_the_waiting_place() -> None:
    w = World()
    w.join("n1")
    w.submit("t1", retry=Retry(limit=1, backoff_s=10))
    lines = w.outcome("t1")
    assert [x for x in lines if "place" in x or "waiting" in x] == [
        "place t1.2 at _waiting (failed on n1, tried again later)",
        "emit task.waiting t1.2.waiting",
    ]
    w.wait(7, beating=None)
    assert w.states() == {"t1": "waiting"}
    w.wait(6, beating=None)
    assert w.states() == {"t1": "placed"}
    assert w.state.parked == 0


def test_a_takeover_within_a_backoff_does_not_begin_it_anew() -> None:
    """A short one is kept in memory alone: its successor finds the outcome, and when the broker stored it."""
    w = World()
    w.join("n1")
    w.heads["t1"] = head("t1", retry=Retry(limit=1, backoff_s=0.8))
    more = {"node": "n1", "history": History(placement=1)}
    w.outcome("t1", stored_at=w.now - 0.5, **more)
    assert abs(w.state.tasks["t1"].not_before - (w.now + 0.3)) <= 0.21  # the jitter
    w.heads["t2"] = head("t2", retry=Retry(limit=1, backoff_s=30))
    w.outcome("t2", stored_at=w.now - 60, **more)
    assert w.states()["t2"] == "placed", "it has waited long enough"
    w.heads["t3"] = head("t3", retry=Retry(limit=1, backoff_s=0.8))
    w.outcome("t3", stored_at=w.now + 60, **more)
    assert w.state.tasks["t3"].not_before < w.now + 1.1, "a broker's clock that is ahead of ours puts nothing off"


def test_a_returned_task_counts_as_no_failure_and_goes_elsewhere() -> None:
    w = World()
    w.join("n1")
    w.submit("t1", retry=Retry(limit=0))
    w.outcome("t1", OutcomeKind.RETURNED, "battery low")
    w.wait(tune.SHUN_ALONE_S / 2, beating=None)
    assert w.states() == {"t1": "waiting"}, "its only node gave it back, and is left alone for a moment"
    assert w.state.tasks["t1"].history.retries_used == 0
    w.join("n2")
    assert w.node_of("t1") == "n2"


@pytest.mark.parametrize("began", [True, False])
def test_the_only_node_for_a_task_has_what_it_returned_again_soon(began: bool) -> None:
    """n2 is no place for it: keeping away from n1 would bring it nowhere."""
    w = World()
    w.join("n1")
    w.join("n2", functions="other")
    w.submit("t1")
    w.outcome("t1", OutcomeKind.RETURNED, "not after the one that ended its process", started=began)
    w.wait(tune.SHUN_ALONE_S + 1, beating=None)
    assert w.node_of("t1") == "n1"


def test_a_task_keeps_away_from_the_node_that_returned_it_while_another_is_a_place_for_it_though_a_busy_one() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.join("n2", slots=1)
    w.submit("long", node="n2")
    w.outcome("t1", OutcomeKind.RETURNED, "user is back")
    w.wait(tune.SHUN_RETURNED_S - 1, beating=None)
    assert w.states()["t1"] == "waiting"
    w.wait(2, beating=None)
    assert w.node_of("t1") == "n1"


def test_what_the_only_node_returns_at_once_each_time_goes_to_and_fro_no_quicker_than_it_must() -> None:
    """It takes nothing, though its beats do not say so; nothing of it began, so that nothing else backs off."""
    w = World()
    w.join("n1")
    w.submit("t1")
    for _ in range(5):
        w.outcome("t1", OutcomeKind.RETURNED, "its outbox is full", started=False)
        w.wait(tune.SHUN_ALONE_S / 2, beating=None)
        assert w.states() == {"t1": "waiting"}
        w.wait(tune.SHUN_ALONE_S, beating=None)
        assert w.states() == {"t1": "placed"}


def test_a_clock_that_is_ahead_keeps_a_returned_task_from_its_node_no_longer_than_any_other() -> None:
    """Simulator, seed 169: found by a successor in the waiting place, returned by a node 45 minutes ahead of it."""
    w = World()
    w.join("n1")
    ahead = AttemptError("n1", 1, w.now + 2_700, "user is back", "returned", None)
    w.feed(replace(found(w, "t1", "_waiting", 2, 7), history=History(2, 1, submitted_at=w.now, errors=(ahead,))))
    w.wait(tune.SHUN_ALONE_S / 2, beating=None)
    assert w.states() == {"t1": "waiting"}
    w.wait(tune.SHUN_ALONE_S, beating=None)
    assert w.states() == {"t1": "placed"}


def test_a_refused_task_never_goes_there_again() -> None:
    w = World()
    w.join("n1")
    w.submit("t1", retry=Retry(limit=0))
    w.outcome("t1", OutcomeKind.REFUSED, "unknown function", started=False)
    w.wait(60, beating=None)
    assert w.states() == {"t1": "waiting"}
    assert w.state.tasks["t1"].history.avoid == ("n1",)
    assert w.state.tasks["t1"].history.attempts == 0
    w.join("n2")
    assert w.node_of("t1") == "n2"


def test_an_outcome_of_an_older_placement_changes_nothing() -> None:
    w = World()
    w.join("n1")
    w.join("n2")
    w.submit("t1")
    old = w.state.tasks["t1"].history
    w.kill(w.node_of("t1"))
    assert w.outcome("t1", history=old) == [f"remove outcomes {w.seq}"]
    assert w.states() == {"t1": "placed"}


def test_an_outcome_that_is_redelivered_counts_once() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    held = w.state.tasks["t1"].history
    w.outcome("t1")
    w.seq -= 1
    assert w.outcome("t1", history=held) == []
    assert w.state.tasks["t1"].history.retries_used == 1


def test_an_outcome_of_a_task_that_ended_long_ago_runs_nothing() -> None:
    """Its id is not remembered any more; RESULTS is."""
    w = World()
    w.join("n1")
    w.submit("t1")
    history = w.state.tasks["t1"].history
    w.done("t1")
    w.state.done.clear()
    lines = w.outcome("t1", node="n1", history=history)
    assert lines[:2] == ["ask t1", f"remove outcomes {w.seq}"]
    assert w.state.tasks == {}
    assert w.outcome("t1", node="n1", history=history) == [f"remove outcomes {w.seq}", "forget t1"]


def test_after_a_takeover_an_outcome_counts_once_results_was_asked() -> None:
    w = World()
    w.join("n1")
    w.heads = {"t1": head("t1"), "t2": head("t2")}
    w.results["t1"] = ResultHead("t1", "ann", ResultState.CANCELLED, reason="by the former coordinator")
    old = History(placement=1, submitted_at=500.0)
    assert w.outcome("t1", OutcomeKind.RETURNED, "drain", node="n0", history=old, started=False) == [
        "ask t1",
        "remove outcomes 1",
        "emit task.cancelled t1.0.cancelled",
        "forget t1",
    ]
    lines = w.outcome("t2", node="n0", history=old)
    assert lines == ["ask t2", "emit task.started t2.1.started", "emit task.attempt-failed t2.1.attempt-failed"]
    assert w.state.tasks["t2"].history.retries_used == 1


def test_an_outcome_that_waits_for_results_is_judged_once_however_often_it_comes() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.heads = {"t1": head("t1")}
    old = History(placement=1, submitted_at=500.0)
    w.outcome("t1", node="n0", history=old)
    w.seq -= 1
    assert w.outcome("t1", node="n0", history=old) == [], "redelivered"
    assert w.outcome("t1", node="n0", history=old) == ["remove outcomes 1"], "stored twice: one of them is enough"
    w.release()
    w.wait(1, beating=None)
    assert w.state.tasks["t1"].history.retries_used == 1
    assert w.states() == {"t1": "placed"}


def test_a_task_whose_message_is_gone_waits_for_the_end_that_must_be_under_way() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    old = w.state.tasks["t1"].history
    w.hold = True
    w.join("n2")
    w.release()
    w.hold = True
    w.kill("n1")
    w.held_back = []
    w.feed(e.ResultsAsked({"t1": None}))
    w.hold, w.held_back = False, []
    assert w.feed(e.PlaceFailed("t1", 2, "its message is gone", gone=w.state.tasks["t1"].source)) == ["ask t1"]
    assert w.state.nodes["n2"].count == 0
    assert "ask t1" in w.wait(11, beating=None)
    lines = w.outcome("t1", OutcomeKind.RETURNED, "drain", node="n1", history=old, started=False)
    assert lines == ["remove work 2", "ask t1", "place t1.3 at n2", f"remove outcomes {w.seq - 1}", lines[-1]]


def test_a_message_that_is_gone_does_not_count_where_the_task_has_come_to_lie_elsewhere() -> None:
    """Its outcome came while it was being placed: that is its place then, whatever is said of the old one."""
    w = World()
    w.join("n1")
    w.submit("t1")
    old = w.state.tasks["t1"].history
    w.hold = True
    w.join("n2")
    w.release()
    w.hold = True
    w.kill("n1")
    w.held_back = []
    w.feed(e.ResultsAsked({"t1": None}))
    w.hold, w.held_back = False, []
    before = w.state.tasks["t1"].source
    w.outcome("t1", OutcomeKind.RETURNED, "drain", node="n1", history=old, started=False)
    assert w.state.tasks["t1"].source.stream == "outcomes"
    lines = w.feed(e.PlaceFailed("t1", 2, "its message is gone", gone=before))
    assert lines[:2] == ["ask t1", "place t1.3 at n2"]


def test_a_question_without_an_answer_is_put_again_however_the_clock_rounds() -> None:
    w = World()
    w.now = 1006.5000000000001
    w.join("n1")
    w.hold = True
    w.submit("t1")
    w.hold, w.held_back = False, []
    w.feed(e.PlaceFailed("t1", 1, "its message is gone", gone=w.state.tasks["t1"].source))
    w.hold = True
    for _ in range(3):
        w.held_back = []
        w.wait(10.5, beating=None)
        assert any("ask" in str(held).lower() for held in w.held_back)


def test_a_task_whose_message_is_gone_fails_when_no_end_of_it_comes() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1")
    w.hold, w.held_back = False, []
    w.feed(e.PlaceFailed("t1", 1, "its message is gone", gone=w.state.tasks["t1"].source))
    w.wait(tune.GONE_S - 1, beating=None)
    assert w.states() == {"t1": "asking"}
    w.wait(12, beating=None)
    assert w.results["t1"].state is ResultState.FAILED
    assert "submit it again" in w.results["t1"].reason


def test_a_placement_that_an_earlier_term_made_elsewhere_is_moved_from_there() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1")
    w.hold, w.held_back = False, []
    lines = w.feed(e.Placed("t1", 1, 77, found="elsewhere"))
    assert lines[:4] == ["remove tasks 1", "ask t1", "place t1.2 at n1", "remove work 77"]
    assert w.state.nodes["n1"].count == 1


def test_cancelling_a_queued_task_is_at_once() -> None:
    w = World()
    w.submit("t1")
    assert w.feed(e.CancelAsked("t1", reason="not needed")) == [
        "conclude t1 cancelled: not needed",
        "remove work 2",
        "emit task.cancelled t1.1.cancelled",
        "forget t1",
    ]


def test_cancelling_a_running_task_reaches_its_node_and_the_first_stored_result_counts() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.hold = True
    assert w.feed(e.CancelAsked("t1")) == ["conclude t1 cancelled: cancelled"]
    w.done("t1")  # its success was stored first
    assert w.release() == []
    assert not [x for x in w.log if x.startswith("command")], "it has ended by itself"
    assert [x for x in w.log if x.startswith("emit task.") and "assigned" not in x] == [
        "emit task.started t1.1.started",
        "emit task.succeeded t1.1.succeeded",
    ]


def test_a_node_is_told_to_stop_only_once_the_result_is_stored() -> None:
    """It acks its WORK message at once, which until then is the only one that holds the task."""
    w = World()
    w.join("n1")
    w.submit("t1")
    w.hold = True
    assert w.feed(e.CancelAsked("t1", reason="not needed")) == ["conclude t1 cancelled: not needed"]
    assert w.state.nodes["n1"].count == 1, "it runs until then"
    assert w.release()[:2] == ["command n1 cancel t1", "remove work 2"]
    assert w.state.nodes["n1"].count == 0


def test_a_node_is_told_to_stop_what_another_recorded_the_end_of() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.results["t1"] = ResultHead("t1", "ann", ResultState.EXPIRED, reason="by the former coordinator")
    assert w.feed(e.CancelAsked("t1"))[:3] == ["conclude t1 cancelled: cancelled", "ask t1", "command n1 cancel t1"]
    assert w.state.tasks == {}
    assert w.state.nodes["n1"].count == 0


def test_a_node_that_is_lost_before_the_result_is_stored_loses_no_attempt_of_it() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.hold = True
    w.feed(e.CancelAsked("t1"))
    assert w.kill("n1") == ["probe n1", "emit node.lost n1.1.lost.1.2"]
    w.release()
    assert w.state.tasks == {}


def test_cancelling_while_a_placement_is_on_its_way_leaves_nothing_behind() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1")
    w.feed(e.CancelAsked("t1"))
    w.release()
    assert e.Source("work", w.where["t1"][1]) in w.removed
    assert e.Source("tasks", 1, "r1") in w.removed
    assert w.state.tasks == {}


def test_a_task_unknown_here_can_be_cancelled_by_its_submitter() -> None:
    w = World()
    source = e.Source("tasks", 9)
    lines = w.feed(e.CancelAsked("t9", "ann", "", source))
    assert lines == ["conclude t9 cancelled: cancelled", "remove tasks 9"]


def test_a_deadline_ends_a_task_wherever_it_is() -> None:
    w = World()
    w.join("n1", cores=1)
    w.submit("running", deadline_s=5.0)
    w.submit("queued", deadline_s=6.0)
    w.submit("waiting", deadline_s=7.0, function="nowhere")
    w.wait(8, beating=None)
    assert {t: r.state.value for t, r in w.results.items()} == dict.fromkeys(
        ["running", "queued", "waiting"], "expired"
    )
    assert "no node fits" in w.results["waiting"].reason
    assert w.state.tasks == {}
    assert w.state.nodes["n1"].count == 0


def test_a_lost_node_has_its_tasks_looked_up_at_once_and_moved() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.submit("t2")
    w.results["t2"] = ResultHead("t2", "ann", ResultState.SUCCEEDED, "n1", 1)  # stored just before it died
    w.join("n2", cores=1)
    assert w.kill("n1") == [
        "probe n1",
        "ask t1 t2",
        "emit task.started t2.1.started",
        "emit task.succeeded t2.1.succeeded",
        "forget t2",
        "emit node.lost n1.1.lost.1.2",
        "remove work 4",
        "emit task.lost t1.1.lost",
        "place t1.2 at n2",
        "remove work 2",
        "emit task.assigned t1.2.assigned",
    ]
    assert w.state.tasks["t1"].history.lost == 1


def test_a_late_result_of_a_lost_attempt_counts_and_stops_the_new_one() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.join("n2")
    w.kill("n1")
    assert w.done("t1", node="n1", placement=1) == [
        "command n2 cancel t1",
        f"remove work {w.where['t1'][1]}",
        "emit task.started t1.1.started",
        "emit task.succeeded t1.1.succeeded",
        "forget t1",
    ]
    assert w.state.nodes["n2"].count == 0


def test_a_task_that_kills_its_nodes_fails_in_the_end() -> None:
    """Five losses are forgiven, later ones count as failed attempts."""
    w = World()
    w.join("n1")
    w.submit("t1", retry=Retry(limit=1))
    for i in range(20):
        if "t1" not in w.state.tasks:
            break
        w.join("n1", session=f"s{i + 2}")
    assert w.results["t1"].state is ResultState.FAILED
    assert w.state.counts["attempts lost"] == tune.LOST_FREE + 1


def test_a_placement_said_to_be_a_duplicate_and_gone_is_looked_up() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1")
    w.hold = False
    assert w.feed(e.Placed("t1", 1, 5, found="gone"))[:2] == ["ask t1", "place t1.2 at n1"]


def test_a_placement_that_the_broker_did_not_take_is_tried_again_as_the_same() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1")
    w.hold, w.held_back = False, []
    w.feed(e.PlaceFailed("t1", 1, "no answer"))
    assert "place t1.1 at n1" in w.wait(1.5, beating=None)
    assert w.states() == {"t1": "placed"}


def test_a_placement_that_never_fits_fails_the_task() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1")
    w.hold, w.held_back = False, []
    lines = w.feed(e.PlaceFailed("t1", 1, "maximum payload exceeded", final=True))
    assert "conclude t1 failed: the broker refused it: maximum payload exceeded" in lines
    assert w.state.nodes["n1"].count == 0


def found(w: World, task: str, node: str, placement: int, seq: int, **more: object) -> e.WorkFound:
    history = History(placement, submitted_at=500.0)
    return e.WorkFound(head(task), history, node, e.Source("work", seq), None, **more)  # type: ignore[arg-type]


def test_a_successor_goes_on_from_what_the_streams_hold() -> None:
    """The highest placement counts, lower ones are removed, waiting tasks wait on, running ones stay."""
    old = World()
    old.join("n1")
    record, revision = old.records["n1"]
    w = World(term=0)
    w.records["n1"] = (record, revision)
    lines = w.feed(
        e.NodeKnown(record, revision),
        found(w, "t1", "n1", 2, 10),
        found(w, "t1", "n0", 1, 4),
        found(w, "t2", "_waiting", 3, 11, reason="no GPU"),
        found(w, "t3", "n0", 1, 12),
    )
    assert lines == ["remove work 4", "ask t3"]
    w.seq = 20
    w.feed(e.TakenOver("c2", 2))
    assert w.states() == {"t1": "placed", "t2": "waiting", "t3": "queued"}
    w.join("n1", held=(Held("t1", 2, True),))
    answer = next(x for x in w.all if isinstance(x, a.Answer))
    assert answer.registered.keep == ("t1",)
    assert answer.registered.boot == 1
    assert w.states() == {"t1": "placed", "t2": "placed", "t3": "placed"}
    w.done("t1")
    assert w.state.nodes["n1"].count == 2


def test_what_an_earlier_term_stored_late_goes_where_its_task_is_known_and_is_taken_in_where_it_is_not() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.submit("t2")
    w.done("t2")
    w.removed.clear()
    assert "remove work 90" in w.feed(found(w, "t1", "_waiting", 7, 90)), "its place is elsewhere"
    assert "remove work 91" in w.feed(found(w, "t2", "_waiting", 7, 91)), "it is over"
    w.feed(found(w, "t3", "_waiting", 7, 92, reason="no GPU"))
    assert w.states() == {"t1": "placed", "t3": "placed"}
    w.feed(found(w, "t3", "_waiting", 7, 92))
    assert w.states() == {"t1": "placed", "t3": "placed"}


def test_nothing_is_placed_before_the_takeover_is_complete() -> None:
    w = World(term=0)
    w.join("n1")
    assert [x for x in w.submit("t1") if x.startswith("place")] == []
    assert "place t1.1 at n1" in w.feed(e.TakenOver("c1", 1))


def test_every_state_of_the_table_is_left_and_reached() -> None:
    reached = {to for targets in TRANSITIONS.values() for to in targets}
    assert set(TRANSITIONS) == set(Life) == reached
    assert all(TRANSITIONS.values())


def test_a_result_of_ours_that_nobody_confirms_is_recorded_again() -> None:
    w = World()
    w.submit("t1")
    w.hold = True
    w.feed(e.CancelAsked("t1"))
    w.hold, w.held_back = False, []
    assert "conclude t1 cancelled: cancelled" in w.wait(11)
    assert w.state.tasks == {}


def test_a_question_that_nobody_answers_is_put_again() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1", maybe_done=True)
    w.hold, w.held_back = False, []
    assert "ask t1" in w.wait(11, beating=None)
    assert w.states() == {"t1": "placed"}


def test_the_start_of_a_long_attempt_is_its_nodes_to_say() -> None:
    """It has been said long before the end; by then the broker would not know it as the same event again."""
    w = World()
    w.join("n1")
    w.submit("t1")
    assert w.done("t1", ms=60.0) == ["emit task.succeeded t1.1.succeeded", "forget t1"]


def test_what_ended_before_its_deadline_keeps_no_alarm() -> None:
    w = World()
    w.join("n1")
    for i in range(1000):
        w.submit(f"t{i}", deadline_s=86_400.0)
        w.done(f"t{i}")
    w.submit("last", deadline_s=30.0)
    w.wait(1, beating=None)
    assert len(w.state.timers) <= tune.COMPACT_MIN
    w.wait(30, beating=None)
    assert w.results["last"].state is ResultState.EXPIRED, "its alarm was not sorted out"


def test_what_ended_behind_a_waiting_task_leaves_the_queue() -> None:
    w = World()
    w.submit("stuck", gpu=True)
    for i in range(1000):
        w.submit(f"t{i}", gpu=True)
        w.feed(e.CancelAsked(f"t{i}"))
    cls = w.state.tasks["stuck"].cls
    assert cls is not None
    assert len(cls.queues[3]) <= tune.COMPACT_MIN + 3
    w.join("n1", has_gpu=True)
    assert w.states() == {"stuck": "placed"}


def test_a_duration_that_cannot_be_does_not_spoil_the_estimate() -> None:
    w = World()
    w.join("n1")
    for task, ms in (("t1", 1e308), ("t2", -1e308)):
        w.submit(task, timeout_s=10.0)
        w.done(task, ms=ms)
    assert w.state.estimates.mean_ms("echo") == 5000.0, "the mean of its timeout and nothing"


def test_what_a_node_tells_is_cut_before_it_is_passed_on() -> None:
    """An event past the broker's limit would end the connection, each time that it is said."""
    w = World()
    w.join("n1")
    w.submit("t1")
    errors = tuple(AttemptError("n" * 100_000, i, 0.0, "x" * 100_000, "k" * 100_000) for i in range(100))
    w.feed(
        e.ResultSeen(ResultHead("t1", "ann", ResultState.SUCCEEDED, "n" * 100_000, 1, 1, "r" * 100_000, errors=errors))
    )
    said = max(len(encode(x.data)) for x in w.all if isinstance(x, a.Emit))
    assert said < 2 * limits.ERRORS_KEPT * limits.ERROR_MAX


def test_a_history_that_only_a_node_tells_is_cut_before_it_is_stored() -> None:
    w = World()
    w.join("n1")
    w.heads = {"t1": head("t1", retry=Retry(limit=0))}
    error = AttemptError("n0", 1, 0.0, "x" * 100_000)
    old = History(1, errors=(error,) * 100, failed_on=("n0",) * 10_000, avoid=("y" * 100_000,))
    w.outcome(
        "t1", OutcomeKind.FAILED, "z" * 100_000, node="n0", history=old, stdout="o" * 100_000, stderr="e" * 100_000
    )
    [end] = [x for x in w.all if isinstance(x, a.Conclude)]
    assert len(encode(end)) < limits.ERRORS_KEPT * (limits.ERROR_MAX + 100) + 2 * limits.OUTPUT_TAIL + 1000


def test_a_node_cannot_put_a_task_off_for_ever() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.outcome("t1", OutcomeKind.RETURNED, "later", retry_after_s=1e300)
    assert w.state.tasks["t1"].not_before == w.now + tune.RETRY_AFTER_MAX_S


def test_arguments_that_do_not_fit_fail_at_once_since_no_other_node_can_do_better() -> None:
    w = World()
    w.join("n1")
    w.join("n2")
    w.submit("t1")
    lines = w.outcome("t1", error="value: Expected `int`, got `str`", word="arguments")
    assert "conclude t1 failed: failed after 1 attempt: value: Expected `int`, got `str`" in lines


def test_two_hundred_tasks_of_a_dead_node_move_with_one_question() -> None:
    """RESULTS is asked while the node is probed; then all of them are placed in the turn in which nobody answered."""
    w = World()
    w.join("n1", cores=200, memory_mb=10**6)
    for i in range(200):
        w.submit(f"t{i}")
    w.join("n2", cores=200, memory_mb=10**6)
    w.now += 1
    asked = w.feed(e.Disconnected("n1", "Client Closed"))
    assert [line.split()[0] for line in asked] == ["probe", "ask"]
    moved = w.feed(e.ProbeEnded("n1", None, no_responders=True))
    assert not [line for line in moved if line.startswith("ask")]
    assert len([line for line in moved if line.startswith("place")]) == 200
    assert {task.bound for task in w.state.tasks.values()} == {"n2"}


def test_what_was_asked_before_the_connection_closed_or_long_ago_does_not_count() -> None:
    for wait_s in (0.0, 5.0):
        w = World()
        w.join("n1")
        w.submit("t1")
        w.join("n2")
        w.feed(e.ResultsAsked({"t1": None}, w.now))
        w.now += 0.1
        w.hold = True
        w.feed(e.Disconnected("n1", "Client Closed"))
        w.held_back.clear()
        if wait_s:
            w.feed(e.ResultsAsked({"t1": None}, w.now))
        w.wait(wait_s)
        lines = w.feed(e.ProbeEnded("n1", None, no_responders=True))
        assert "ask t1" in lines and not [line for line in lines if line.startswith("place")]


def test_a_result_that_the_node_stored_before_it_died_counts() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.join("n2")
    w.results["t1"] = ResultHead("t1", "ann", ResultState.SUCCEEDED, "n1", 1, 1)
    w.kill("n1")
    assert w.states() == {}
    assert not [line for line in w.log if line.startswith("place t1.2")]


def test_an_old_word_about_a_forgotten_end_is_not_taken_for_that_of_a_later_one() -> None:
    """A cancelled task comes again after its id was forgotten, is cancelled again, and the first answer comes once more."""
    w = World()
    w.hold = True
    arrived = w.arrive("t1", "unknown")
    w.feed(arrived)
    w.feed(e.CancelAsked("t1", "ann"))
    first = w.state.tasks["t1"].own
    assert first is not None
    w.release()
    w.state.done.clear()
    w.hold = True
    w.feed(replace(arrived, maybe_done=True))
    w.feed(e.CancelAsked("t1", "ann"))
    said = w.feed(e.Concluded("t1", refused=False, placement=first.placement))
    assert said == ["ask t1"]
    assert w.release()[-2:] == ["emit task.cancelled t1.1.cancelled", "forget t1"]
