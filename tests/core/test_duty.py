"""The duty cycle against simulated work: whatever that does, its share of the device comes out as the limit says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.duty import LOOK_S, OWED_S, PERIOD_MAX_S, PERIOD_S, SAVED_S, Duty, Measured, Slice

Work = Callable[[float], float]  # at a time, how many cores it would use if it ran


class Plant:
    """A device whose work is run and stopped by a controller. `late_s` is added to every slice: timers are never early."""

    def __init__(self, duty: Duty, cores: int, work: Work, late: Callable[[], float] = lambda: 0.0) -> None:
        self.now, self.used, self.stops = 0.0, 0.0, 0
        self._duty, self._cores, self._work, self._late = duty, cores, work, late
        self.slices: list[Slice] = []

    def run(self, until: float) -> None:
        following = self._duty.begin()
        while self.now < until:
            self.slices.append(following)
            stopped = following.stop_s + (self._late() if following.stop_s else 0.0)
            ran = following.run_s + self._late()
            used = min(self._cores, self._work(self.now)) * ran
            self.stops += following.stop_s > 0
            self.now += stopped + ran
            self.used += used
            following = self._duty.step(stopped + ran, ran, used)

    def share_from(self, begin: float, until: float) -> float:
        """The share of the device that is used between two times, run now."""
        self.run(begin)
        used, now = self.used, self.now
        self.run(until)
        return (self.used - used) / (self.now - now) / self._cores


@pytest.mark.parametrize("limit", [0.05, 0.15, 0.35, 0.5, 0.9])
@pytest.mark.parametrize(("cores", "busy"), [(1, 1), (2, 1), (2, 2), (2, 4), (8, 3), (64, 64)])
def test_busy_processes_get_their_limit_and_no_more(limit: float, cores: int, busy: int) -> None:
    plant = Plant(Duty(limit, cores), cores, lambda _: busy)
    wanted = min(limit, busy / cores)
    assert plant.share_from(1.0, 6.0) == pytest.approx(wanted, abs=0.01)


@given(
    st.floats(0.02, 0.98), st.integers(1, 16), st.lists(st.floats(0.0, 20.0), min_size=1, max_size=20),
    st.lists(st.floats(0.0, 0.03), min_size=1, max_size=10),
)  # fmt: skip
def test_whatever_the_work_does_it_never_gets_more_than_its_share(
    limit: float, cores: int, loads: list[float], lates: list[float]
) -> None:
    """Loads that change every 0.7 s, timers that are up to 30 ms late: over five seconds at most 5 points more."""
    turn = iter(range(10**9))
    plant = Plant(
        Duty(limit, cores),
        cores,
        lambda now: loads[int(now / 0.7) % len(loads)],
        lambda: lates[next(turn) % len(lates)],
    )
    assert plant.share_from(2.0, 7.0) <= limit + 0.05


@given(st.floats(0.02, 0.98), st.integers(1, 16), st.floats(0.0, 0.02))
def test_late_timers_are_paid_back(limit: float, cores: int, late: float) -> None:
    plant = Plant(Duty(limit, cores), cores, lambda _: cores, lambda: late)
    assert plant.share_from(2.0, 7.0) == pytest.approx(limit, abs=0.05)


@given(st.floats(0.1, 0.9), st.integers(1, 16))
def test_work_below_its_share_is_never_stopped(limit: float, cores: int) -> None:
    plant = Plant(Duty(limit, cores), cores, lambda _: 0.5 * limit * cores)
    plant.run(1.0)
    before = plant.stops
    plant.run(10.0)
    assert plant.stops == before


@settings(max_examples=10)  # each plays an hour in steps of a tenth of a second
@given(st.floats(0.05, 0.9), st.integers(1, 8))
def test_what_idled_for_an_hour_does_not_burst_for_long(limit: float, cores: int) -> None:
    plant = Plant(Duty(limit, cores), cores, lambda now: 0.0 if now < 3600 else cores)
    plant.run(3600.0)
    used, now = plant.used, plant.now
    plant.run(now + 2.0)
    burst = (plant.used - used) - limit * cores * (plant.now - now)
    assert burst <= cores * LOOK_S + SAVED_S * limit * cores


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e7)), max_size=30), st.floats(0.01, 1.0))
def test_a_slice_is_always_possible_and_short(history: list[tuple[float, float, float]], limit: float) -> None:
    """Whatever was measured: a change must reach running work within a second, and nothing is stopped for minutes."""
    duty = Duty(limit, 4)
    for elapsed, ran, used in history:
        following = duty.step(elapsed, ran, used)
        assert following.run_s > 0 and following.stop_s >= 0
        assert following.stop_s + following.run_s <= PERIOD_MAX_S + 1e-9
        assert following.stop_s == 0 or following.stop_s + following.run_s >= PERIOD_S - 1e-9


def test_a_clock_that_jumped_does_not_stop_work_for_minutes() -> None:
    duty = Duty(0.5, 2)
    duty.step(0.1, 0.1, 1000.0)
    plant = Plant(duty, 2, lambda _: 2)
    assert plant.share_from(2 * OWED_S + 2, 2 * OWED_S + 7) == pytest.approx(0.5, abs=0.02)


def test_the_whole_device_is_no_limit() -> None:
    plant = Plant(Duty(1.0, 4), 4, lambda _: 4)
    plant.run(10.0)
    assert not plant.stops


def test_the_share_that_is_told_is_of_late() -> None:
    measured = Measured(2)
    assert measured.share is None
    for _ in range(100):
        measured.add(0.1, 0.2)
    assert measured.share == pytest.approx(1.0)
    for _ in range(50):
        measured.add(0.1, 0.06)
    assert measured.share == pytest.approx(0.3, abs=0.02)
