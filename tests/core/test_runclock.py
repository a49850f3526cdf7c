"""The clock of running work stands still while the node keeps that work stopped."""

from __future__ import annotations

from node.core.runclock import RunClock


def test_it_goes_as_the_clock_does_while_nothing_is_stopped() -> None:
    assert RunClock().read(12.5) == 12.5


def test_time_that_work_was_stopped_does_not_count() -> None:
    clock = RunClock()
    clock.stop(10.0)
    assert clock.stopped and clock.read(15.0) == 10.0
    clock.go(17.0)
    assert not clock.stopped and clock.read(18.0) == 11.0


def test_stopping_and_going_on_twice_changes_nothing() -> None:
    clock = RunClock()
    clock.go(1.0)
    clock.stop(2.0)
    clock.stop(5.0)
    clock.go(6.0)
    clock.go(9.0)
    assert clock.read(10.0) == 6.0
