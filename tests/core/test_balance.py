"""Load balance: who waits where another could run it is taken back, and a fleet that is too small says so."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from coordinator.core import tune, views
from coordinator.core.views import balance
from schemas.device import DeviceState
from schemas.membership import Held
from schemas.task import OutcomeKind
from tests.core.world import MAINS, World


def crowded(**more: Any) -> World:
    """n1, with one core, holds four tasks that were thought to be quick; the first one runs, and runs on."""
    w = World()
    w.join("n1", cores=1, **more)
    for number in range(4):  # what it takes is learned
        w.submit(f"quick{number}")
        w.done(f"quick{number}", ms=1.0)
    for number in range(4):
        w.submit(f"t{number}")
    assert {w.node_of(f"t{n}") for n in range(4)} == {"n1"}
    tell(w)
    return w


def tell(w: World, **more: Any) -> list[str]:
    """n1's beat: its oldest task runs, the others wait."""
    held = sorted(w.state.nodes["n1"].attempts.values(), key=lambda t: t.order)
    return w.beat("n1", tuple(Held(t.id, t.history.placement, n == 0) for n, t in enumerate(held)), **more)


def asked(lines: list[str]) -> list[str]:
    return [line for line in lines if "giveback" in line]


def test_nothing_is_taken_back_that_nobody_else_has_room_for() -> None:
    w = crowded()
    assert asked(w.wait(6.0)) == []


def test_what_waits_behind_a_long_task_is_taken_back_for_a_node_that_came_later() -> None:
    w = crowded()
    w.wait(tune.BEHIND_S)
    w.join("n2", cores=2)
    assert asked(w.wait(1.0)) == ["command n1 giveback t1 t2"]  # two slots are free for them
    for task in ("t1", "t2"):
        w.outcome(task, OutcomeKind.RETURNED, "its node is behind its peers", started=False)
        assert w.node_of(task) == "n2"
    assert w.state.tasks["t1"].history.retries_used == 0
    assert asked(w.wait(3.0)) == [], "there is no free slot left"


def test_what_has_waited_for_a_moment_only_stays() -> None:
    w = crowded()
    w.join("n2", cores=2)
    assert asked(w.wait(tune.BEHIND_S - 0.5)) == []


def test_an_overloaded_node_gives_back_at_once() -> None:
    w = crowded(device=replace(MAINS, cpu_utilization=0.1))
    w.join("n2", cores=2)
    tell(w, state=DeviceState(cpu_utilization=1.0))  # its own task accounts for all of its core
    assert asked(w.wait(0.5)) == []
    w = crowded(device=replace(MAINS, ram_available_mb=4000), ram_total_mb=8000)
    w.join("n2", cores=2)
    tell(w, state=DeviceState(ram_available_mb=100))
    assert asked(w.wait(0.75)) == ["command n1 giveback t1 t2"]


def test_higher_priorities_are_taken_back_first_and_exclusive_work_keeps_its_place() -> None:
    w = World()
    w.join("n1", cores=1)
    for number in range(4):
        w.submit(f"quick{number}")
        w.done(f"quick{number}", ms=1.0)
    w.submit("runs")
    w.submit("own", exclusive=True, priority=10)
    w.submit("low", priority=1)
    w.submit("high", priority=7)
    held = ("runs", "own", "low", "high")
    placements = {t: w.state.tasks[t].history.placement for t in held}
    w.beat("n1", tuple(Held(t, placements[t], t == "runs") for t in held))
    w.wait(tune.BEHIND_S)
    w.join("n2", cores=1)
    assert asked(w.wait(1.0)) == ["command n1 giveback high"]


def test_a_fleet_that_is_too_small_says_that_it_is_degraded_and_why() -> None:
    w = World()
    w.join("n1", cores=1, functions="long")
    w.submit("runs", "long")
    w.submit("a", "long", priority=1)
    w.submit("b", "long", priority=7)
    assert not [note for note in views.status(w.state, w.now).notes if "degraded" in note]
    w.wait(tune.SHORT_S + 1, beating=("n1",))
    (note,) = [note for note in views.status(w.state, w.now).notes if "degraded" in note]
    assert "1 high, 1 low wait for a free slot" in note and "1 of 1 slots are used" in note


def test_the_balance_is_the_least_against_the_most() -> None:
    w = World()
    for name in ("n1", "n2"):
        w.join(name, cores=4)
    assert balance(list(w.state.nodes.values())) is None
    for number in range(3):
        w.submit(f"t{number}")
    assert balance(list(w.state.nodes.values())) in (0.0, 0.5)
    assert views.status(w.state, w.now).balance == balance(list(w.state.nodes.values()))
