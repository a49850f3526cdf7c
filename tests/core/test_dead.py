"""Dead letters: who leaves one, what the result then says, and which letters are to go."""

from __future__ import annotations

import pytest
from msgspec import Raw
from msgspec.structs import replace

from coordinator.core import actions as a
from coordinator.core import events as e
from coordinator.core import tune
from schemas.task import CommandHead, Outcome, OutcomeKind, ResultHead, ResultState, Retry
from tests.core.world import World, after


class Commands(World):
    """Where commands run."""

    def command_failed(self, task: str) -> None:
        """It came to the exit code 1, as a node tells it."""
        held = self.state.tasks[task]
        self.seq += 1
        history = after(held.history, OutcomeKind.FAILED, held.bound, "exit code 1")
        history = replace(history, errors=(*history.errors[:-1], replace(history.errors[-1], exit_code=1)))
        outcome = Outcome(Raw(b"{}"), history, OutcomeKind.FAILED, held.bound, 1, "exit code 1", exit_code=1)
        self.feed(e.OutcomeArrived(held.head, outcome, e.Source("outcomes", self.seq), self.now))


def given_up(w: World, task: str = "t1", **more: object) -> list[str]:
    """A task whose one attempt fails; what the core wants then."""
    w.submit(task, retry=Retry(limit=0))
    return w.outcome(task, **more)


def conclusion(w: World) -> a.Conclude:
    return next(x for x in w.all if isinstance(x, a.Conclude))


def test_what_is_given_up_leaves_a_letter_and_is_removed_only_after_its_result() -> None:
    w = World()
    w.join("n1")
    lines = given_up(w, error="boom")
    assert lines[-5:] == [
        "conclude t1 failed: failed after 1 attempt: boom",
        "remove outcomes 3",
        "emit task.dead-lettered t1.1.dead-lettered",
        "emit task.failed t1.1.failed",
        "forget t1",
    ]
    done = conclusion(w)
    assert done.letter == e.Source("outcomes", 3, "o3"), "the outcome holds the whole task"
    assert done.at == w.now


def test_the_result_of_a_failed_task_tells_when_its_last_attempt_ran_and_for_how_long() -> None:
    w = World()
    w.join("n1")
    given_up(w, duration_ms=500.0)
    done = conclusion(w)
    assert (done.duration_ms, done.started_at) == (500.0, w.now - 0.5)
    ended = next(x.data for x in w.all if isinstance(x, a.Emit) and x.kind == "task.failed")
    assert ended.duration_ms == 500.0  # type: ignore[union-attr]


@pytest.mark.parametrize("told, kept", [(-1.0, 0.0), (1e12, 5_000.0)])
def test_a_duration_that_cannot_be_is_not_passed_on(told: float, kept: float) -> None:
    w = World()
    w.join("n1")
    w.submit("t1", retry=Retry(limit=0), timeout_s=5.0)
    w.outcome("t1", duration_ms=told)
    assert conclusion(w).duration_ms == kept


def test_an_attempt_that_went_with_its_node_has_no_duration() -> None:
    w = World()
    w.join("n1")
    w.submit("t1", retry=Retry(limit=1, backoff_s=0.1))
    w.outcome("t1", duration_ms=500.0)
    w.wait(3, beating=None)
    for i in range(2 * tune.LOST_FREE):
        if "t1" in w.state.tasks:
            w.join("n1", session=f"s{i + 2}")
    done = conclusion(w)
    assert (done.errors[-1].kind, done.duration_ms, done.started_at) == ("lost", 0.0, 0.0)
    assert done.letter is not None, "it was given up all the same"


@pytest.mark.parametrize("limit, kept", [(0, False), (1, True)])
def test_a_command_that_was_not_to_be_tried_again_has_answered(limit: int, kept: bool) -> None:
    w = Commands()
    w.join("n1", kinds=("command",))
    arrived = w.arrive("t1", retry=Retry(limit=limit, backoff_s=0.1))
    w.heads["t1"] = head = replace(arrived.head, run=CommandHead(("false",)))
    w.feed(replace(arrived, head=head))
    for _ in range(limit + 1):
        w.command_failed("t1")
        w.wait(5, beating=None)
    assert (conclusion(w).letter is not None) is kept
    assert bool([line for line in w.log if "dead-lettered" in line]) is kept


