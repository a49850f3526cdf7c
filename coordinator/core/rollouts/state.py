"""What the machine knows: rollouts, the devices in each by stage, what every device is told and what it reports."""

from __future__ import annotations

import heapq
from collections import Counter

from msgspec import structs

from coordinator.core.rollouts.actions import Action, Store
from coordinator.core.rollouts.batches import rank
from coordinator.core.rollouts.fit import Facts
from coordinator.core.rollouts.phases import Trigger
from schemas.rollout import AppReport, AppVersion, Assignment
from schemas.rollout_state import ENDED, Outcome, RolloutPhase, RolloutRecord, Stage

Out = list[Action]
TOUCHED = (Stage.TOLD, Stage.HEALTHY, Stage.FAILED)


class Device:
    """One device in one rollout. `since`: when its stage began; `heard`: it reported on what it was told; `before`: what was
    good on it when the rollout came; `failed`: the version failed on it, though it is back since. With `order` 0 it was told
    nothing (or is to be told anew)."""

    __slots__ = ("batch", "before", "failed", "heard", "node", "order", "reason", "since", "stage")

    def __init__(self, node: str, stage: Stage, since: float) -> None:
        self.node, self.stage, self.since = node, stage, since
        self.reason = ""
        self.batch = -1  # told in none yet
        self.order = 0
        self.before = ""
        self.heard = False
        self.failed = False


class Rollout:
    """One rollout: its record as it is (to be) stored, and its devices, counted by stage."""

    def __init__(self, record: RolloutRecord, revision: int) -> None:
        self.record = record
        self.revision = revision
        self.storing = False  # a write is under way: until it is confirmed nothing is decided that follows from it
        self.dirty = False  # something changed that the next write takes along
        self.devices: dict[str, Device] = {}
        self.by_stage: dict[Stage, dict[str, Device]] = {stage: {} for stage in Stage}
        self.in_batch: Counter[tuple[int, Stage]] = Counter()
        self.line: list[tuple[bytes, str]] = []  # a heap of those that wait; who left that stage is passed over
        self.in_line: set[str] = set()  # a device that comes and goes stands in it once
        self.to_return: dict[str, None] = {}  # RETURNING, and not told yet
        self.warm: dict[str, None] = {}  # told to keep the version before running, and not to end it yet
        self.asks: list[tuple[Trigger, str]] = []  # of operators, while a write is under way
        self.asked = False  # the cluster's decision was asked for
        self.stands_in: tuple[str, float] = ("", 0.0)  # for which newer one that ended, and since when

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.spec.id

    @property
    def app(self) -> str:
        """The app that it is about."""
        return self.record.spec.version.app

    @property
    def phase(self) -> RolloutPhase:
        """Where it is."""
        return self.record.phase

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.record.phase not in ENDED

    def count(self, *stages: Stage) -> int:
        """How many devices are in any of these."""
        found = 0
        for stage in stages:
            found += len(self.by_stage[stage])
        return found

    def age(self) -> tuple[float, str]:
        """By which the rollouts of an app are in order: the latest has the greatest."""
        return self.record.spec.created_at, self.id

    def holds(self, node: str) -> bool:
        """Whether the device has, or is to have, what this rollout told it."""
        device = self.devices.get(node)
        return device is not None and device.order > 0 and device.stage is not Stage.BACK

    def add(self, device: Device) -> Device:
        """Take a device in."""
        self.devices[device.node] = device
        self._enter(device)
        return device

    def drop(self, device: Device) -> None:
        """Forget a device."""
        self._leave(device)
        del self.devices[device.node]

    def move(self, device: Device, stage: Stage, now: float, reason: str = "", batch: int | None = None) -> None:
        """Put a device into another stage (and batch)."""
        self._leave(device)
        if batch is not None:
            device.batch = batch
        if device.stage is not stage:
            device.since = now
        device.stage, device.reason = stage, reason
        self._enter(device)

    def _enter(self, device: Device) -> None:
        self.by_stage[device.stage][device.node] = device
        self.in_batch[device.batch, device.stage] += 1
        if device.stage is Stage.WAITING and device.node not in self.in_line:
            self.in_line.add(device.node)
            first = b"" if device.failed else rank(self.id, device.node)  # a retry is for the failed ones
            heapq.heappush(self.line, (first, device.node))

    def _leave(self, device: Device) -> None:
        del self.by_stage[device.stage][device.node]
        self.in_batch[device.batch, device.stage] -= 1

    def next_waiting(self) -> Device | None:
        """The next one in the line, taken out of it."""
        while self.line:
            _, node = heapq.heappop(self.line)
            self.in_line.discard(node)
            device = self.by_stage[Stage.WAITING].get(node)
            if device is not None:
                return device
        return None

    def of_batch(self, batch: int, *stages: Stage) -> int:
        """How many devices of that batch are in any of these."""
        return sum(self.in_batch[batch, stage] for stage in stages)

    def save(self, out: Out, record: RolloutRecord) -> None:
        """Have this written. Only while no write is under way."""
        self.record, self.storing, self.dirty = record, True, False
        out.append(Store(record, self.revision))

    def progress(self, now: float) -> None:
        """A device became healthy."""
        self.record = structs.replace(self.record, progress_at=now)
        self.dirty = True


