"""What comes after a rollout that failed: its failed devices again, and the stable version for those that were late."""

from __future__ import annotations

import pytest

from coordinator.core.rollouts import again, events
from coordinator.core.rollouts.phases import Trigger
from coordinator.core.rollouts.state import Rollout, Rollouts
from schemas.rollout_state import RolloutPhase, RolloutRecord, RolloutSpec, Stage
from tests.core.rollout_world import APP, Player, World, facts_of, play, version_of
from tests.core.test_rollouts import fleet, until_promoted, with_first_version


def that_went_back(kind: str = "rolling", **strategy: object) -> World:
    """Two of ten have no room for v2, and all ten are back at v1."""
    players = fleet(10)
    for number in (3, 7):
        players[number].bad = frozenset({"v2"})
    world = with_first_version(World(1, players))
    world.live()
    world.create("r2", version_of("v2"), kind=kind, max_concurrent=10, between_s=0.0, **strategy)
    world.run(900, lambda: world.ended("r2"))
    world.run(60)  # what was on its way is heard
    assert world.phase("r2") is RolloutPhase.FAILED
    assert world.running() == {"v1": 10}
    assert again.failed(world.state.rollouts["r2"]) == 2
    return world


def told_v2(world: World, orders: dict[str, int]) -> set[str]:
    """Whom the rollout told something since these orders."""
    return {node for node, (a, _) in world.assigned.items() if a.order > orders[node]}


def orders_of(world: World) -> dict[str, int]:
    return {node: a.order for node, (a, _) in world.assigned.items()}


def mended(world: World) -> None:
    for player in world.players.values():
        player.bad = frozenset()


def test_after_a_roll_back_the_failed_ones_are_tried_first_and_alone_and_the_others_follow_when_they_are_well() -> None:
    world = that_went_back()
    orders = orders_of(world)
    mended(world)
    for name in ("n3", "n7"):
        world.players[name].slow_s = 20.0
    world.ask("r2", Trigger.RETRY)
    world.run(5)
    assert told_v2(world, orders) == {"n3", "n7"}
    world.run(900, lambda: world.ended("r2"))
    assert world.phase("r2") is RolloutPhase.SUCCEEDED
    assert world.running() == {"v2": 10}


def test_failed_ones_that_fail_again_touch_nobody_else() -> None:
    world = that_went_back()
    orders = orders_of(world)
    world.ask("r2", Trigger.RETRY)
    world.run(900, lambda: world.ended("r2"))
    assert world.phase("r2") is RolloutPhase.FAILED
    assert told_v2(world, orders) == {"n3", "n7"}
    assert world.running() == {"v1": 10}
    world.run(60)
    assert again.failed(world.state.rollouts["r2"]) == 2, "and may be tried a third time"


def test_a_canary_that_is_tried_again_asks_again_before_it_goes_on() -> None:
    world = that_went_back("canary", canary_share=1.0, promote=False)
    mended(world)
    world.ask("r2", Trigger.RETRY)
    world.run(300)
    until_promoted(world, "r2", {"v1": 8, "v2": 2}, {"v2": 10})


def test_a_failed_one_that_is_away_is_waited_for_by_nobody() -> None:
    world = that_went_back()
    mended(world)
    world.players["n3"].online = False
    world.see(world.players["n3"])
    world.ask("r2", Trigger.RETRY)
    world.run(300)
    assert world.phase("r2") is RolloutPhase.CATCHING_UP
    assert world.running() == {"v1": 1, "v2": 9}


@pytest.mark.parametrize("rollback", [True, False])
def test_the_coordinator_may_die_at_every_step_of_a_retry(rollback: bool) -> None:
    for moment in range(2, 40, 2):
        world = that_went_back(rollback_on_failure=True) if rollback else without_return()
        mended(world)
        world.ask("r2", Trigger.RETRY)
        world.run(moment * 0.15)
        world.take_over()
        assert world.state.rollouts["r2"].record.retried_at, "it was stored before"
        world.run(900, lambda world=world: world.ended("r2"))
        assert world.phase("r2") is RolloutPhase.SUCCEEDED, moment
        assert world.running() == {"v2": 10}, moment


def without_return() -> World:
    players = fleet(10)
    for number in (3, 7):
        players[number].bad = frozenset({"v2"})
    world = with_first_version(World(1, players))
    world.live()
    world.create("r2", version_of("v2"), kind="rolling", max_concurrent=10, rollback_on_failure=False)
    world.run(900, lambda: world.ended("r2"))
    world.run(60)
    return world


