"""Which node a task goes to, in which order tasks go, and what waits."""

from __future__ import annotations

import time
from random import Random

import pytest

from coordinator.core import tune
from coordinator.core.events import CancelAsked, Tick
from coordinator.core.intake import classify
from coordinator.core.placing import sample
from coordinator.core.why import explain
from schemas.device import DeviceState, NetworkQuality, NetworkType, ThermalState
from tests.core.world import MAINS, World


def battery(
    percent: float | None, charging: bool = False, heat: ThermalState | None = ThermalState.NORMAL
) -> DeviceState:
    return DeviceState(mains=False, battery_percent=percent, is_charging=charging, thermal_state=heat)


def placed_at(world: World, task: str) -> str:
    found = world.state.tasks[task]
    return found.bound if found.state.value == "placed" else found.state.value


def test_a_task_goes_to_the_node_with_the_best_score() -> None:
    """Mains 1.8 beats charging 1.5 beats a battery, other things being equal."""
    w = World()
    w.join("phone", device=battery(90))
    w.join("charging", device=battery(60, charging=True))
    w.join("desktop", device=MAINS)
    w.submit("t1", cores=2)
    assert placed_at(w, "t1") == "desktop"
    w.submit("t2", cores=2)  # half of the desktop is taken: 0.5 × 1.8 < 1 × 1.5
    assert placed_at(w, "t2") == "charging"
    w.submit("t3", cores=2)
    assert placed_at(w, "t3") == "phone"


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (battery(25), "battery 25 %"),
        (battery(None), "battery level is unknown"),
        (battery(90, heat=ThermalState.HOT), "it is hot"),
        (battery(90, heat=ThermalState.THROTTLED), "it is throttled"),
    ],
)
def test_an_unfit_node_gets_nothing_and_the_task_says_why(device: DeviceState, reason: str) -> None:
    w = World()
    w.join("phone", device=device, battery_powered=True)
    w.submit("t1")
    assert placed_at(w, "t1") == "queued"
    why = explain(w.state, "t1")
    assert why is not None
    assert reason in why.text
    assert reason in why.against[0].reasons[0]


@pytest.mark.parametrize(
    "device", [battery(30), battery(5, charging=True), battery(80, heat=None), battery(90, heat=ThermalState.WARM)]
)
def test_a_fit_node_gets_work(device: DeviceState) -> None:
    """30 % is enough, charging always is, an unknown temperature is allowed, warm is not hot."""
    w = World()
    w.join("phone", device=device, battery_powered=True)
    w.submit("t1")
    assert placed_at(w, "t1") == "phone"


def test_a_long_task_needs_a_well_filled_battery() -> None:
    w = World()
    w.join("phone", device=battery(60), battery_powered=True)
    w.submit("long", estimated_duration_s=600.0)
    assert placed_at(w, "long") == "queued"
    w.beat("phone", state=DeviceState(battery_percent=75.0))
    assert placed_at(w, "long") == "phone"


def test_a_large_input_stays_off_metered_networks() -> None:
    """Cellular counts as metered unless it says that it is not."""
    w = World()
    w.join("phone", device=DeviceState(mains=True, network_type=NetworkType.CELLULAR))
    w.submit("large", input_bytes=20_000_000)
    w.submit("small", input_bytes=1000)
    assert (placed_at(w, "large"), placed_at(w, "small")) == ("queued", "phone")
    w.join("wired", device=DeviceState(mains=True, network_quality=NetworkQuality.POOR))
    assert placed_at(w, "large") == "wired"


def test_needs_are_met_or_the_task_waits_visibly() -> None:
    """What fits no known node moves to the waiting place, with the reason, and starts when one comes."""
    w = World()
    w.join("plain", has_gpu=False, arch="x86_64", supports_ml_frameworks=("torch",))
    w.submit("gpu", gpu=True)
    w.submit("arm", arch="arm64")
    w.submit("onnx", frameworks=("onnxruntime",))
    w.submit("label", labels={"site": "attic"})
    w.submit("unknown", function="nobody-has-it")
    w.submit("pinned", node="elsewhere")
    w.submit("huge", cores=64.0)
    assert set(w.states().values()) == {"waiting"}
    waiting = [x for x in w.log if x.startswith("place")]
    assert waiting[0] == "place gpu.1 at _waiting (no node fits: plain: it has no GPU)"
    assert waiting[4] == "place unknown.1 at _waiting (no node fits: plain: it does not offer nobody-has-it)"
    w.join("elsewhere", has_gpu=True, arch="arm64", cores=128, runtimes=("onnxruntime",), labels={"site": "attic"})
    assert {t: placed_at(w, t) for t in w.state.tasks} == {
        t: "elsewhere" if t != "unknown" else "waiting" for t in w.state.tasks
    }
    assert w.state.tasks["gpu"].history.placement == 2


