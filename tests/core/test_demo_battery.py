"""The phone's evening: what plays it is of the real form, and what is drawn is what happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.demo import battery, chart, evening
from client.demo.chart import Sample
from node.device import Device
from schemas.device import SensorKind, ThermalState
from schemas.harvest import HarvestState


def sample(minute: float, state: str, at_s: float = 0.0, finished: int = 0) -> Sample:
    return Sample(evening.at(minute), at_s, state, False, 0.0, finished)


@pytest.mark.parametrize("moment", evening.STORY, ids=lambda moment: moment.told or "the end")
def test_a_real_device_reads_the_story_as_it_is_told(moment: evening.Moment, tmp_path: Path) -> None:
    evening.write(tmp_path, moment)
    state = Device(root=tmp_path, env={}, platform="linux").state(0.0)
    assert (state.battery_percent, state.is_charging, state.screen_on) == (
        moment.battery,
        moment.charging,
        moment.screen,
    )
    assert (state.temperature_c, state.temperature_sensor) == (moment.celsius, SensorKind.BATTERY)
    assert (state.thermal_state is ThermalState.THROTTLED) == (moment.celsius > 55)


def test_the_evening_goes_straight_between_its_moments() -> None:
    assert evening.at(0).battery == 46 and evening.at(evening.MINUTES).battery == 97
    between = evening.at(62.5)
    assert (between.battery, between.celsius, between.screen) == (27.5, 37.5, True)
    assert (evening.clock(0), evening.clock(300), evening.clock(361)) == ("19:00", "00:00", "01:01")


def test_every_state_has_a_letter_and_a_colour_of_its_own() -> None:
    assert set(chart.STATES) == set(HarvestState)
    assert all(len(set(column)) == len(chart.STATES) for column in zip(*chart.STATES.values(), strict=True))


def test_the_terminal_shows_each_state_where_it_was() -> None:
    states = ["user_active"] * 4 + ["charging_low"] * 2 + ["harvesting"] * 4
    samples = [sample(420 * number / 9, state, finished=number) for number, state in enumerate(states)]
    lines = {line[:10].strip(): line[11:] for line in chart.terminal(samples, 20).splitlines()}
    assert lines["state"].replace("b", "").strip("u").strip("█") == ""
    assert lines["state"].index("b") == 9 and lines["state"].index("█") == 13
    assert lines["work done"].endswith("█") and lines["work done"].startswith(" ")
    assert "█ harvesting" in chart.terminal(samples, 20)


def test_work_while_the_owner_needs_the_phone_is_noticed_after_a_second_and_a_half() -> None:
    film = 50.0
    quick = [sample(film, "harvesting", 0.0), sample(film, "harvesting", 1.0), sample(film, "user_active", 1.2)]
    slow = [sample(film, "harvesting", at_s) for at_s in (0.0, 1.0, 2.0)]
    asleep = [sample(120.0, "harvesting", at_s) for at_s in (0.0, 1.0, 2.0)]
    assert battery.overstayed(quick) == battery.overstayed(asleep) == []
    assert battery.overstayed(slow) == ["it worked at 19:50, when its owner needed it"]
