"""Useful time: what ran and was not suspended, to the millisecond, in claims that can be sent in any order."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.useful import SLICE_S, Busy, Session
from node.terms import HarvestSettings, terms_of
from schemas.errors import BadInput
from schemas.ledger import Claim, check_claim
from schemas.spans import Spans

AT = 1_800_000_000.0


def claimed_ms(claims: list[Claim]) -> int:
    return Spans(span for claim in claims for span in claim.spans).total_ms


def test_busy_counts_edges_once() -> None:
    busy = Busy()
    for told, now in ((busy.begin, 1.0), (busy.begin, 2.0), (busy.end, 4.0), (busy.end, 5.0), (busy.begin, 7.0)):
        told(now)
    assert busy.read(8.5) == 4.5


def test_a_long_task_is_one_span_cut_every_two_minutes() -> None:
    session = Session("h-1", "n1", 0.0, AT, 0.0)
    claims = [claim for second in range(1, 301) for claim in session.look(second, AT + second, second, suspended=False)]
    claims.append(session.end())
    assert [len(claim.spans) for claim in claims] == [1, 1, 1]
    assert [claim.id for claim in claims] == ["h-1.1", "h-1.2", "h-1.3"]
    assert claimed_ms(claims) == 300_000 and session.useful_s == 300
    assert [claim.ended for claim in claims] == [False, False, True]
    assert all(span[1] - span[0] <= 1000 * (SLICE_S + 1) for claim in claims for span in claim.spans)


def test_suspended_and_slept_time_is_not_useful() -> None:
    session = Session("h-1", "n1", 0.0, AT, 0.0)
    claims = session.look(5.0, AT + 5, 5.0, suspended=False)
    claims += session.look(9.0, AT + 9, 9.0, suspended=True)
    claims += session.look(3609.0, AT + 3609, 3609.0, suspended=False)  # nobody looked for an hour
    claims += session.look(3610.0, AT + 3610, 3610.0, suspended=False)
    assert claimed_ms([*claims, session.end()]) == 6000


def test_a_clock_that_is_set_back_begins_another_claim() -> None:
    session = Session("h-1", "n1", 0.0, AT, 0.0)
    claims = [*session.look(5.0, AT + 5, 5.0, suspended=False), *session.look(6.0, AT - 3600, 6.0, suspended=False)]
    claims += session.look(7.0, AT - 3599, 7.0, suspended=False)
    claims.append(session.end())
    for claim in claims:
        check_claim(claim, "n1")
    assert claimed_ms(claims) == 7000


STEP = st.tuples(st.floats(0.01, 12.0), st.floats(0.0, 1.0), st.booleans(), st.floats(-2.0, 2.0))


@given(st.lists(STEP, max_size=80))
def test_never_more_is_claimed_than_ran_and_every_claim_is_sound(steps: list[tuple[float, float, bool, float]]) -> None:
    session = Session("h-1", "n1", 0.0, AT, 0.0)
    ticks = busy_s = ran_s = 0.0
    at, claims = AT, []
    for passed_s, share, suspended, jump_s in steps:
        before, ticks, busy_s = ticks, ticks + passed_s, busy_s + share * passed_s
        at += passed_s + jump_s
        ran_s += 0.0 if suspended or ticks - before > 10 else share * passed_s
        claims += session.look(ticks, at, busy_s, suspended=suspended)
    claims.append(session.end())
    assert len({claim.id for claim in claims}) == len(claims)
    for claim in claims:
        check_claim(claim, "n1")
    each_ms = sum(end - start for claim in claims for start, end in claim.spans)
    assert each_ms <= 1000 * ran_s + 1 and each_ms >= 1000 * ran_s - 2


# The terms.


def test_the_window_is_by_the_devices_own_zone_unless_another_is_named(tmp_path: Path) -> None:
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    own = terms_of(HarvestSettings(), {}, tmp_path).window
    assert (own.text, own.zone) == ("22:00-07:00", ZoneInfo("Europe/Berlin"))
    assert terms_of(HarvestSettings(), {"TZ": "America/New_York"}, tmp_path).window.zone == ZoneInfo("America/New_York")
    assert terms_of(HarvestSettings(zone="Asia/Kolkata"), {}, tmp_path).window.zone == ZoneInfo("Asia/Kolkata")


def test_a_copy_of_a_zones_rules_serves_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "localtime").write_bytes(Path("/usr/share/zoneinfo/Europe/Berlin").read_bytes())
    window = terms_of(HarvestSettings(), {}, tmp_path).window
    assert window.opens_at(1_752_148_800.0) == 1_752_177_600.0  # 10 July 2025, 22:00 there


@pytest.mark.parametrize(
    ("said", "field"),
    [
        (HarvestSettings(zone="Mars/Olympus"), "zone"),
        (HarvestSettings(window="night"), "window"),
        (HarvestSettings(battery_stop_percent=30), "battery_stop_percent"),
        (HarvestSettings(resume_idle_s=400), "resume_idle_s"),
    ],
)
def test_terms_that_make_no_sense_are_refused_by_name(said: HarvestSettings, field: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        terms_of(said, {}, tmp_path)
    assert refused.value.field == field