def test_commands_go_only_where_the_owner_allows_them() -> None:
    from schemas.task import CommandHead, TaskHead

    w = World()
    w.join("careful")
    event = w.arrive("cmd")
    command = TaskHead("cmd", "ann", CommandHead(("ls",)))
    w.feed(type(event)(command, event.source, event.stored_at))
    assert "does not allow command" in w.state.tasks["cmd"].reason
    w.join("open", kinds=("function", "command"))
    assert placed_at(w, "cmd") == "open"


def test_higher_priority_goes_first_and_equal_by_age() -> None:
    """With one slot free at a time, the order of starting is by priority, then by age."""
    w = World()
    w.join("n1", cores=1)
    w.submit("first")
    for name, priority in [("low", 1), ("normal-1", 3), ("critical", 10), ("normal-2", 3), ("high", 7)]:
        w.submit(name, priority=priority)
    order = []
    running = "first"
    for _ in range(5):
        w.done(running, ms=2000)
        running = next(t.id for t in w.state.tasks.values() if t.state.value == "placed")
        order.append(running)
    assert order == ["critical", "high", "normal-1", "normal-2", "low"]


def test_a_class_without_room_blocks_no_other() -> None:
    """An older task of the same priority that has no node does not hold back a younger one that has."""
    w = World()
    w.join("small", cores=1)
    w.join("gpu", cores=1, has_gpu=True, functions="big")
    w.submit("g1", function="big", gpu=True)
    w.submit("g2", function="big", gpu=True)
    w.submit("c1")
    assert (placed_at(w, "g2"), placed_at(w, "c1")) == ("queued", "small")


def test_no_node_gets_more_than_it_can_do() -> None:
    """Unknown functions fill only free cores; a function known to be quick fills a short queue; a slow one never does."""
    w = World()
    w.join("n1", cores=2)
    for i in range(50):
        w.submit(f"u{i}")
    assert w.state.nodes["n1"].count == 2
    for _ in range(4):  # echo takes 1 ms, it turns out
        running = next(t.id for t in w.state.tasks.values() if t.state.value == "placed")
        w.done(running, ms=1.0)
    held = w.state.nodes["n1"].count
    assert 20 < held <= 256
    for i in range(50):
        w.submit(f"s{i}", function="sleep")
    assert w.state.nodes["n1"].backlog_ms <= w.state.nodes["n1"].queue_ms


def test_memory_is_accounted() -> None:
    w = World()
    w.join("n1", cores=8, memory_mb=1000)
    for i in range(3):
        w.submit(f"t{i}", memory_mb=400)
    assert [placed_at(w, f"t{i}") for i in range(3)] == ["n1", "n1", "queued"]
    why = explain(w.state, "t2")
    assert why is not None
    assert why.against[0].reasons == ("200 of 1000 MiB of memory are free",)
    assert why.text == "every node that fits is busy"


def test_a_big_task_is_placed_though_small_ones_keep_flowing() -> None:
    """One node fits it, and small tasks keep that node busy: after a while it is kept free, and the big one starts."""
    w = World()
    w.join("n1", cores=4)
    w.submit("s-0")
    w.submit("big", function="big", cores=4.0)
    number = rounds = 0
    while rounds < 40:
        rounds += 1
        w.now += 0.25
        for _ in range(4):
            number += 1
            w.submit(f"s-{number}")
        running = [t.id for t in w.state.tasks.values() if t.state.value == "placed"]
        if "big" in running:
            break
        w.feed(Tick())
        w.done(running[0], ms=1000)
    assert placed_at(w, "big") == "n1"
    assert rounds > 4, "it had to wait for the reservation"
    w.done("big", ms=1000)
    assert w.state.nodes["n1"].reserved is None
    assert w.state.nodes["n1"].count == 4


def test_why_this_node_shows_the_factors_as_they_were() -> None:
    w = World()
    w.join("desktop")
    w.join("phone", device=battery(40))
    w.submit("t1")
    why = explain(w.state, "t1")
    assert why is not None
    assert [(c.node, c.score, c.chosen) for c in why.candidates] == [("desktop", 1.8, True), ("phone", 0.6, False)]
    assert why.candidates[1].factors == {"free_share": 1.0, "power": 0.6, "thermal": 1.0, "bandwidth": 1.0}
    w.done("t1")
    after = explain(w.state, "t1")
    assert after == why, "it can still be asked when the task is over"


