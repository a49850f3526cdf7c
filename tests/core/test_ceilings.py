"""Ceilings that meet, and the bucket that paces transfers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.bucket import BURST_S, Bucket
from node.core.ceilings import Ceilings, advised, lowest
from schemas.advice import Limits


def test_the_lowest_of_each_counts() -> None:
    one, other = Ceilings(50, None, 10.0), Ceilings(80, 512)
    assert lowest([one, other, Ceilings()]) == Ceilings(50, 512, 10.0)
    assert lowest([]) == Ceilings()


def test_advice_of_nothing_is_almost_nothing() -> None:
    assert advised(Limits(0, 0, 1)) == Ceilings(1, 1)


@given(
    st.floats(1.0, 1e9), st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 10)), min_size=1, max_size=50)
)  # fmt: skip
def test_who_waits_as_told_keeps_the_rate(rate: float, takings: list[tuple[float, float]]) -> None:
    """However large the pieces are and however long nothing was taken in between."""
    bucket, now, moved = Bucket(rate), 0.0, 0.0
    for size, pause in takings:
        now += bucket.take(size, now)
        moved += size
        assert moved <= rate * (now + BURST_S) * (1 + 1e-6) + 1e-6
        now += pause


def test_a_piece_larger_than_the_bucket_passes_and_the_next_one_waits_for_it() -> None:
    bucket = Bucket(100.0)
    assert bucket.take(1000.0, 0.0) == pytest.approx(10.0)
    assert bucket.take(100.0, 10.0) == pytest.approx(1.0)
