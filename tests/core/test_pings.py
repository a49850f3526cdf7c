"""When a connection is pinged: along with what goes out anyway, and by itself only where nothing does."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.pings import INTERVAL_S, WAIT_MAX_S, Pings


def played(gaps: list[float], start: float = 1000.0) -> tuple[list[float], list[float]]:
    """Something goes out, and again after each of these gaps, as announced; when pings went along, and by themselves."""
    pings, along, alone, now = Pings(), [], [], start
    pings.sent(now)
    for gap in gaps:
        if pings.along(now, gap):
            along.append(now)
        then = now + gap
        while now + (left_s := pings.left_s(now)) < then:
            now += left_s
            pings.sent(now)
            alone.append(now)
        now = then
    return along, alone


@pytest.mark.parametrize(("gap_s", "most"), [(5.0, 61), (15.0, 60), (30.0, 30)])
def test_what_beats_within_a_minute_is_never_woken_by_a_ping(gap_s: float, most: int) -> None:
    """Fifteen minutes of a usual node, one in power_save, one in critical."""
    along, alone = played([gap_s] * int(900 / gap_s))
    assert not alone
    assert 900 / 30 <= len(along) <= most


def test_a_beat_that_comes_late_by_its_jitter_has_no_ping_before_it() -> None:
    pings = Pings()
    pings.sent(0.0)
    assert pings.along(10.0, 25.0)
    assert pings.left_s(10.0) == pytest.approx(30.0)


def test_what_says_nothing_for_long_is_pinged_all_the_same() -> None:
    assert played([500.0])[1][:2] == [1000.0 + WAIT_MAX_S, 1000.0 + WAIT_MAX_S + INTERVAL_S]


@given(st.lists(st.floats(0.01, 400), max_size=60))
def test_a_dead_link_is_never_unasked_for_longer_than_the_bound(gaps: list[float]) -> None:
    along, alone = played(gaps)
    asked = sorted([1000.0, *along, *alone, 1000.0 + sum(gaps)])
    assert all(after - one <= WAIT_MAX_S + 1e-6 for one, after in pairwise(asked))