def test_a_late_node_gets_work_within_the_next_step() -> None:
    w = World()
    w.join("n1", cores=1)
    for i in range(10):
        w.submit(f"t{i}")
    lines = w.join("n2", cores=4)
    assert sum(x.endswith("at n2") for x in lines) == 4


def test_sampling_finds_sparse_nodes_and_spreads() -> None:
    """One ready node of 10,000 is found from any start; of many, all are drawn in the long run."""
    rng = Random(1)
    assert all(sample(1 << 9_876, 10_000, rng.random()) == [9_876] for _ in range(100))
    everyone = (1 << 200) - 1
    drawn = {slot for _ in range(2000) for slot in sample(everyone, 200, rng.random())}
    assert drawn == set(range(200))
    assert all(len(set(sample(everyone, 200, rng.random()))) == tune.CANDIDATES for _ in range(50))


def test_a_pile_that_stands_still_leaves_room_for_others() -> None:
    """GPU tasks that find no slot move to the waiting place beyond a number, so that the intake window stays open."""
    w = World()
    w.join("gpu", cores=1, has_gpu=True, functions="big")
    w.join("cpu", cores=1)
    for i in range(tune.CLASS_WINDOW + 1):
        w.submit(f"g{i}", function="big", gpu=True)
    w.now += 3
    for i in range(40):
        w.submit(f"h{i}", function="big", gpu=True)
    assert w.state.parked == 40
    assert w.state.window[3] == tune.CLASS_WINDOW
    assert w.state.intake_room(3) > 1000
    w.submit("c1")
    assert placed_at(w, "c1") == "cpu"
    for _ in range(tune.CLASS_WINDOW + 41):  # nothing of the pile is lost, and its order is kept
        running = next(t.id for t in w.state.nodes["gpu"].attempts.values())
        w.done(running, ms=2000)
    assert set(w.states()) == {"c1"}
    assert w.state.parked == 0


def test_too_many_kinds_of_needs_wait_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "CLASSES_MAX", 3)
    w = World()
    w.join("n1", cores=1)
    for i in range(6):
        w.submit(f"t{i}", memory_mb=100 + i)
    assert "too many different kinds of needs" in w.state.tasks["t5"].reason
    for _ in range(6):
        running = next((t.id for t in w.state.tasks.values() if t.state.value == "placed"), None)
        if running:
            w.done(running, ms=2000)
        w.wait(1, beating=None)
    assert w.state.tasks == {}


def test_placing_costs_the_same_in_a_large_fleet() -> None:
    """Medians of one run, 100 nodes against 3,000; generous, since other work shares the machine."""

    def cost(nodes: int) -> float:
        w = World()
        for i in range(nodes):
            w.join(f"n{i}")
        rounds = []
        for r in range(30):
            events = [w.arrive(f"t{r}-{i}") for i in range(50)]
            start = time.process_time()
            w.feed(*events)
            rounds.append(time.process_time() - start)
            for i in range(50):
                w.done(f"t{r}-{i}", ms=0.3)
        return sorted(rounds)[len(rounds) // 2]

    small, large = cost(100), cost(3000)
    assert large < 2.5 * small


def test_ten_thousand_quick_tasks_flow_without_a_detour() -> None:
    """The intake window bounds what is held, nothing that flows goes to the waiting place, higher priorities go first."""
    w = World()
    w.join("n1", cores=4)
    w.join("n2", cores=4)
    waiting = {p: [(p, i) for i in range(2500)] for p in (10, 7, 3, 1)}
    ended: list[int] = []
    while len(ended) < 10_000:
        events = []
        for p, left in waiting.items():
            for _ in range(min(200, w.state.intake_room(p), len(left))):
                _, i = left.pop()
                events.append(w.arrive(f"t{p}-{i}", priority=p))
        w.feed(*events, Tick())
        running = [t for n in w.state.nodes.values() for t in n.attempts]
        assert running
        for task in running:
            ended.append(int(w.state.tasks[task].head.priority))
            w.done(task, ms=1.0)
        w.now += 0.05
    assert w.state.tasks == {}
    assert [x for x in w.log if "_waiting" in x][:3] == []
    ranks = {p: sum(i for i, x in enumerate(ended) if x == p) / 2500 for p in (10, 7, 3, 1)}
    assert ranks[10] < ranks[7] < ranks[3] < ranks[1]


def test_the_waiting_place_is_never_overfilled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "WAITING_MAX", 40)
    w = World()
    w.join("n1")
    for i in range(200):
        w.submit(f"t{i}", gpu=True, submitter=f"user{i}")
    assert w.state.parked == 40
    assert [w.state.intake_room(p) for p in (1, 3, 7, 10)] == [0] * 4
    w.feed(*(CancelAsked(f"t{i}") for i in range(10)))
    assert w.state.intake_room(3) == 10