class Told:
    """What a device is told of an app: as stored at `revision`, or being written."""

    __slots__ = ("assignment", "revision", "writing")

    def __init__(self, assignment: Assignment | None, revision: int) -> None:
        self.assignment, self.revision = assignment, revision
        self.writing = False

    @property
    def order(self) -> int:
        """The number of the latest decision; 0: none ever."""
        return self.assignment.order if self.assignment else 0


class Rollouts:
    """The machine's whole state. `term` is 0 until it acts; it has `looked` once every node that is known was seen in that term
    (at its first tick): until then nobody seems to wait, and a rollout would believe that it has told all."""

    def __init__(self) -> None:
        self.term = 0
        self.looked = False
        self.nodes: dict[str, Facts] = {}
        self.versions: dict[tuple[str, str], AppVersion] = {}
        self.rollouts: dict[str, Rollout] = {}
        self.current: dict[str, Rollout] = {}  # of each app, the latest
        self.told: dict[tuple[str, str], Told] = {}
        self.reports: dict[tuple[str, str], AppReport] = {}
        self.outcomes: dict[str, dict[str, Outcome]] = {}  # found while taking over, of rollouts

    def told_of(self, node: str, app: str) -> Told:
        """What a device is told of an app, to be changed."""
        told = self.told.get((node, app))
        if told is None:
            told = self.told[node, app] = Told(None, 0)
        return told

    def history(self, app: str) -> list[Rollout]:
        """Every rollout of an app, the latest first."""
        of_app = [rollout for rollout in self.rollouts.values() if rollout.app == app]
        return sorted(of_app, key=Rollout.age, reverse=True)

    def stable(self, app: str) -> AppVersion | None:
        """The version of the latest rollout that succeeded."""
        rollout = self._latest_good(app)
        return rollout.record.spec.version if rollout else None

    def working(self, app: str) -> tuple[Rollout, ...]:
        """Those by which devices are told what to have: the latest; and when that ended without success the stable one behind
        it, which stands in for it: late devices get what the others went back to."""
        current = self.current.get(app)
        if current is None:
            return ()
        if current.active or current.phase is RolloutPhase.SUCCEEDED:
            return (current,)
        good = self._latest_good(app)
        return (current, good) if good else (current,)

    def _latest_good(self, app: str) -> Rollout | None:
        good = (r for r in self.rollouts.values() if r.app == app and r.phase is RolloutPhase.SUCCEEDED)
        return max(good, key=Rollout.age, default=None)

    def good_on(self, node: str, app: str) -> str:
        """The version that was last healthy on a device, as far as it said or was recorded; "" when none is known."""
        report = self.reports.get((node, app))
        if report is not None and report.good:
            return report.good
        told = self.told.get((node, app))
        if told is None or told.assignment is None:
            return ""
        rollout = self.rollouts.get(told.assignment.rollout)
        device = rollout.devices.get(node) if rollout is not None else None
        if rollout is not None and device is not None and device.stage is Stage.HEALTHY:
            return rollout.record.spec.version.version
        return told.assignment.before
