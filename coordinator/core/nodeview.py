"""A node as the coordinator sees it: its record, its last known state, its accounts. Plain attributes, no decisions."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import UNSET, structs

from coordinator.core import tune
from schemas import limits
from schemas.advice import Limits, PowerMode
from schemas.device import HOT, DeviceState, NetworkQuality, NetworkType, ThermalState
from schemas.enforced import Enforced
from schemas.membership import NodeRecord, NodeState

if TYPE_CHECKING:
    from coordinator.core.classes import NeedsClass
    from coordinator.core.record import TaskRecord

LONG_MIN = tune.BATTERY_LONG_MIN
CRITICAL = PowerMode.CRITICAL.value
_LOST = NodeState.LOST  # asked at every result; see `record.QUEUED`
STATE_FIELDS = DeviceState.__struct_fields__
NO_CHANGE = DeviceState()
# What its score (score.py) and its seat in a cluster depend on. Memory and charge count in steps: an election needs more.
STANDING = frozenset({
    "ram_available_mb", "battery_percent", "is_charging", "mains", "network_quality", "network_gateway", "network_peers",
})  # fmt: skip
RAM_STEP_MB, RAM_MAX_MB, PERCENT_STEP = 256, 4096, 5
BANDWIDTH = {
    NetworkQuality.EXCELLENT: 1.0,
    NetworkQuality.GOOD: 0.8,
    NetworkQuality.FAIR: 0.6,
    NetworkQuality.POOR: 0.3,
    NetworkQuality.OFFLINE: 0.1,
}
UNKNOWN_BANDWIDTH = 0.6


class NodeView:
    """One node. `bit` is its place in every class's bitset; `device` its merged `DeviceState`.

    `slots` and `memory_now` are what its offer and its limits leave.
    Accounts: `cores_free` and `memory_free` go below zero by what is queued; `backlog_ms` is estimated core-milliseconds.
    """

    __slots__ = (
        "asleep", "attempts", "backlog_ms", "bad_messages", "bandwidth", "battery_min", "beat_seq", "bit", "blocked", "boot",
        "clock_ahead_s", "closed_at", "closed_for", "clusters", "cores", "cores_free", "count", "device", "done",
        "drain_wanted", "drained", "enforced", "events", "failed", "functions", "gone_at", "harvest_state", "heard_at",
        "hold_s", "id", "idle", "interval_s", "kinds", "last_beat", "left", "limits", "look_again_at", "memory_free",
        "memory_mb", "memory_now", "missed", "next_due", "orphans", "outbox", "outbox_held", "outbox_since", "power",
        "power_mode", "queue_ms", "record", "relayed", "relieved_at", "reported_at", "reserved", "restood", "resume_asked_at",
        "revision", "self_draining", "slot", "slots", "speed", "state", "thermal", "timed_at", "unacked",
    )  # fmt: skip

    def __init__(self, record: NodeRecord, slot: int, interval_s: float) -> None:
        self.id = record.node
        self.slot = slot
        self.bit = 1 << slot
        self.revision = 0
        self.boot = record.boot
        self.state = NodeState.LATE
        self.drained = record.drained
        self.drain_wanted: bool | None = None  # what an operator asked for, until it is stored
        self.self_draining = False
        self.left = False
        self.gone_at = 0.0
        self.device = DeviceState()
        self.restood = False  # what its standing depends on has changed, and nobody was told
        self.events = 0
        self.power_mode = self.harvest_state = ""
        self.enforced = Enforced()
        self.clusters: frozenset[str] = frozenset()  # that it is in, as the clusters' area says
        self.interval_s = interval_s
        self.next_due = self.last_beat = self.reported_at = 0.0
        self.beat_seq = -1
        self.relayed = False  # its last beat came by way of its cluster's leader
        self.missed = 0
        self.asleep = False
        self.closed_at = 0.0  # when its connection closed; 0 once it is heard again
        self.heard_at = 0.0
        self.look_again_at = 0.0  # when it is probed once more, since many connections closed with its own
        self.timed_at = float("inf")  # when its alarm rings
        self.orphans: frozenset[tuple[str, int]] = frozenset()
        self.bad_messages = 0
        self.closed_for = ""  # why it takes no work by itself, besides what harvesting says
        self.hold_s = 0.0  # for how long what ends there may wait for its next beat
        self.outbox_held = 0  # of its outbox, those that it holds for a batch
        self.outbox, self.outbox_since = 0, 0.0  # what it keeps that the broker has not taken, and since when
        self.clock_ahead_s: float | None = None  # its clock against ours at its last beat; the way counts as *behind*
        self.resume_asked_at = 0.0  # when it was told to take work again, until it says that it does
        self.attempts: dict[str, TaskRecord] = {}
        self.unacked: deque[int] = deque(maxlen=limits.NODE_QUEUE_MAX)  # WORK of its last successes: left to it to ack
        self.relieved_at = 0.0  # when it was last asked to give waiting tasks back
        self.blocked: dict[NeedsClass, None] = {}
        self.reserved: tuple[NeedsClass, int] | None = None
        self.count = 0
        self.backlog_ms = 0.0
        self.speed = 1.0
        self.done = self.failed = 0
        self.cores = self.cores_free = 0.0
        self.memory_mb = self.memory_free = 0
        self.memory_now = 0  # what of `memory_mb` may be held now
        self.battery_min = tune.BATTERY_MIN  # what an operator's policy makes of it
        self.limits: Limits | None = None  # what it holds its work to, as its last beat said
        self.accept(record)
        self.derive()

    def accept(self, record: NodeRecord) -> None:
        """Take a new record; what is held stays charged."""
        offer = record.offer
        self.record = record
        self.boot = record.boot
        self.drained = record.drained
        self.cores_free += offer.cores - self.cores
        self.cores, self.memory_mb = offer.cores, offer.memory_mb
        self._fit_to_limits()
        self.functions = frozenset(f.name for f in offer.functions)
        self.kinds = frozenset(offer.kinds)

    def limit(self, limits: Limits | None) -> None:
        """Take the limits that it holds its work to now."""
        self.limits = limits
        self._fit_to_limits()

    def _fit_to_limits(self) -> None:
        """Slots, memory and queue: what is offered, as far as its limits allow it now."""
        offer, limits = self.record.offer, self.limits
        self.slots = offer.slots if limits is None else min(offer.slots, limits.tasks)
        memory = offer.memory_mb if limits is None else min(offer.memory_mb, limits.memory_mb)
        self.memory_free += memory - self.memory_now
        self.memory_now = memory
        self.queue_ms = tune.QUEUE_MS * min(offer.cores, self.slots)

    def merge(self, change: DeviceState) -> bool:
        """Take what a beat changed; True if it may matter for placing."""
        if change == NO_CHANGE:
            return False
        changes = {name: value for name in STATE_FIELDS if (value := getattr(change, name)) is not UNSET}
        if not changes:
            return False
        before, standing = self.fitness(), None if STANDING.isdisjoint(changes) else self.standing()
        self.device = structs.replace(self.device, **changes)
        self.derive()
        if standing is not None and standing != self.standing():
            self.restood = True
        return before != self.fitness()

    def fitness(self) -> tuple[object, ...]:
        """The part of the device's state that filters look at: while it stays, no bitset changes."""
        d = self.device
        percent = d.battery_percent
        level = None if percent is None or percent is UNSET else (percent >= self.battery_min) + (percent >= LONG_MIN)
        storage = d.storage_free_mb
        rough = storage // 256 if isinstance(storage, int) else None
        return (
            self.power_mode == CRITICAL,
            level,
            d.is_charging,
            d.mains,
            d.thermal_state in HOT,
            d.network_metered,
            d.network_type,
            rough,
        )

    def standing(self) -> tuple[object, ...]:
        """The part of the device's state by which it is grouped and elected, in steps."""
        d = self.device
        ram, percent = d.ram_available_mb, d.battery_percent
        return (
            min(ram, RAM_MAX_MB) // RAM_STEP_MB if isinstance(ram, int) else None,
            percent // PERCENT_STEP if isinstance(percent, int | float) else None,
            d.is_charging,
            d.mains,
            d.network_quality,
            d.network_gateway,
            d.network_peers,
        )

    def derive(self) -> None:
        """Work out the factors by which this node is ranked."""
        d = self.device
        self.power = power_factor(d)
        self.thermal = 0.8 if d.thermal_state is ThermalState.WARM or d.thermal_state is None else 1.0
        quality = d.network_quality
        self.bandwidth = BANDWIDTH[quality] if isinstance(quality, NetworkQuality) else UNKNOWN_BANDWIDTH
        load = d.cpu_utilization
        cpu = self.record.capabilities.cpu_cores
        held = (self.cores - self.cores_free) / cpu
        foreign = max(0.0, load - held) if isinstance(load, float | int) else 0.0
        self.idle = max(0.05, 1.0 - foreign)

    def takes_work(self) -> bool:
        """Whether new work may be placed here at all."""
        return self.state is NodeState.ONLINE

    def is_lost(self) -> bool:
        """Whether it was given up."""
        return self.state is _LOST

    @property
    def shown(self) -> NodeState:
        """Its state as people are told it: one that said goodbye is not called lost."""
        return NodeState.LEFT if self.left and self.state is NodeState.LOST else self.state

    def next_event(self, what: str, term: int) -> str:
        """The key of this node's next event: ``<node>.<boot>.<what>.<term>.<n>``. Each term counts anew."""
        self.events += 1
        return f"{self.id}.{self.boot}.{what}.{term}.{self.events}"

    def silence_s(self) -> float:
        """How long this node may be silent, from its last beat on, before it is lost."""
        return limits.BEATS_MISSED * self.interval_s


def power_factor(d: DeviceState) -> float:
    """SPEC 2.4: mains 1.8, charging 1.5, battery under 20 % 0.2, under 50 % (or unknown) 0.6, else (or not told yet) 1."""
    if d.mains is True:
        return 1.8
    if d.is_charging is True:
        return 1.5
    percent = d.battery_percent
    if percent is UNSET or (percent is not None and percent >= 50):
        return 1.0
    if percent is None:
        return 0.6
    return 0.2 if percent < 20 else 0.6


def metered(d: DeviceState) -> bool:
    """Whether traffic costs its owner: said so, or cellular and nothing said."""
    return d.network_metered is True or (d.network_metered is not False and d.network_type is NetworkType.CELLULAR)
