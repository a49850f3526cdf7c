"""A world for the rollouts' machine: devices that flap, dawdle, defer and lie, a broker that keeps, coordinators that die.

Virtual time, one seed, no I/O. After every step the world checks what must always hold; `Broken` says what did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from coordinator.core.rollouts import actions, events
from coordinator.core.rollouts.fit import Facts
from coordinator.core.rollouts.machine import step
from coordinator.core.rollouts.phases import Trigger
from coordinator.core.rollouts.state import Rollout, Rollouts
from schemas.device import DeviceCapabilities, DeviceState, NetworkQuality
from schemas.rollout import (
    AppNeeds,
    AppReport,
    AppVersion,
    Assignment,
    DataOnly,
    Health,
    Phase,
    Strategy,
    StrategyKind,
    Targets,
    Told,
)
from schemas.rollout_state import ENDED, Outcome, RolloutPhase, RolloutRecord, RolloutSpec, Stage
from tests.core.agenda import Agenda

APP = "model"
CATCH_UP_S = 1200.0  # most that flap come within it, and some expire
CHATTY = 0.05  # of the devices say every half minute how they are, also when nothing is new


class Broken(AssertionError):
    """Something that must always hold did not."""


def version_of(name: str, **more: object) -> AppVersion:
    return AppVersion(APP, name, "sha256-" + "0" * 64, 1000, DataOnly(), AppNeeds(), Health(**more))  # type: ignore[arg-type]


def facts_of(node: str, *, online: bool = True, battery: float | None = None, cores: int = 4, **labels: str) -> Facts:
    state = DeviceState(
        mains=battery is None, battery_percent=battery, is_charging=None if battery is None else False,
        network_metered=False, network_quality=NetworkQuality.GOOD, network_latency_ms=20.0,
    )  # fmt: skip
    return Facts(node, 1, online, DeviceCapabilities(cpu_cores=cores), state, labels)


@dataclass
class Player:
    """A device: what it has, how it behaves. `bad`: versions that never become healthy on it."""

    name: str
    bad: frozenset[str] = frozenset()
    slow_s: float = 1.0
    lies: bool = False
    defers: float = 0.0  # the share of assignments that it puts off for a while by itself
    wakes_s: float = 0.0  # after which it goes on; 0: at random, within a minute
    online: bool = True
    seen: int = 0
    good: str = ""
    running: str = ""
    phase: Phase | None = None
    order: int = 0
    version: str = ""
    told_of: dict[int, tuple[Told, str]] = field(default_factory=dict)
    said: events.Reported | None = None  # how it is, until that changes

    def says(self, order: int, phase: Phase, version: str, running: str, good: str) -> events.Reported:
        """A report of it."""
        return events.Reported(AppReport(self.name, 1, APP, order, phase, version, running, good))


class World:
    """Everything that happens, in order of time. `rng` decides delays, flaps, losses and crashes."""

    def __init__(self, seed: int, players: list[Player], *, flap: float = 0.0, loss: float = 0.0) -> None:
        self.rng = Random(seed)
        self.now = 1_000_000.0
        self.players = {player.name: player for player in players}
        self.flap, self.loss = flap, loss
        self.lives = False
        self._facts: dict[tuple[str, bool], Facts] = {}
        self.agenda = Agenda()
        self.changed = False  # something that a caller of `run` may wait for
        # what the broker keeps
        self.records: dict[str, tuple[RolloutRecord, int]] = {}
        self.assigned: dict[str, tuple[Assignment, int]] = {}
        self.outcomes: dict[tuple[str, str], Outcome] = {}
        self.versions: dict[str, AppVersion] = {}
        self.revision = 0
        self.asked: list[actions.Ask] = []
        self.said: list[actions.Emit] = []
        self.life = 0
        self.batches: dict[str, int] = {}  # of each rollout, as this life last looked at it
        self.state = Rollouts()
        self.take_over()

    # Time.

    def after(self, seconds: float, what: Callable[..., object], *args: object) -> None:
        self.agenda.put(self.now + seconds, what, args)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end, self.changed = self.now + seconds, True
        while not (self.changed and until()):
            self.changed = False
            if (entry := self.agenda.take(end)) is None:
                self.now = end
                return
            self.now, _, what, args = entry
            what(*args)

    def start_ticking(self, every_s: float = 1.0) -> None:
        def tick(life: int) -> None:
            if life == self.life:
                self.give(events.Tick())
                self.after(every_s, tick, life)

        tick(self.life)

    # The coordinator.

    def take_over(self) -> None:
        """A new coordinator: nothing but what the broker keeps."""
        self.life += 1
        self.state = Rollouts()
        # decided, and checked, before
        self.batches = {name: record.batch for name, (record, _) in self.records.items()}
        for version in self.versions.values():
            self.give(events.VersionFound(version))
        for record, revision in self.records.values():
            self.give(events.RolloutFound(record, revision))
        for (rollout, _), outcome in self.outcomes.items():
            self.give(events.OutcomeFound(rollout, outcome))
        for node, (assignment, revision) in self.assigned.items():
            self.give(events.AssignmentFound(node, APP, assignment, revision))
        self.give(events.TakenOver(self.life))
        for player in self.players.values():
            self.see(player)
            self.report(player)
        self.start_ticking()

    def give(self, event: events.Event) -> None:
        wanted = step(self.state, event, self.now)
        for action in wanted:
            self._do(action)
        if wanted:
            self.changed = True
            self.check()

    def _give_to(self, life: int, event: events.Event) -> None:
        """Give the event to the coordinator of that life, if it still acts."""
        if life == self.life:
            self.give(event)

    def see(self, player: Player) -> None:
        """The coordinator sees whether the device is there."""
        key = player.name, player.online
        facts = self._facts.get(key) or self._facts.setdefault(key, facts_of(player.name, online=player.online))
        self.give(events.NodeSeen(facts))

    def create(self, name: str, version: AppVersion, kind: str = "canary", **strategy: object) -> str:
        self.versions[version.version] = version
        spec = RolloutSpec(name, version, Targets(), Strategy(StrategyKind(kind), **strategy))  # type: ignore[arg-type]
        self.give(events.VersionFound(version))
        self.give(events.Created(spec))
        return name

    def ask(self, rollout: str, trigger: Trigger) -> None:
        self.give(events.Asked(rollout, trigger))

    def _do(self, action: actions.Action) -> None:
        life, delay_s = self.life, self.rng.uniform(0.001, 0.05)
        match action:
            case actions.Store():
                self.after(delay_s, self._store, life, action)
            case actions.Assign():
                self.after(delay_s, self._assign, life, action)
            case actions.StoreOutcome(rollout, outcome):
                self.after(delay_s, self.outcomes.__setitem__, (rollout, outcome.node), outcome)
            case actions.Look(node, app):
                held = self.assigned.get(node)
                found = events.AssignmentFound(node, app, *(held or (None, 0)))
                self.after(delay_s, self._give_to, life, found)
            case actions.Ask():
                self.asked.append(action)
            case actions.Emit():
                self.said.append(action)

    def _store(self, life: int, action: actions.Store) -> None:
        name = action.record.spec.id
        if self.records.get(name, (None, 0))[1] != action.revision:
            if life == self.life:  # a write of the one before was still on its way: begin anew, as the shell does
                self.take_over()
            return
        self.revision += 1
        revision = self.revision
        self.records[name] = (action.record, revision)
        self.after(0.001, self._give_to, life, events.Stored(name, revision))

    def _assign(self, life: int, action: actions.Assign) -> None:
        held = self.assigned.get(action.node)
        if (held[1] if held else 0) != action.revision:
            found = events.AssignmentFound(action.node, APP, *(held or (None, 0)))
            self.after(0.001, self._give_to, life, found)
            return
        if held is not None and action.assignment.order <= held[0].order:
            raise Broken(f"{action.node} is told {action.assignment.order} after {held[0].order}")
        self.late += life != self.life
        self.revision += 1
        revision = self.revision
        self.assigned[action.node] = (action.assignment, revision)
        done = events.Assigned(action.node, APP, action.assignment.order, revision)
        self.after(0.001, self._give_to, life, done)
        if self.rng.random() >= self.loss:
            self.after(self.rng.uniform(0.001, 0.1), self.deliver, action.node)
        elif self.lives:  # it is told again after its next report
            self.after(self.rng.uniform(20, 40), self.deliver, action.node)

    # Devices.

    def deliver(self, node: str) -> None:
        """The device reads what it is told."""
        player, held = self.players[node], self.assigned.get(node)
        if not player.online or held is None or held[0].order <= player.order:
            return
        a = held[0]
        what = (a.told, a.version.version if a.version else "")
        if player.told_of.setdefault(a.order, what) != what:
            raise Broken(f"{node} was told two things as number {a.order}")
        player.order, player.version, player.said = a.order, what[1], None
        was, player.phase = player.phase, None  # of this order there is nothing to say yet
        if a.told is Told.REMOVE:
            player.running = player.good = ""
            self.become(player, a.order, Phase.REMOVED, 0.1)
        elif player.running == player.version and was is Phase.HEALTHY:
            self.become(player, a.order, Phase.HEALTHY, 0.01)
        elif self.rng.random() < player.defers:
            self.become(player, a.order, Phase.DEFERRED, 0.1)
            self.after(player.wakes_s or self.rng.uniform(5, 60), self.install, player, a.order)
        else:
            self.install(player, a.order)

    def install(self, player: Player, order: int) -> None:
        self.become(player, order, Phase.DOWNLOADING, 0.1)
        good = player.version not in player.bad
        took_s = player.slow_s * self.rng.uniform(0.5, 1.5)
        self.become(player, order, Phase.HEALTHY if good else Phase.FAILED, took_s)

    def become(self, player: Player, order: int, phase: Phase, after_s: float) -> None:
        self.after(after_s, self._became, player, order, phase)

    def _became(self, player: Player, order: int, phase: Phase) -> None:
        if player.order != order:
            return
        player.phase, player.said, self.changed = phase, None, True
        if phase is Phase.HEALTHY:
            player.running = player.good = player.version
        self.report(player)
        if self.lives:  # said again soon, as devices do: reports may come late, and in another order
            self.after(self.rng.uniform(20, 40), self.report, player)

    def report(self, player: Player) -> None:
        if not player.online or player.phase is None:
            return
        said = player.said or player.says(player.order, player.phase, player.version, player.running, player.good)
        player.said = said
        times = 0 if self.rng.random() < self.loss else 2 if self.rng.random() < self.loss else 1
        for _ in range(times):
            self.after(self.rng.uniform(0, 0.5), self._give_to, self.life, said)
        if not times and self.lives:
            self.after(self.rng.uniform(20, 40), self.report, player)
        if player.lies:
            self.give(player.says(player.order + self.rng.choice((-1, 1)), Phase.HEALTHY, "x", "x", "x"))

    def live(self) -> None:
        """Devices flap, and read what they missed when they are back. Of what nobody missed most say little again: a world of
        10,000 would be about nothing else."""
        self.lives = True
        for player in self.players.values():
            every_s = 30.0 if self.rng.random() < CHATTY else 600.0
            self.after(self.rng.uniform(0, 30), self._beat, player, every_s)
            self._flap_later(player)

    def _beat(self, player: Player, every_s: float) -> None:
        self.deliver(player.name)
        self.report(player)
        self.after(every_s * self.rng.uniform(0.7, 1.3), self._beat, player, every_s)

    def _flap_later(self, player: Player) -> None:
        """One chance in each half minute, drawn at once."""
        if self.flap:
            halves = math.log(1.0 - self.rng.random()) / math.log(1.0 - self.flap)
            self.after(30.0 * halves, self._flap, player)

    def _flap(self, player: Player) -> None:
        player.online = not player.online
        self.see(player)
        self.deliver(player.name)
        self.report(player)
        self._flap_later(player)

    # What must always hold.

    def check(self) -> None:
        """Never on past a gate that must be closed, and never more than the batch: those spent of it are on their way, have
        ended, or put it off and go on by themselves."""
        for rollout in self.state.rollouts.values():
            quota = rollout.record.quota
            if rollout.phase is RolloutPhase.ROLLING and quota:
                spent = rollout.of_batch(rollout.record.batch, Stage.TOLD, Stage.HEALTHY, Stage.FAILED, Stage.DEFERRED)
                self.fullest = max(self.fullest, spent / quota)
                if spent > quota + self.late:
                    raise Broken(f"{rollout.id}: {spent} devices are in a batch of {quota}")
            begun, self.batches[rollout.id] = self.batches.get(rollout.id, 0), rollout.record.batch
            if rollout.record.batch > begun and not rollout.record.agreed:
                self._check_gate(rollout)

    def _check_gate(self, rollout: Rollout) -> None:
        """Nobody is told in a further batch unless enough of those that tried it are healthy."""
        healthy, failed = rollout.count(Stage.HEALTHY), rollout.count(Stage.FAILED)
        if not healthy or failed > rollout.record.spec.strategy.max_failed_share * (healthy + failed):
            raise Broken(
                f"{rollout.id}: goes on to batch {rollout.record.batch} with {healthy} healthy, {failed} failed"
            )

    fullest = 0.0  # of a batch, which share was told at most
    late = 0  # writes of a coordinator that was dead already; its successor had told others

    def ended(self, rollout: str) -> bool:
        return self.state.rollouts[rollout].phase in ENDED

    def phase(self, rollout: str) -> RolloutPhase:
        return self.state.rollouts[rollout].phase

    def running(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for player in self.players.values():
            found[player.running] = found.get(player.running, 0) + 1
        return found


def random_world(seed: int, count: int, bad: float = 0.03) -> World:
    """Flapping, slow, deferring and lying devices, lost and doubled messages, and a coordinator that dies."""
    rng = Random(seed)
    players = [
        Player(
            f"n{i}",
            bad=frozenset({"v2"}) if rng.random() < bad else frozenset(),
            slow_s=rng.choice((0.5, 2.0, 20.0)),
            lies=rng.random() < 0.1,
            defers=0.2 if rng.random() < 0.2 else 0.0,
        )
        for i in range(count)
    ]
    return World(seed, players, flap=rng.choice((0.0, 0.05, 0.2)), loss=rng.choice((0.0, 0.1)))


def play(seed: int, count: int, crashes: int, bad: float = 0.03) -> World:
    """One random world from its first version to the end of its second, which is bad on a share of the devices."""
    rng = Random(seed + 1)
    world = random_world(seed, count, bad)
    world.live()
    world.create("r1", version_of("v1"), kind="rolling", max_concurrent=count, catch_up_s=CATCH_UP_S)
    world.run(8000, lambda: world.ended("r1"))
    assert world.ended("r1")
    kind = rng.choice(("canary", "blue-green", "rolling"))
    world.create(
        "r2", version_of("v2"), kind=kind, max_concurrent=max(2, count // 8), between_s=5.0, catch_up_s=CATCH_UP_S
    )
    world.run(1.0)
    for _ in range(crashes):
        world.run(rng.uniform(1, 400), lambda: world.ended("r2"))
        world.take_over()
    world.run(9000, lambda: world.ended("r2"))
    assert world.ended("r2"), f"seed {seed}: it has not ended but is {world.phase('r2')}"
    if world.phase("r2") is RolloutPhase.FAILED:
        world.run(3600)
        stuck = [p.name for p in world.players.values() if p.online and p.running == "v2"]
        assert stuck == [], f"seed {seed}: a failed rollout left its version on {stuck}"
    return world
