"""Rollouts, told as stories of a fleet; the worlds' invariants are checked after every step of each."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec import structs

from coordinator.core.rollouts import events
from coordinator.core.rollouts.fit import judge
from coordinator.core.rollouts.garbage import HISTORY_KEPT, old
from coordinator.core.rollouts.phases import ENDS_AS, TABLE, Trigger
from schemas.device import DeviceState, DeviceType, NetworkQuality, NetworkType, ThermalState
from schemas.rollout import AppNeeds, AppVersion, CommandCheck, Health, Service
from schemas.rollout_state import ENDED, RolloutPhase, Stage
from tests.core.rollout_world import Player, World, facts_of, play, version_of


def fleet(count: int, **how: object) -> list[Player]:
    return [Player(f"n{i}", **how) for i in range(count)]  # type: ignore[arg-type]


def with_first_version(world: World) -> World:
    """Everything has v1, as its last good version."""
    world.create("r1", version_of("v1"), kind="rolling", max_concurrent=10_000, between_s=0.0)
    world.run(300, lambda: world.ended("r1"))
    assert world.phase("r1") is RolloutPhase.SUCCEEDED
    return world


def until_promoted(world: World, rollout: str, before: dict[str, int], after: dict[str, int]) -> None:
    """It waits at its gate, and goes on to its end once an operator says so; what runs on how many then and there."""
    assert world.phase(rollout) is RolloutPhase.GATED
    assert world.running() == before
    world.give(events.Promoted(rollout))
    world.run(900, lambda: world.ended(rollout))
    assert world.running() == after


def test_a_canary_goes_first_and_the_rest_follows_once_it_is_healthy() -> None:
    world = with_first_version(World(1, fleet(20)))
    world.create("r2", version_of("v2"), kind="canary")
    world.run(0.3)
    assert len([a for a, _ in world.assigned.values() if a.rollout == "r2"]) == 2
    world.run(300, lambda: world.ended("r2"))
    assert world.phase("r2") is RolloutPhase.SUCCEEDED
    assert world.running() == {"v2": 20}


def test_a_bad_canary_stops_itself_and_returns_only_those_it_touched() -> None:
    world = with_first_version(World(1, fleet(20, bad=frozenset({"v2"}))))
    before = {node: a.order for node, (a, _) in world.assigned.items()}
    world.create("r2", version_of("v2"), kind="canary")
    world.run(900, lambda: world.ended("r2"))
    assert world.phase("r2") is RolloutPhase.FAILED
    assert "attempted devices failed" in world.state.rollouts["r2"].record.reason
    assert world.running() == {"v1": 20}
    touched = [node for node, (a, _) in world.assigned.items() if a.order != before[node]]
    assert len(touched) == 2
    assert all(world.assigned[node][0].back for node in touched)


def test_a_version_that_is_bad_on_one_kind_of_device_is_stopped_at_the_share_of_those_attempted() -> None:
    players = fleet(40)
    for player in players[::3]:
        player.bad = frozenset({"v2"})
    world = with_first_version(World(3, players))
    world.create("r2", version_of("v2"), kind="rolling", max_concurrent=4, between_s=1.0)
    world.run(900, lambda: world.ended("r2"))
    assert world.phase("r2") is RolloutPhase.FAILED
    assert world.running() == {"v1": 40}


def test_the_first_version_of_all_is_removed_when_it_fails() -> None:
    world = World(1, fleet(5, bad=frozenset({"v1"})))
    world.create("r1", version_of("v1"))
    world.run(900, lambda: world.ended("r1"))
    assert world.phase("r1") is RolloutPhase.FAILED
    assert world.running() == {"": 5}


def test_offline_devices_do_not_thin_out_failures_and_catch_up_when_they_come() -> None:
    players = fleet(10)
    for player in players[5:]:
        player.online = False
    world = World(1, players)
    world.create("r1", version_of("v1"), kind="blue-green", catch_up_s=3600.0)
    world.run(120)
    assert world.phase("r1") is RolloutPhase.CATCHING_UP
    assert world.running() == {"v1": 5, "": 5}
    for player in players[5:9]:
        player.online = True
        world.give(events.NodeSeen(facts_of(player.name)))
    world.run(120)
    assert world.running() == {"v1": 9, "": 1}
    world.run(4000, lambda: world.ended("r1"))
    assert world.phase("r1") is RolloutPhase.SUCCEEDED
    assert world.state.rollouts["r1"].devices["n9"].stage is Stage.EXPIRED


def test_a_rollout_that_nobody_can_take_ends() -> None:
    world = World(1, fleet(3, online=False))
    world.create("r1", version_of("v1"), catch_up_s=3600.0)
    world.run(7200, lambda: world.ended("r1"))
    assert world.phase("r1") is RolloutPhase.FAILED


def test_a_device_that_took_the_version_and_fell_silent_has_failed() -> None:
    """One that is bricked by an update is not *on its way* for ever."""
    world = with_first_version(World(1, fleet(10, slow_s=5.0)))
    world.create("r2", version_of("v2"))
    world.run(2.0)
    [node] = [n for n, (a, _) in world.assigned.items() if a.rollout == "r2"]
    world.players[node].online = False
    world.give(events.NodeSeen(facts_of(node, online=False)))
    world.run(900, lambda: world.ended("r2"))
    assert world.phase("r2") is RolloutPhase.FAILED
    assert "silent since it took" in world.state.rollouts["r2"].record.reason


def test_without_progress_it_fails_by_the_clock_that_runs_from_its_creation() -> None:
    world = World(1, fleet(4, slow_s=10_000.0))
    world.create("r1", version_of("v1", healthy_deadline_s=2000.0, progress_deadline_s=3000.0, min_healthy_s=1.0))
    began = world.now
    world.run(9000, lambda: world.ended("r1"))
    assert world.phase("r1") is RolloutPhase.FAILED
    assert world.now - began < 3000 + 2 * 2015


def test_blue_green_keeps_the_old_version_warm_until_the_gate_is_open() -> None:
    world = with_first_version(World(1, fleet(6)))
    world.create("r2", version_of("v2"), kind="blue-green")
    world.run(0.3)
    first = [a.told.value for a, _ in world.assigned.values() if a.rollout == "r2"]
    assert first == ["warm"] * 3
    world.run(300, lambda: world.ended("r2"))
    world.run(5.0)
    assert {a.told.value for a, _ in world.assigned.values()} == {"switch"}


def test_without_promote_the_canary_waits_for_an_operator_and_no_clock_runs() -> None:
    world = World(1, fleet(10))
    world.create("r1", version_of("v1"), promote=False)
    world.run(86_400)
    until_promoted(world, "r1", {"v1": 1, "": 9}, {"v1": 10})


@pytest.mark.parametrize(("yes", "end"), [(True, RolloutPhase.SUCCEEDED), (False, RolloutPhase.FAILED)])
def test_a_clusters_decision_opens_the_gate_or_sends_everybody_back(yes: bool, end: RolloutPhase) -> None:
    world = with_first_version(World(1, fleet(10)))
    world.create("r2", version_of("v2"), decision_of="c1")
    world.run(60)
    assert [ask.cluster for ask in world.asked] == ["c1"]
    world.give(events.Promoted("r2", yes, "the members said so"))
    world.run(300, lambda: world.ended("r2"))
    assert world.phase("r2") is end
    assert world.running() == ({"v2": 10} if yes else {"v1": 10})


def test_a_newer_version_replaces_a_running_rollout() -> None:
    world = with_first_version(World(1, fleet(10, slow_s=20.0)))
    world.create("r2", version_of("v2"), kind="rolling", max_concurrent=2, between_s=5.0)
    world.run(30)
    world.create("r3", version_of("v3"), kind="rolling", max_concurrent=5, between_s=1.0)
    world.run(900, lambda: world.ended("r3"))
    assert world.phase("r2") is RolloutPhase.SUPERSEDED
    assert world.running() == {"v3": 10}


def test_a_version_that_only_late_devices_lack_is_stable_also_when_a_newer_one_fails() -> None:
    players = [*fleet(4, bad=frozenset({"v3"})), Player("away", online=False)]
    world = World(1, players)
    for name, version in (("r1", "v1"), ("r2", "v2")):
        world.create(name, version_of(version), kind="rolling", max_concurrent=10_000, between_s=0.0)
        world.run(120)
        assert world.phase(name) is RolloutPhase.CATCHING_UP
    world.create("r3", version_of("v3"))
    world.run(900, lambda: world.ended("r3"))
    assert [world.phase(name).value for name in ("r1", "r2", "r3")] == ["succeeded", "succeeded", "failed"]
    stable = world.state.stable("model")
    assert stable is not None
    assert stable.version == "v2"


def test_a_canary_that_its_owner_holds_back_has_not_failed_and_another_is_told_in_its_place() -> None:
    world = with_first_version(World(1, fleet(4, defers=1.0)))
    for player in world.players.values():
        player.wakes_s = 1e6
    world.create("r2", version_of("v2"), catch_up_s=7200.0)
    world.run(30)
    assert world.state.rollouts["r2"].count(Stage.DEFERRED) == 1
    for player in world.players.values():
        player.defers = 0.0
    world.run(7000)
    assert world.phase("r2") is RolloutPhase.CATCHING_UP
    assert world.running() == {"v2": 3, "v1": 1}


def test_pause_tells_nobody_new_and_resume_goes_on() -> None:
    world = World(1, fleet(10))
    world.create("r1", version_of("v1"), kind="rolling", max_concurrent=2, between_s=5.0)
    world.run(8)
    world.ask("r1", Trigger.PAUSE)
    world.run(10)
    told = len(world.assigned)
    world.run(3600)
    assert world.phase("r1") is RolloutPhase.PAUSED
    assert len(world.assigned) == told < 10
    world.ask("r1", Trigger.RESUME)
    world.run(300, lambda: world.ended("r1"))
    assert world.running() == {"v1": 10}


@pytest.mark.parametrize("trigger", [Trigger.ABORT, Trigger.ROLL_BACK])
def test_abort_and_roll_back_bring_every_device_to_what_was_good_on_it(trigger: Trigger) -> None:
    players = fleet(10)
    world = with_first_version(World(1, players))
    world.create("r2", version_of("v2"), kind="rolling", max_concurrent=3, between_s=5.0)
    world.run(12)
    assert world.running()["v2"] >= 3
    world.ask("r2", trigger)
    world.run(300, lambda: world.ended("r2"))
    assert world.phase("r2") is RolloutPhase.ABORTED
    assert world.running() == {"v1": 10}


def test_only_the_failed_ones_are_tried_again() -> None:
    players = fleet(6)
    players[2].bad = players[4].bad = frozenset({"v1"})
    world = World(1, players)
    world.create("r1", version_of("v1"), kind="rolling", max_concurrent=6, rollback_on_failure=False)
    world.run(300, lambda: world.ended("r1"))
    assert world.phase("r1") is RolloutPhase.FAILED
    world.run(10)  # what was on its way when it failed is still heard of
    orders = {node: a.order for node, (a, _) in world.assigned.items()}
    players[2].bad = players[4].bad = frozenset()
    world.ask("r1", Trigger.RETRY)
    world.run(300, lambda: world.ended("r1"))
    assert world.phase("r1") is RolloutPhase.SUCCEEDED
    again = {node for node, (a, _) in world.assigned.items() if a.order != orders[node]}
    assert again == {"n2", "n4"}


def test_a_device_that_joins_later_gets_the_version_too() -> None:
    world = with_first_version(World(1, fleet(3)))
    world.players["late"] = Player("late")
    world.give(events.NodeSeen(facts_of("late")))
    world.run(10)
    assert world.running() == {"v1": 4}


def test_the_coordinator_may_die_at_every_step() -> None:
    """However often, the rollout goes on from what is stored, and no device is told two things."""
    for crash_at in range(0, 60, 2):
        world = with_first_version(World(7, fleet(12)))
        world.live()
        world.create("r2", version_of("v2"), kind="rolling", max_concurrent=3, between_s=1.0)
        world.run(crash_at * 0.2 + 0.02)
        world.take_over()
        if "r2" not in world.state.rollouts:  # it died before the rollout was stored: its creator was not answered
            continue
        world.run(600, lambda world=world: world.ended("r2"))
        assert world.phase("r2") is RolloutPhase.SUCCEEDED
        assert world.running() == {"v2": 12}


def test_a_successor_begins_with_the_batch_and_never_tells_all_the_rest_at_once() -> None:
    """It knows nobody that waits until it has seen the nodes."""
    for moment in range(60):
        world = with_first_version(World(7, fleet(12)))
        world.live()
        world.create("r2", version_of("v2"), kind="rolling", max_concurrent=3, between_s=1.0)
        world.run(moment * 0.15 + 0.06)
        world.take_over()
        world.run(600, lambda world=world: world.ended("r2"))
        batches = Counter(assignment.batch for assignment, _ in world.assigned.values() if assignment.rollout == "r2")
        assert (world.phase("r2"), sum(batches.values())) == (RolloutPhase.SUCCEEDED, 12), moment
        assert max(batches.values()) <= 3 + world.late, moment


def test_a_batch_that_found_only_deferred_devices_is_told_when_one_can_take_it_after_all() -> None:
    world = World(1, fleet(6))
    world.create("r1", version_of("v1"), kind="rolling", max_concurrent=2, between_s=60.0)
    world.run(20)
    assert world.running() == {"v1": 2, "": 4}
    for node in world.players:
        world.give(events.NodeSeen(facts_of(node, battery=10.0)))
    world.run(600, lambda: world.phase("r1") is RolloutPhase.GATED and world.state.rollouts["r1"].storing)
    for node in world.players:
        world.give(events.NodeSeen(facts_of(node)))
    world.run(900, lambda: world.ended("r1"))
    assert world.phase("r1") is RolloutPhase.SUCCEEDED
    assert world.running() == {"v1": 6}


def test_a_coordinator_that_dies_while_going_back_leaves_nobody_with_what_failed() -> None:
    for crash_at in range(0, 40, 2):
        players = fleet(12)
        for player in players[::2]:
            player.bad = frozenset({"v2"})
        world = with_first_version(World(7, players))
        world.live()
        world.create("r2", version_of("v2"), kind="rolling", max_concurrent=6, between_s=1.0)
        world.run(crash_at * 0.2 + 0.1)
        world.take_over()
        world.run(900, lambda world=world: world.ended("r2"))
        assert world.phase("r2") is RolloutPhase.FAILED
        world.run(60)
        assert world.running() == {"v1": 12}


@pytest.mark.parametrize("block", range(4))
def test_in_random_worlds_every_rollout_ends_and_a_failed_one_ends_at_what_was_good(block: int) -> None:
    for seed in range(block * 15, block * 15 + 15):
        play(seed, 24, crashes=seed % 3)


def test_every_phase_but_an_end_has_a_way_on_and_every_return_an_end() -> None:
    assert set(TABLE) == set(RolloutPhase)
    for phase, moves in TABLE.items():
        assert phase in ENDED or moves
    returns = {what for moves in TABLE.values() for what, to in moves.items() if to is RolloutPhase.GOING_BACK}
    assert returns == set(ENDS_AS)


def needing(**needs: object) -> AppVersion:
    return structs.replace(version_of("v1"), needs=AppNeeds(**needs))  # type: ignore[arg-type]


NEEDS: list[tuple[dict[str, object], dict[str, object], str]] = [
    ({"cores": 8.0}, {}, "it has 4 cores, 8 are needed"),
    ({"clock_ghz": 2.0}, {}, "its clock is unknown, 2 GHz are needed"),
    ({"ram_mb": 10}, {}, "its RAM is unknown, 10 MiB are needed"),
    ({"gpu": True}, {}, "whether it has a GPU is unknown"),
    ({"arch": ("arm64",)}, {}, "its architecture is unknown, not arm64"),
    ({"device_types": (DeviceType.LAPTOP,)}, {}, "its device type is unknown"),
    ({"frameworks": ("onnxruntime",)}, {}, "it lacks onnxruntime"),
    ({"attestation": True}, {}, "it cannot attest what it runs"),
    ({"trust": 0.6}, {}, "its trust is 0.00, 0.6 is needed"),
    ({"encrypted_link": True}, {}, "its link to the broker may not be encrypted: it has not said"),
    (
        {"encrypted_link": True},
        {"device": DeviceState(mains=True, network_encrypted=False, network_quality=NetworkQuality.GOOD)},
        "its link to the broker is not encrypted",
    ),
]


@pytest.mark.parametrize(("needs", "how", "reason"), NEEDS)
def test_what_a_device_is_rejects_it(needs: dict[str, object], how: dict[str, object], reason: str) -> None:
    fit = judge(needing(**needs), structs.replace(facts_of("n1"), **how))  # type: ignore[arg-type]
    assert fit.rejected == (reason,)


METERED = "its network is metered: until it has another"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"battery_percent": 19.0, "mains": False}, "battery 19 % and not charging: until 20 %, or it charges"),
        (
            {"battery_percent": None, "mains": False, "is_charging": None},
            "its battery level is unknown: until it says, or charges",
        ),
        ({"thermal_state": ThermalState.HOT}, "it is hot: until it has cooled down"),
        ({"network_metered": True}, METERED),
        ({"network_metered": None, "network_type": NetworkType.CELLULAR}, METERED),
        ({"network_quality": NetworkQuality.OFFLINE}, "its network is offline: until it is poor"),
        ({"network_latency_ms": 251.0}, "its latency is 251 ms: until it is at most 250"),
        ({"network_latency_ms": None}, "its latency was not measured yet: until it is"),
        ({"network_goodput_mbps": 1.9}, "its network brings 1.9 Mbit/s: until it brings 2"),
    ],
)
def test_how_a_device_is_now_defers_it_and_says_until_what(change: dict[str, object], reason: str) -> None:
    facts = facts_of("n1")
    facts = structs.replace(facts, device=structs.replace(facts.device, **change))
    version = needing(latency_ms=250.0, bandwidth_mbps=2.0)
    assert judge(version, facts).deferred == (reason,)
    assert judge(version, facts).rejected == ()


def test_of_an_app_the_latest_rollouts_are_kept_and_what_is_stable_or_in_use() -> None:
    world = with_first_version(World(1, fleet(2)))
    world.players["n1"].online = False  # it keeps what the first rollout told it
    world.give(events.NodeSeen(facts_of("n1", online=False)))
    for i in range(2, HISTORY_KEPT + 5):
        world.create(f"r{i}", version_of(f"v{i}"))
        world.run(60)
    assert [rollout.id for rollout in old(world.state)] == ["r4", "r3", "r2"]
    world.give(events.RolloutDropped("r2"))
    assert [rollout.id for rollout in old(world.state)] == ["r4", "r3"]


def test_a_device_that_comes_and_goes_stands_in_the_line_once() -> None:
    world = with_first_version(World(1, fleet(20)))
    world.create("r2", version_of("v2"), kind="canary")
    world.run(0.3)
    world.give(events.Asked("r2", Trigger.PAUSE))
    waiting = list(world.state.rollouts["r2"].by_stage[Stage.WAITING])
    for _ in range(50):
        for online in (False, True):
            for node in waiting:
                world.give(events.NodeSeen(facts_of(node, online=online)))
    assert len(world.state.rollouts["r2"].line) <= 20
    world.give(events.Asked("r2", Trigger.RESUME))
    world.run(300, lambda: world.ended("r2"))
    assert world.running() == {"v2": 20}


def test_a_device_that_is_back_still_says_why_it_had_to_return() -> None:
    world = with_first_version(World(1, fleet(1, bad=frozenset({"v2"}))))
    world.create("r2", version_of("v2"))
    world.run(300, lambda: world.ended("r2"))
    device = world.state.rollouts["r2"].devices["n0"]
    assert (device.stage, device.reason) == (Stage.BACK, "it says so")


def test_enough_is_enough() -> None:
    assert judge(needing(), facts_of("n1", battery=20.0)).now
    assert judge(needing(cores=4.0), facts_of("n1")).now


def test_a_service_goes_nowhere_without_its_owners_yes() -> None:
    version = structs.replace(version_of("v1"), run=Service(("serve",)))
    assert "--allow app" in judge(version, facts_of("n1")).rejected[0]
    assert judge(version, structs.replace(facts_of("n1"), kinds=("function", "app"))).now


def test_a_check_by_a_command_runs_only_where_the_owner_allows_it_also_of_data() -> None:
    checked = structs.replace(version_of("v1"), health=Health(CommandCheck(("true",))))
    assert not judge(checked, facts_of("n1")).now
    assert judge(checked, structs.replace(facts_of("n1"), kinds=("app",))).now
    assert judge(version_of("v1"), facts_of("n1")).now, "data that nothing is run for needs no permission"
