"""When a node tends to be there: learned over days, named in its own time."""

from __future__ import annotations

import pytest

from coordinator.core.clusters.patterns import ENOUGH_HOURS, HOUR_S, Patterns

DAY_H = 24


def learned(online: range, days: int = 5) -> Patterns:
    """What is known of n1 after days in which it was there in these hours (UTC) of each."""
    patterns = Patterns(0.0)
    for hour in range(days * DAY_H):
        patterns.seen("n1", hour % DAY_H in online, hour * HOUR_S)
        patterns.tick((hour + 1) * HOUR_S)
    return patterns


@pytest.mark.parametrize(
    ("online", "offset_min", "word"),
    [
        (range(24), None, "always"),
        (range(1), 0, "seldom"),
        (range(18, 24), None, "18-24 UTC"),
        (range(18, 24), 0, "18-24 local time"),
        (range(18, 24), 540, "00-06 local time"),  # Tokyo: 03 to 09 in the morning, most of it before six
        (range(18, 24), -300, "12-18 local time"),  # New York: 13 to 19
        (range(18, 24), 330, "00-06 local time"),  # Delhi: half an hour is not told apart
    ],
)  # fmt: skip
def test_the_part_of_the_day_is_named_in_the_devices_own_time(online: range, offset_min: int | None, word: str) -> None:
    assert learned(online).word("n1", offset_min) == word


def test_a_device_that_travels_is_named_by_its_new_zone_at_once() -> None:
    patterns = learned(range(18, 24))
    assert [patterns.word("n1", zone) for zone in (0, 360, None)] == [
        "18-24 local time", "00-06 local time", "18-24 UTC",
    ]  # fmt: skip


def test_nothing_is_said_before_enough_was_seen_nor_after_it_was_forgotten() -> None:
    assert learned(range(18, 24), days=ENOUGH_HOURS // DAY_H - 1).word("n1", 60) == ""
    patterns = learned(range(18, 24))
    patterns.forget("n1")
    assert patterns.word("n1", 60) == ""


def test_what_was_learned_outlives_the_coordinator_whatever_the_zone() -> None:
    heir = Patterns(0.0)
    for shares in learned(range(18, 24)).shards().values():
        heir.read(shares)
    assert heir.word("n1", 540) == "00-06 local time"