def test_a_lie_about_a_number_that_nobody_was_told_does_not_undo_a_retry() -> None:
    world = without_return()
    mended(world)
    world.ask("r2", Trigger.RETRY)
    world.give(world.players["n3"].says(99, world.players["n3"].phase, "v2", "v1", "v1"))  # type: ignore[arg-type]
    world.run(900, lambda: world.ended("r2"))
    assert world.phase("r2") is RolloutPhase.SUCCEEDED
    assert world.running() == {"v2": 10}


def test_a_device_that_was_away_gets_the_stable_version_once_the_newer_one_has_failed() -> None:
    players = fleet(6)
    late = players[5]
    late.online = False
    world = World(1, players)
    world.create("r1", version_of("v1"), kind="rolling", max_concurrent=6)
    world.run(60)
    for player in players:
        player.bad = frozenset({"v2"})
    world.create("r2", version_of("v2"))
    world.run(900, lambda: world.ended("r2"))
    assert (world.phase("r1"), world.phase("r2")) == (RolloutPhase.SUCCEEDED, RolloutPhase.FAILED)
    late.online = True
    world.see(late)
    world.run(60)
    assert world.running() == {"v1": 6}
    assert world.state.rollouts["r1"].devices["n5"].stage is Stage.HEALTHY


@pytest.mark.parametrize("dies", [False, True])
def test_a_device_that_joined_while_the_newer_one_was_tried_gets_the_stable_version_too(dies: bool) -> None:
    players = fleet(6, bad=frozenset({"v2"}))
    world = with_first_version(World(1, players))
    world.live()
    world.players["late"] = Player("late", bad=frozenset({"v2"}))
    world.give(events.NodeSeen(facts_of("late")))
    world.create("r2", version_of("v2"), kind="rolling", max_concurrent=10)  # "late" has nothing to go back to
    world.run(900, lambda: world.ended("r2"))
    if dies:
        world.take_over()
    world.run(120)
    assert world.running() == {"v1": 7}


def test_what_was_late_for_the_stable_version_waits_for_the_next_one_instead_when_that_comes() -> None:
    world = with_first_version(World(1, fleet(4, bad=frozenset({"v2"}))))
    world.players["late"] = Player("late", online=False)
    world.create("r2", version_of("v2"))
    world.run(900, lambda: world.ended("r2"))
    world.see(world.players["late"])
    assert world.state.rollouts["r1"].count(Stage.DEFERRED) == 1
    world.create("r3", version_of("v3"))
    assert world.state.rollouts["r1"].count(Stage.DEFERRED) == 0
    world.players["late"].online = True
    world.see(world.players["late"])
    world.run(900, lambda: world.ended("r3"))
    assert world.running() == {"v3": 5}


def test_in_random_worlds_a_retry_ends_well_or_leaves_its_version_on_nobody() -> None:
    ends = set()
    for seed in range(8):
        world = play(seed, 12, seed % 3, bad=0.25)
        if world.phase("r2") is not RolloutPhase.FAILED:
            continue
        if seed % 2:
            mended(world)
        world.ask("r2", Trigger.RETRY)
        for moment in range(seed % 4):
            world.run(3.0 * moment + 0.2, lambda world=world: world.ended("r2"))
            world.take_over()
        world.run(9000, lambda world=world: world.ended("r2"))
        ends.add(world.phase("r2"))
        if world.phase("r2") is RolloutPhase.FAILED:
            world.run(3600)
            assert [p.name for p in world.players.values() if p.online and p.running == "v2"] == [], seed
    assert ends == {RolloutPhase.SUCCEEDED, RolloutPhase.FAILED}


def test_of_two_that_began_at_the_same_moment_one_is_the_latest_for_everybody() -> None:
    state = Rollouts()
    for name, phase in (("r1", RolloutPhase.SUCCEEDED), ("r2", RolloutPhase.SUCCEEDED), ("r3", RolloutPhase.FAILED)):
        at = 2.0 if phase is RolloutPhase.FAILED else 1.0
        record = RolloutRecord(RolloutSpec(name, version_of(f"v{name[1:]}"), created_at=at), phase=phase)
        state.rollouts[name] = state.current[APP] = Rollout(record, 1)
    assert [rollout.id for rollout in state.history(APP)] == ["r3", "r2", "r1"]
    assert state.stable(APP) == state.working(APP)[-1].record.spec.version == version_of("v2")
