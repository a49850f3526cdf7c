"""Classic bugs of rollouts, planted: random worlds find each of them, so that what they do not find is likely not there."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import pytest

from coordinator.core.rollouts import advance, gates, state
from coordinator.core.rollouts.gates import Gate
from schemas.rollout_state import Stage
from tests.core.rollout_world import play
from tests.sim.patches import replaced

DEVICES, SEEDS, BAD = 24, 4, 0.25
Patch = contextlib.AbstractContextManager[None]


def slots_by_finished() -> Patch:
    """A batch counts those that have ended, not those on their way: more are told at each look."""

    def begun(rollout: state.Rollout) -> int:
        return rollout.of_batch(rollout.record.batch, Stage.HEALTHY, Stage.FAILED)

    return replaced(advance, "_begun", begun)


def gate_fails_open() -> Patch:
    """When a batch has ended, what comes next is begun, whatever the threshold says."""

    def judge(_rollout: state.Rollout) -> Gate:
        return Gate.OPEN

    return replaced(gates, "judge", judge)


def number_used_twice() -> Patch:
    """A device's next decision gets the number of the one that it has: whichever it reads first is what it holds to."""

    def order(told: state.Told) -> int:
        return max(0, told.assignment.order - 1) if told.assignment else 0

    return replaced(state.Told, "order", property(order))


def return_by_canary() -> Patch:
    """Going back is a rollout as well: a tenth first, and on when these are healthy, which the good version need not be."""
    real = advance._all_return

    def some(rollout: state.Rollout, now: float) -> None:
        real(rollout, now)
        for node in list(rollout.to_return)[math.ceil(0.1 * len(rollout.to_return)) :]:
            del rollout.to_return[node]

    return replaced(advance, "_all_return", some)


FOUND_BY = {
    slots_by_finished: "devices are in a batch of",
    gate_fails_open: "goes on to batch",
    number_used_twice: "is told",
    return_by_canary: "left its version on",
}


@pytest.mark.parametrize("plant", FOUND_BY, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_within_a_few_worlds(plant: Callable[[], Patch]) -> None:
    found = []
    with plant():
        for seed in range(SEEDS):
            try:
                play(seed, DEVICES, seed % 3, BAD)
            except AssertionError as error:
                found.append(str(error))
                break
    assert found, f"{SEEDS} worlds did not find it"
    assert FOUND_BY[plant] in found[0]


def test_these_worlds_find_nothing_where_nothing_is_planted() -> None:
    for seed in range(SEEDS):
        play(seed, DEVICES, seed % 3, BAD)
