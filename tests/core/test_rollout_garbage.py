"""What may be removed of an app's versions, and what some device may still need."""

from __future__ import annotations

from coordinator.core.rollouts import events
from coordinator.core.rollouts.garbage import artifacts, needed
from coordinator.core.rollouts.machine import step
from tests.core.rollout_world import APP, Player, World, version_of

EVERYBODY = {"kind": "rolling", "max_concurrent": 10_000, "between_s": 0.0}


def world_with(*versions: str, players: list[Player]) -> World:
    world = World(1, players)
    for number, name in enumerate(versions, 1):
        world.create(f"r{number}", version_of(name), **EVERYBODY)
        world.run(900, lambda number=number: world.ended(f"r{number}"))  # type: ignore[misc]
    return world


def names(world: World) -> set[str]:
    return {version for app, version in needed(world.state) if app == APP and version}


def test_the_stable_and_the_previous_version_are_kept_and_older_ones_are_not() -> None:
    world = world_with("v1", "v2", "v3", "v4", players=[Player("a"), Player("b")])
    assert names(world) == {"v3", "v4"}


def test_a_version_that_failed_is_kept_until_another_comes_since_it_may_be_tried_again() -> None:
    world = world_with("v1", "v2", "v3", players=[Player("a", bad=frozenset({"v3"}))])
    assert names(world) == {"v1", "v2", "v3"}
    world.create("r9", version_of("v4"), **EVERYBODY)
    world.run(900, lambda: world.ended("r9"))
    assert names(world) == {"v2", "v4"}


def test_what_a_device_that_is_away_was_told_or_would_return_to_is_kept() -> None:
    away = Player("away")
    world = world_with("v1", players=[Player("a"), away])
    away.online = False
    for number, name in enumerate(("v2", "v3", "v4"), 2):
        world.create(
            f"r{number}", version_of(name), kind="rolling", max_concurrent=10_000, between_s=0.0, catch_up_s=60.0
        )
        world.run(900, lambda number=number: world.ended(f"r{number}"))  # type: ignore[misc]
    told = {a.version.version for a, _ in world.assigned.values() if a.version is not None}
    assert {"v1"} | told <= names(world), "it has v1, and may be told to stay with it"


def test_a_version_that_was_dropped_is_unknown_and_its_artifact_no_longer_kept() -> None:
    world = world_with("v1", "v2", "v3", players=[Player("a")])
    kept = {version_of("v1").artifact}
    assert artifacts(world.state) == kept
    assert step(world.state, events.VersionDropped(APP, "v1"), world.now) == []
    assert {version for _, version in world.state.versions} == {"v2", "v3"}
