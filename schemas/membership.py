"""What a node and the coordinator say to each other about the node itself: registration, heartbeats, commands."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.advice import Advice, Limits
from schemas.device import DeviceCapabilities, DeviceState, FunctionOffer
from schemas.enforced import Enforced
from schemas.harvest import HarvestReport
from schemas.names import Id
from schemas.transport import OutboxReport


class NodeState(StrEnum):
    """A node as the coordinator sees it."""

    ONLINE = "online"
    LATE = "late"
    LOST = "lost"
    ASLEEP = "asleep"
    DRAINING = "draining"
    LEAVING = "leaving"
    LEFT = "left"  # as LOST, but it went by itself; only ever shown


class Offer(Struct, frozen=True, omit_defaults=True):
    """What the owner lets the fleet use. `cores` and `memory_mb` are what tasks may hold at a time, `slots` their number."""

    cores: Annotated[float, Meta(gt=0, le=4096)] = 1.0
    memory_mb: Annotated[int, Meta(ge=0)] = 0
    slots: Annotated[int, Meta(ge=1, le=limits.NODE_QUEUE_MAX)] = 1
    labels: Annotated[dict[str, str], Meta(max_length=limits.LABELS_MAX)] = {}
    functions: Annotated[tuple[FunctionOffer, ...], Meta(max_length=limits.FUNCTIONS_MAX)] = ()
    kinds: tuple[str, ...] = ("function", "map")  # what may run here; "command" needs the owner's yes
    cache_mb: Annotated[int, Meta(ge=0, le=1 << 20)] = 0  # memory for the cluster's cache


class Held(Struct, frozen=True, array_like=True):
    """An attempt that a node holds: ``[task, placement, running]``."""

    task: str
    placement: int
    running: bool


class Register(Struct, frozen=True, omit_defaults=True):
    """Request on ``register.<node>``. Sent twice: without a signature it is answered by a challenge, then with one.

    `key` is the node's public nkey; `signature` (base64) signs ``<node>:<session>:<challenge>`` with it.
    `session` is random, made at each start of the daemon: the same session again is the same boot.

    Whether it takes work now, and how much of its offer, is said here as in a `Heartbeat`: between this and its first beat it
    may be given some. That operators drained it is not `draining` here: the answer says whether that still holds.
    """

    node: Id
    key: Annotated[str, Meta(pattern=r"^U[A-Z2-7]{55}$")]
    session: Id
    capabilities: DeviceCapabilities
    offer: Offer
    state: DeviceState
    challenge: Annotated[str, Meta(max_length=128)] = ""
    signature: Annotated[str, Meta(max_length=128)] = ""
    held: tuple[Held, ...] = ()
    version: Annotated[str, Meta(max_length=32)] = ""
    asleep_s: Annotated[float, Meta(ge=0, le=limits.SLEEP_MAX_S)] = 0.0
    draining: bool = False
    closed_for: Annotated[str, Meta(max_length=limits.REASON_MAX)] = ""
    harvest_state: str = ""
    power_mode: str = ""
    limits: Limits | None = None
    battery_min: Annotated[float, Meta(ge=0, le=100)] = 0.0


class Registered(Struct, frozen=True, omit_defaults=True):
    """The answer to `Register`: a `challenge` to sign, a refusal (`error`, `hint`), or the terms of membership.

    The node beats every `interval_s`, stamps its messages with `boot`, drops what it holds and `keep` does not list, and
    refuses commands of a term below `term`. Unless operators have it `drained`, it takes work again: it may have missed the
    *resume* that a coordinator sent before it was killed.
    """

    challenge: str = ""
    error: str = ""
    hint: str = ""
    boot: int = 0
    term: int = 0
    interval_s: float = limits.HEARTBEAT_S
    keep: tuple[str, ...] = ()
    drained: bool = False


class Heartbeat(Struct, frozen=True, omit_defaults=True):
    """On ``heartbeat.<node>``. Only what changed since the beat before; `full` when nothing was left out.

    `next_due_s`: the next beat comes within this many seconds (a sleeper announces its gap with `asleep`).
    `held`: every attempt here, running or queued. `seen_seq`: the highest FOG_WORK sequence that arrived here, so that
    accounts are only ever repaired for older ones. `leaving`: the daemon is going down by itself. `outbox`: how many results
    and outcomes it keeps that the broker has not taken yet, the oldest made at `outbox_since` (seconds since 1970);
    `outbox_held` of them only wait for a batch; `hold_s`: for how long what ends here may wait for the next beat, before its
    result comes; `closed_for` says why it takes no more work because of them.
    `enforced`: how it holds work to limits; None: as said before.
    `limits`: what the work here is held to, when that has changed. `battery_min`: the percent under which an operator's
    policy wants no new work here while it does not charge (0: the usual).
    """

    node: Id
    boot: Annotated[int, Meta(ge=1)]
    seq: Annotated[int, Meta(ge=0)]
    sent_at: float
    next_due_s: Annotated[float, Meta(gt=0, le=limits.SLEEP_MAX_S)] = limits.HEARTBEAT_S
    full: bool = False
    asleep: bool = False
    draining: bool = False
    leaving: bool = False
    seen_seq: Annotated[int, Meta(ge=0)] = 0
    held: Annotated[tuple[Held, ...], Meta(max_length=limits.HELD_MAX)] = ()
    state: DeviceState = DeviceState()
    offer: Offer | None = None
    power_mode: str = ""
    limits: Limits | None = None
    battery_min: Annotated[float, Meta(ge=0, le=100)] = 0.0
    harvest_state: str = ""
    bad_messages: int = 0
    outbox: Annotated[int, Meta(ge=0)] = 0
    outbox_since: float = 0.0
    outbox_held: Annotated[int, Meta(ge=0)] = 0
    hold_s: Annotated[float, Meta(ge=0)] = 0.0
    closed_for: Annotated[str, Meta(max_length=limits.REASON_MAX)] = ""
    enforced: Enforced | None = None


class Renewed(Struct, frozen=True, omit_defaults=True):
    """The answer to a heartbeat that was sent as a request, as a node does while it holds exclusive work, and once after each
    reconnect: it is known by its `boot`, to the coordinator of `term`.

    The node may run each of these attempts (``[task, placement]``) until `lease_s` after it *sent* that beat, by its own
    clock; others it may not start, and stops when what it was granted earlier ends.
    """

    term: int
    boot: int
    lease_s: Annotated[float, Meta(gt=0, le=3600)]
    tasks: tuple[tuple[str, int], ...] = ()


class NodeCommand(Struct, frozen=True, omit_defaults=True):
    """Request on ``node.<node>.<verb>``: probe, report, cancel, drain, resume, giveback, advise, policy (all of it, by the
    names of `advice.QosPolicy`), sleep (for `for_s`; 0: as its owner configured), wake. Refused when its term is old.

    A cancel with `placements`, one for each of `tasks`, is for these and older ones: a newer one that has come to the node
    meanwhile stays. Without, it is for whichever the node has."""

    term: int
    task: str = ""
    tasks: tuple[str, ...] = ()
    deadline_s: float = 0.0
    reason: str = ""
    for_s: Annotated[float, Meta(ge=0, le=limits.SLEEP_MAX_S)] = 0.0
    policy: dict[str, str] = {}
    placements: tuple[int, ...] = ()


class NodeAnswer(Struct, frozen=True, omit_defaults=True):
    """A node's answer to a command; to *advise* and *policy* with its `advice`, to *advise* with its `outbox`."""

    node: str
    boot: int
    ok: bool = True
    error: str = ""
    tasks: tuple[str, ...] = ()
    harvest: HarvestReport | None = None
    advice: Advice | None = None
    outbox: OutboxReport | None = None


class AllReport(Struct, frozen=True, omit_defaults=True):
    """On ``all.report``: a coordinator has taken the lease; nodes of an older term register again, spread over `spread_s`."""

    term: int
    spread_s: float = 0.5


class Holder(Struct, frozen=True):
    """The coordinator's lease in the KV bucket ``FOG_leases``: who holds it, and under which term (0 in the first write,
    which makes the term: it is the revision of that write)."""

    coordinator: str
    term: int = 0


class NodeRecord(Struct, frozen=True, omit_defaults=True):
    """What is kept of a node in the KV bucket ``FOG_nodes``, under its id. `asleep_until`: it announced a sleep until then, by
    the broker's clock, so that a coordinator that takes over meanwhile does not call it lost."""

    node: Id
    key: str
    session: Id
    boot: int
    capabilities: DeviceCapabilities
    offer: Offer
    first_seen: float
    last_seen: float
    drained: bool = False
    version: str = ""
    asleep_until: float = 0.0
