"""Windows of local time: over midnight, and over the nights in which a zone changes its clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.window import Window, moment, window_of
from schemas.errors import BadInput

BERLIN, NEW_YORK, LORD_HOWE = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")
TAIL_S = 1800.0


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="minutes").removesuffix("+00:00")


NIGHT = window_of("22:00-07:00", BERLIN)


@pytest.mark.parametrize(
    ("at", "closes"),
    [
        ("2026-07-10T19:59:59", None),  # 21:59:59 there
        ("2026-07-10T20:00", "2026-07-11T05:00"),
        ("2026-07-10T22:00", "2026-07-11T05:00"),  # midnight there
        ("2026-07-11T04:59:59", "2026-07-11T05:00"),
        ("2026-07-11T05:00", None),  # the end is not in it
    ],
)
def test_a_window_over_midnight(at: str, closes: str | None) -> None:
    found = NIGHT.closes_at(utc(at))
    assert (None if found is None else shown(found)) == closes


def test_the_night_in_which_the_clock_goes_forward_has_an_hour_less() -> None:
    first, last = NIGHT.span(utc("2026-03-28T23:00"))
    assert (shown(first), shown(last)) == ("2026-03-28T21:00", "2026-03-29T05:00")
    assert last - first == 8 * 3600


def test_the_night_in_which_the_clock_goes_back_has_an_hour_more() -> None:
    first, last = NIGHT.span(utc("2026-10-24T22:00"))
    assert (shown(first), shown(last)) == ("2026-10-24T20:00", "2026-10-25T06:00")
    assert last - first == 10 * 3600


@pytest.mark.parametrize(
    ("zone", "local", "when"),
    [
        (BERLIN, "2026-03-29T02:30", "2026-03-29T01:00"),  # skipped: the clock goes from 02:00 to 03:00
        (BERLIN, "2026-03-29T02:00", "2026-03-29T01:00"),
        (BERLIN, "2026-03-29T03:00", "2026-03-29T01:00"),
        (BERLIN, "2026-10-25T02:30", "2026-10-25T00:30"),  # shown twice: the first counts
        (NEW_YORK, "2026-03-08T02:15", "2026-03-08T07:00"),
        (NEW_YORK, "2026-11-01T01:45", "2026-11-01T05:45"),
        (LORD_HOWE, "2026-10-04T02:10", "2026-10-03T15:30"),  # half an hour is skipped there
        (LORD_HOWE, "2026-04-05T01:40", "2026-04-04T14:40"),
    ],
)
def test_times_that_the_clock_skips_or_shows_twice(zone: ZoneInfo, local: str, when: str) -> None:
    assert shown(moment(datetime.fromisoformat(local), zone)) == when


def test_a_window_that_the_clock_skips_wholly_is_not_there_that_night() -> None:
    skipped = window_of("02:10-02:50", BERLIN)
    assert skipped.closes_at(utc("2026-03-29T01:00")) is None
    assert shown(skipped.opens_at(utc("2026-03-29T00:30"))) == "2026-03-30T00:10"


def test_an_end_that_is_shown_twice_is_the_first_of_the_two() -> None:
    assert window_of("22:00-02:30", BERLIN).closes_at(utc("2026-10-25T00:29")) == utc("2026-10-25T00:30")
    assert window_of("22:00-02:30", BERLIN).closes_at(utc("2026-10-25T01:15")) is None  # 02:15 for the second time


@pytest.mark.parametrize(
    ("at", "opens"),
    [
        ("2026-07-10T12:00", "2026-07-10T20:00"),
        ("2026-07-10T20:00", "2026-07-10T20:00"),
        ("2026-07-11T04:29:59", "2026-07-11T04:29:59"),
        ("2026-07-11T04:30", "2026-07-11T20:00"),  # nothing is begun in the last half hour
    ],
)
def test_when_work_could_begin_next(at: str, opens: str) -> None:
    assert NIGHT.opens_at(utc(at), TAIL_S) == utc(opens)


def test_one_that_is_always_open() -> None:
    window = window_of("always", BERLIN)
    assert window.always and window.text == "always"
    assert window.closes_at(0.0) == float("inf") and window.opens_at(5.0, TAIL_S) == 5.0


@pytest.mark.parametrize(
    "text", ["", "22-07", "24:00-07:00", "22:00-07:60", "7:00-7:00", "22:00 to 07:00", "x:00-1:00"]
)
def test_what_is_no_window_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        window_of(text, BERLIN)
    assert refused.value.field == "window"


ZONES = st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, ZoneInfo("America/St_Johns"), ZoneInfo("Asia/Kolkata")])
MINUTES = st.integers(0, 1439)


@given(
    zone=ZONES, start=MINUTES, end=MINUTES, at=st.integers(int(utc("2026-01-01T00:00")), int(utc("2027-12-31T00:00")))
)
def test_inside_is_what_the_clock_on_the_wall_says_except_in_an_hour_that_comes_twice(
    zone: ZoneInfo, start: int, end: int, at: int
) -> None:
    window = Window(start, end, zone)
    wall = datetime.fromtimestamp(at, zone)
    minute = wall.hour * 60 + wall.minute
    by_the_wall = start <= minute < end if start < end else minute >= start or minute < end
    # An hour that comes twice, and a window wholly skipped that becomes a day long, are the documented exceptions.
    quiet = {(wall + timedelta(hours=hours)).utcoffset() for hours in (-30, 30)} == {wall.utcoffset()}
    if quiet and start != end:
        assert (window.closes_at(at) is not None) is by_the_wall
        opens = window.opens_at(at)
        assert (opens == at) is by_the_wall
        assert window.closes_at(opens) is not None