def test_what_was_cancelled_expired_or_refused_by_the_broker_leaves_no_letter() -> None:
    w = World()
    w.submit("t1")
    w.feed(e.CancelAsked("t1"))
    w.submit("t2", deadline_s=2.0)
    w.wait(3)
    w.join("n1")
    w.hold = True
    w.submit("t3")
    w.hold, w.held_back = False, []
    w.feed(e.PlaceFailed("t3", 1, "too large", final=True))
    ends = {x.task: (x.state, x.letter) for x in w.all if isinstance(x, a.Conclude)}
    assert ends == {
        "t1": (ResultState.CANCELLED, None),
        "t2": (ResultState.EXPIRED, None),
        "t3": (ResultState.FAILED, None),
    }


def test_a_task_that_a_node_refuses_is_not_given_up() -> None:
    w = World()
    w.join("n1")
    w.submit("t1", retry=Retry(limit=0))
    w.outcome("t1", OutcomeKind.REFUSED, "not allowed here", started=False)
    assert w.states() == {"t1": "waiting"}
    assert not [x for x in w.all if isinstance(x, a.Conclude)]


def test_a_letter_whose_result_was_not_the_first_is_withdrawn() -> None:
    w = World()
    w.join("n1")
    w.submit("t1", retry=Retry(limit=0))
    w.results["t1"] = ResultHead("t1", "ann", ResultState.SUCCEEDED, "n1", 1, 1)
    lines = w.outcome("t1")
    assert "drop the letter of t1" in lines
    assert lines[-2:] == ["emit task.succeeded t1.1.succeeded", "forget t1"]
    assert not [line for line in w.log if "dead-lettered" in line]
    assert not w.state.letters


def test_our_own_result_that_is_said_to_be_known_keeps_its_letter() -> None:
    """The answer to its first saying was lost: the broker knows it already, and that is no other end."""
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1", retry=Retry(limit=0))
    w.release()
    w.hold = True
    w.outcome("t1")
    [said] = [x for x in w.held_back if isinstance(x, a.Conclude)]
    w.hold, w.held_back = False, []
    w.answer(said)  # stored, and nobody hears of it
    lines = w.feed(e.LettersFound((("ann", "t1"),)), e.Concluded("t1", True, 1, True))
    assert "drop the letter of t1" not in lines
    assert lines[-3:] == ["emit task.dead-lettered t1.1.dead-lettered", "emit task.failed t1.1.failed", "forget t1"]
    assert not w.state.letters


def test_letters_that_a_term_left_are_judged_by_the_results() -> None:
    w = World()
    w.results["lost"] = ResultHead("lost", "ann", ResultState.FAILED, reason="its message is gone")
    w.results["dead"] = ResultHead("dead", "ann", ResultState.FAILED, dead_letter=True)
    assert w.feed(e.LettersFound((("ann", "dead"), ("ann", "lost")))) == [
        "ask about the letters of dead lost",
        "drop the letter of lost",
    ]
    assert not w.state.letters


def test_a_letter_of_a_task_that_is_still_under_way_waits_for_its_end() -> None:
    w = World()
    w.join("n1")
    w.feed(e.LettersFound((("ann", "t1"), ("ann", "t2"))))
    w.submit("t1")
    assert "drop the letter of t1" in w.done("t1")
    assert w.state.letters == {("ann", "t2")}
    assert w.wait(tune.LETTERS_AGAIN_S + 1, beating=None).count("ask about the letters of t2") == 1
    w.results["t2"] = ResultHead("t2", "ann", ResultState.CANCELLED)
    assert "drop the letter of t2" in w.wait(5 * tune.LETTERS_AGAIN_S, beating=None), "its end came by unheard"


def test_a_letter_whose_task_never_ends_is_not_asked_about_for_ever() -> None:
    w = World()
    w.feed(e.LettersFound((("ann", "t1"),)))
    w.wait(3 * tune.LETTERS_GIVE_UP_S, step_s=tune.LETTERS_GIVE_UP_S / 50)
    assert not w.state.letters
    assert len([line for line in w.log if line.startswith("ask about")]) < 10
