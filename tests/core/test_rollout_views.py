"""What the API tells of a rollout as a whole: how many of the attempted devices are well, and what they measured."""

from __future__ import annotations

import pytest
from msgspec import structs

from coordinator.core.rollouts import events, views
from schemas.rollout import AppFigures, AppReport, Phase
from schemas.rollout_api import RolloutFigures
from schemas.rollout_state import RolloutPhase
from tests.core.rollout_world import APP, Player, World, version_of

ALL_AT_ONCE = {"kind": "rolling", "max_concurrent": 100, "between_s": 0.0}


def played(bad: int, of: int, **strategy: object) -> World:
    """`of` devices, on `bad` of which the version never becomes healthy."""
    players = [Player(f"n{i}", bad=frozenset({"v1"}) if i < bad else frozenset()) for i in range(of)]
    world = World(1, players)
    world.create("r1", version_of("v1"), **{**ALL_AT_ONCE, **strategy})  # type: ignore[arg-type]
    world.run(600, lambda: world.ended("r1"))
    world.run(5.0)
    return world


@pytest.mark.parametrize(("bad", "of", "enough"), [(0, 1, True), (1, 20, True), (1, 19, False), (2, 20, False)])
def test_the_share_of_the_attempted_that_are_well_is_held_against_95_percent(bad: int, of: int, enough: bool) -> None:
    world = played(bad, of, max_failed_share=0.5)
    info = views.info(world.state, world.state.rollouts["r1"], 0)
    assert (info.attempted, info.success_share, info.enough) == (of, (of - bad) / of, enough)


def test_one_that_went_back_still_says_how_many_were_well_also_after_a_takeover() -> None:
    world = played(5, 20, max_failed_share=0.2)
    for _ in range(2):
        rollout = world.state.rollouts["r1"]
        info = views.info(world.state, rollout, 0)
        assert (rollout.phase, info.success_share, info.enough) == (RolloutPhase.FAILED, 0.75, False)
        world.take_over()


def test_while_nobody_has_tried_it_nothing_is_known() -> None:
    world = World(1, [Player("n0", online=False)])
    world.create("r1", version_of("v1"))
    info = views.info(world.state, world.state.rollouts["r1"], 0)
    assert (info.success_share, info.enough, info.figures) == (None, None, RolloutFigures())


def test_what_the_devices_measured_is_told_of_all_that_run_the_version() -> None:
    world = played(0, 3)
    measured = (
        AppFigures(10.0, 1, 20, 1, 2.0, 4.0, 10.0),
        AppFigures(30.0, 2, 20, 3, 4.0, 8.0, 30.0),
        AppFigures(99.0, 9, 99, 99, 99.0, 99.0, 99.0),  # of another version
    )
    for i, (figures, running) in enumerate(zip(measured, ("v1", "v1", "v0"), strict=True)):
        said = AppReport(f"n{i}", 1, APP, 1, Phase.HEALTHY, running, running, running, figures=figures)
        world.give(events.Reported(said))
    found = views.info(world.state, world.state.rollouts["r1"], 0).figures
    assert found == RolloutFigures(2, 20.0, 3, 40, 4, 0.1, 3.0, 4.0, 6.0, 20.0)
    assert structs.asdict(views.info(world.state, world.state.rollouts["r1"], 1).figures)["devices"] == 0
