"""How a map is cut into chunks, and how the chunks are named."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.chunks import GROWTH, TARGET_S, Planner
from client.jobs import check_job, disjoint, new_job, new_secret
from schemas import limits
from schemas.chunks import JobRecord, Span, chunk_id, read_chunk_id
from schemas.errors import BadInput
from schemas.names import check_id


def run_job(total: int, item_s: float, slots: int, *, told: bool) -> list[int]:
    """The sizes of all chunks of a job whose items all take `item_s`."""
    planner, sizes, left = Planner(), [], total
    while left:
        size = min(planner.size(slots, left if told else None), left)
        sizes.append(size)
        left -= size
        planner.learn(size, size * item_s)
    return sizes


@given(total=st.integers(1, 300_000), item_s=st.floats(1e-7, 30), slots=st.integers(0, 2000), told=st.booleans())
def test_every_item_is_in_exactly_one_chunk_and_no_chunk_is_too_large(
    total: int, item_s: float, slots: int, told: bool
) -> None:
    sizes = run_job(min(total, int(300 / item_s) + 1), item_s, slots, told=told)
    assert sum(sizes) == min(total, int(300 / item_s) + 1)
    assert all(1 <= size <= limits.CHUNK_ITEMS_MAX for size in sizes)
    assert all(size * item_s <= TARGET_S * 1.01 or size == 1 for size in sizes)


@given(st.lists(st.tuples(st.integers(0, 200_000), st.floats(0, 1e6)), max_size=50), st.integers(0, 10_000))
def test_whatever_comes_back_the_next_size_is_within_bounds(seen: list[tuple[int, float]], slots: int) -> None:
    planner = Planner()
    largest = 0
    for items, duration_s in seen:
        planner.learn(items, duration_s)
        largest = max(largest, items)
        for left in (None, 1, 7, 10**9):
            size = planner.size(slots, left)
            assert 1 <= size <= limits.CHUNK_ITEMS_MAX
            assert size <= max(1, largest * GROWTH)
            assert left is None or size <= left


def test_the_first_chunks_are_single_items_then_they_grow_by_at_most_eight_times() -> None:
    sizes = run_job(1_000_000, 1e-6, 4, told=False)
    assert sizes[:5] == [1, 8, 64, 512, 4096]


def test_chunks_come_to_about_a_second() -> None:
    sizes = run_job(100_000, 0.01, 4, told=False)
    assert sizes[5] == 100


def test_towards_the_end_chunks_shrink_so_that_all_slots_finish_together() -> None:
    sizes = run_job(10_000, 0.001, 4, told=True)
    assert max(sizes[-8:]) * 0.001 <= 0.1
    assert len(sizes) < 60


def test_but_not_below_what_is_worth_a_round_trip() -> None:
    assert len(run_job(100_000, 1e-6, 4, told=True)) < 25


def test_one_odd_item_misleads_the_planner_only_briefly() -> None:
    planner = Planner()
    planner.learn(1000, 1.0)
    planner.learn(1, 5.0)
    assert planner.size(4, None) > 100
    planner.learn(1000, 1.0)
    assert planner.size(4, None) > 200


@given(st.integers(0, 10**12), st.integers(1, limits.CHUNK_ITEMS_MAX))
def test_a_chunk_id_is_a_task_id_and_says_what_it_holds(first: int, count: int) -> None:
    secret, job = new_secret(), new_job()
    span = Span(first, count)
    task = chunk_id(secret, job, span)
    assert check_id("task", task) == task
    assert read_chunk_id(secret, job, task) == span


@pytest.mark.parametrize(
    "task",
    [
        "",
        "j-1-2",
        "j-1-2-0000000000000000",
        "other-1-2-ab",
        "j-x-2-ab",
        "j-1-0-ab",
        "j--1-2-ab",
        "j-1-2-3-ab",
        "j-²-2-ab",
    ],
)
def test_a_name_without_the_right_mark_is_not_ours(task: str) -> None:
    assert read_chunk_id("secret", "j", task) is None


def test_a_mark_of_another_chunk_or_job_or_secret_is_not_taken() -> None:
    task = chunk_id("secret", "j", Span(0, 5))
    mark = task.rpartition("-")[2]
    assert read_chunk_id("secret", "j", f"j-0-6-{mark}") is None
    assert read_chunk_id("other", "j", task) is None


def test_the_mark_is_what_the_coordinator_computes_too() -> None:
    """HMAC-SHA256 keyed by the secret over <job>-<first>-<count>, its first 16 hex digits."""
    assert chunk_id("00ff", "job-1", Span(7, 3)) == "job-1-7-3-9df4671b999ba508"


spans = st.builds(Span, st.integers(0, 60), st.integers(1, 20))


@given(st.lists(spans, max_size=15))
def test_resuming_takes_chunks_that_never_overlap(found: list[Span]) -> None:
    taken = [span for span, _ in disjoint({f"t{n}": span for n, span in enumerate(found)})]
    assert all(one.end <= other.first for one, other in pairwise(taken))
    assert not found or taken[0].first == min(span.first for span in found)


def test_a_chunk_that_was_split_is_taken_once_by_its_largest_name() -> None:
    spans = {"whole": Span(0, 8), "half": Span(0, 4), "other-half": Span(4, 4), "next": Span(8, 2)}
    assert [task for _, task in disjoint(spans)] == ["whole", "next"]


def test_job_ids_leave_room_for_their_chunks() -> None:
    assert len(check_job(new_job())) <= 24
    for bad in ("", "Job", "a.b", "x" * 25):
        with pytest.raises(BadInput):
            check_job(bad)


def test_the_record_of_a_job_keeps_its_secret_off_the_chunks() -> None:
    record = JobRecord(new_secret(), "f", 0.0, "ann")
    assert record.secret not in chunk_id(record.secret, "j", Span(0, 1))
    assert len(record.secret) == 32
