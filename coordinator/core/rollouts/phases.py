"""What a rollout goes through: one table for all strategies. They differ in the size of their batches alone (`batches.py`).

A trigger that the table does not list for a phase changes nothing: it came late, or twice.
"""

from __future__ import annotations

from enum import Enum

from schemas.rollout_state import RolloutPhase as P


class Trigger(Enum):
    """What moves a rollout from one phase to another."""

    BATCH_DONE = "batch-done"  # every device of the batch is healthy or failed
    NOT_TRIED = "not-tried"  # nobody of the batch has tried it: there is nothing to judge yet
    OPEN = "open"  # the gate after the batch
    ALL_TOLD = "all-told"  # the gate is open, and nobody waits any more
    ALL_CAUGHT_UP = "all-caught-up"  # nobody is deferred any more, or the time to catch up is over
    FAIL = "fail"  # too many failed, or nothing goes on
    FAIL_AND_RETURN = "fail-and-return"  # the same, with `rollback_on_failure`
    ALL_BACK = "all-back"  # every touched device is back, or cannot be waited for
    NEWER = "newer"  # a newer version of the app replaces it
    # Of operators:
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    ROLL_BACK = "roll-back"  # also of a rollout that has ended
    RETRY = "retry"  # the failed ones again: `again.py`


# PAUSED is left to the phase it was entered from, GOING_BACK to the end that was decided: see `record.Rollout`.
RETURN = None

_OPEN_TO_OPERATORS = {Trigger.ABORT: P.GOING_BACK, Trigger.ROLL_BACK: P.GOING_BACK, Trigger.NEWER: P.SUPERSEDED}
_AT_WORK = {
    **_OPEN_TO_OPERATORS,
    Trigger.PAUSE: P.PAUSED,
    Trigger.FAIL: P.FAILED,
    Trigger.FAIL_AND_RETURN: P.GOING_BACK,
}

TABLE: dict[P, dict[Trigger, P | None]] = {
    P.ROLLING: {**_AT_WORK, Trigger.BATCH_DONE: P.GATED},
    P.GATED: {**_AT_WORK, Trigger.NOT_TRIED: P.ROLLING, Trigger.OPEN: P.ROLLING, Trigger.ALL_TOLD: P.CATCHING_UP},
    # Every gate was open: the version is stable, whoever is still away when a newer one comes.
    P.CATCHING_UP: {
        **_AT_WORK, Trigger.ALL_CAUGHT_UP: P.SUCCEEDED, Trigger.NEWER: P.SUCCEEDED, Trigger.RETRY: P.ROLLING,
    },
    # What already runs may still fail too often while nobody new is told.
    P.PAUSED: {
        **_OPEN_TO_OPERATORS, Trigger.RESUME: RETURN, Trigger.FAIL: P.FAILED, Trigger.FAIL_AND_RETURN: P.GOING_BACK,
    },
    # Nothing newer begins meanwhile: who was not told to return yet would keep what failed.
    P.GOING_BACK: {Trigger.ALL_BACK: RETURN},
    P.SUCCEEDED: {Trigger.ROLL_BACK: P.GOING_BACK, Trigger.RETRY: P.ROLLING},
    P.FAILED: {Trigger.ROLL_BACK: P.GOING_BACK, Trigger.RETRY: P.ROLLING},
    P.ABORTED: {},
    P.SUPERSEDED: {},
}  # fmt: skip

# How going back ends, by what began it.
ENDS_AS = {Trigger.FAIL_AND_RETURN: P.FAILED, Trigger.ABORT: P.ABORTED, Trigger.ROLL_BACK: P.ABORTED}
