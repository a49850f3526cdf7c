"""What process trees used, although processes come and go: nothing is counted twice, and nothing that was waited for lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.core.usage import Look, Sample, all_used_s, used_s


def look(**processes: tuple[float, float]) -> Look:
    return {(ord(name), "1"): Sample(*times) for name, times in processes.items()}


def test_time_of_processes_that_stay() -> None:
    assert used_s(look(a=(1.0, 0.0), b=(2.0, 0.0)), look(a=(1.5, 0.0), b=(2.25, 0.0))) == 0.75


def test_a_new_process_counts_from_its_birth() -> None:
    assert used_s(look(a=(1.0, 0.0)), look(a=(1.0, 0.0), b=(0.5, 0.25))) == 0.75


def test_a_child_that_was_waited_for_is_counted_once() -> None:
    """It had used 3 s when it was last seen and 3.5 s when it ended: half a second is new."""
    assert used_s(look(a=(1.0, 0.0), b=(3.0, 0.0)), look(a=(1.0, 3.5))) == 0.5


def test_a_child_that_came_and_went_between_two_looks_counts() -> None:
    assert used_s(look(a=(1.0, 2.0)), look(a=(1.0, 2.5))) == 0.5


def test_a_child_that_nobody_waited_for_takes_nothing_from_the_others() -> None:
    assert used_s(look(a=(1.0, 0.0), b=(3.0, 0.0)), look(a=(1.25, 0.0))) == 0.25


def test_a_tree_that_was_not_looked_at_before_counts_from_now() -> None:
    assert all_used_s({1: look(a=(1.0, 0.0))}, {1: look(a=(2.0, 0.0)), 2: look(b=(50.0, 0.0))}) == 1.0


def test_a_runner_that_ended_takes_its_time_with_it() -> None:
    assert all_used_s({1: look(a=(9.0, 0.0))}, {}) == 0.0


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1), st.booleans()), max_size=60))
def test_over_any_history_of_children_the_sum_is_what_was_used(history: list[tuple[int, float, bool]]) -> None:
    """A root and its children, which work, end and are waited for, and come again under the same pid."""
    root, births, alive = [0.0, 0.0], 0, {}
    before: Look = {(0, "0"): Sample(0.0, 0.0)}
    really = counted = 0.0
    for child, work_s, ends in history:
        births += child not in alive
        mark, own_s = alive.get(child, (str(births), 0.0))
        really += work_s
        alive[child] = mark, own_s + work_s
        if ends:
            root[1] += own_s + work_s
            del alive[child]
        after: Look = {(0, "0"): Sample(*root)} | {(pid + 1, m): Sample(s, 0.0) for pid, (m, s) in alive.items()}
        counted += used_s(before, after)
        before = after
    assert abs(counted - really) < 1e-6