def test_the_pile_of_one_submitter_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills its share of the waiting place; what is beyond stays in TASKS, besides the window, up to a limit."""
    monkeypatch.setattr(tune, "WAITING_MAX", 400)
    monkeypatch.setattr(tune, "STAY_MAX", 50)
    w = World()
    w.join("n1")
    for i in range(150):
        w.submit(f"ann{i}", gpu=True)
    assert w.state.parked == 100
    assert w.state.stayed[3] == 50
    assert w.state.intake_room(3) == 300, "as much as may yet have to wait"
    w.submit("bob1", gpu=True, submitter="bob")
    assert w.state.parked == 101
    w.submit("bob2", submitter="bob")
    assert placed_at(w, "bob2") == "n1"
    w.join("n2", has_gpu=True)
    w.wait(1, beating=None)
    for _ in range(200):
        for task in list(w.state.nodes["n2"].attempts):
            w.done(task)
    assert w.state.stayed[3] == 0
    assert w.state.parked == 0
    assert w.state.parked_by == {}


def test_a_priority_whose_tasks_cannot_wait_elsewhere_stops_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "WAITING_MAX", 10_000)
    monkeypatch.setattr(tune, "SUBMITTER_SHARE", 0.0)
    monkeypatch.setattr(tune, "STAY_MAX", 10)
    monkeypatch.setattr(tune, "PRIORITY_WINDOW", 200)
    w = World()
    n = 0
    while w.state.intake_room(3):
        n += 1
        w.submit(f"t{n}", gpu=True)
    assert n == 210
    w.wait(20)
    assert w.state.intake_room(3) == 0
    assert w.state.intake_room(7) == 200


def test_needs_that_no_node_meets_shut_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tasks wait without a class, which others need; once a node comes that could take them, they have one again."""
    monkeypatch.setattr(tune, "CLASSES_MAX", 8)
    w = World()
    w.join("n1")
    for i in range(30):
        w.submit(f"t{i}", labels={"room": str(i)})
    w.submit("good")
    assert placed_at(w, "good") == "n1"
    assert "room=0" in w.state.tasks["t0"].reason
    assert "t0" in w.state.aside
    w.wait(5, beating=None)
    assert len(w.state.aside) >= 20, "nobody looks at them while nothing has changed"
    w.join("n2", labels={"room": "0"})
    w.wait(1, beating=None)
    assert placed_at(w, "t0") == "n2"
    w.feed(*(CancelAsked(f"t{i}") for i in range(30)))
    assert set(w.states()) == {"good"}
    assert not w.state.aside
    assert not w.state.parked_by


def test_a_lost_node_that_is_back_gets_what_was_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "CLASSES_MAX", 4)
    w = World()
    w.join("n1", labels={"room": "3"})
    w.kill("n1")
    for i in range(20):
        w.submit(f"t{i}", labels={"room": str(i)})
    assert "t3" in w.state.aside
    w.beat("n1")
    w.wait(1, beating=None)
    assert placed_at(w, "t3") == "n1"


def test_a_retry_that_avoids_a_node_begins_with_what_is_known_of_the_same_needs() -> None:
    w = World()
    for name in ("a", "b", "c"):
        w.join(name, device=MAINS)
    w.join("phone", device=battery(10))
    w.submit("t1")
    head = w.state.tasks["t1"].head
    like, _ = w.state.classes.of(head, frozenset(), w.now)
    cls = classify(w.state, w.state.tasks["t1"], frozenset({"b", "gone"}), w.now)
    assert like and cls and cls.key != like.key
    bits = {name: node.bit for name, node in w.state.nodes.items()}
    assert (cls.could, cls.fits) == (like.could & ~bits["b"], like.fits & ~bits["b"])
    assert cls.fits == cls.ready == bits["a"] | bits["c"]
    looked = [cls.look_at(node) for node in w.state.nodes.values()]
    assert not any(looked) and cls.fits == bits["a"] | bits["c"], "a look at each node finds the same"
