"""Everything that is read before anything is judged. Times are seconds since 1970 by the clock that is named; sizes are bytes.

What could not be read is None, and `Facts.unread` says why.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from schemas.api import NodeRow, StatusReply, TroubleReply
from schemas.membership import Holder


class Folder(Struct, frozen=True):
    """The home on this machine. `chosen`: the fleet was named by it, not by --nats or --creds."""

    root: str
    chosen: bool = True
    there: bool = True
    pid: int = 0  # of the `fog up` that the record names; 0: no record
    alive: bool = False  # that very process runs
    url: str = ""  # of the broker, as the record says
    broken: str = ""  # why the record cannot be read
    lock_pid: int = 0  # of the process that holds the lock; 0: nobody
    strays: dict[str, int] = {}  # processes of the record that live on without their `fog up`
    creds_url: str = ""
    creds_error: str = ""
    creds_open: bool = False  # others than the owner can read the key
    port: int = 0  # that the broker keeps over restarts; 0: none yet
    port_error: str = ""
    port_taken: bool = False  # somebody listens there
    disk_free: int | None = None  # where the broker stores
    disk_total: int = 0
    errors: tuple[str, ...] = ()  # the last ones in the broker's log, of the last day


class NoConnection(Struct, frozen=True):
    """Why there is no connection to the broker, in the words of the error that a user would meet."""

    message: str
    hint: str = ""


class Server(Struct, frozen=True):
    """One server of the broker. `ahead_s`: its clock against ours, give or take `within_s`."""

    name: str
    version: str = ""
    ahead_s: float | None = None
    within_s: float = 0.0
    slow: int = 0  # connections of this account that it ended since they did not read
    slow_names: tuple[str, ...] = ()  # of those that ended so lately


class Broker(Struct, frozen=True):
    """The broker as this account sees it. A limit of -1 means none."""

    url: str
    version: str
    payload_max: int
    round_trip_ms: float
    clustered: bool = False
    servers: tuple[Server, ...] = ()
    connections: tuple[str, ...] | None = None  # the names of this account's; None when it does not tell
    storage: int = 0
    storage_max: int = -1
    memory: int = 0
    memory_max: int = -1
    streams_max: int = -1
    streams_used: int = 0


class Replica(Struct, frozen=True):
    """A copy of a stream besides the leader's."""

    name: str
    current: bool = True
    offline: bool = False
    lag: int = 0


class Stream(Struct, frozen=True):
    """A stream as the broker keeps it: its `config` as JetStream's API has it, and its use. Without a leader it stands."""

    name: str
    config: dict[str, Any]
    messages: int = 0
    size: int = 0
    leader: str = ""
    clustered: bool = False
    replicas: tuple[Replica, ...] = ()


class Consumer(Struct, frozen=True):
    """A consumer. `unacked` were delivered, `redelivered` of them more than once, `pending` not yet; `asking`: pulls that
    wait for messages."""

    stream: str
    name: str
    filters: tuple[str, ...] = ()
    unacked: int = 0
    redelivered: int = 0
    pending: int = 0
    asking: int = 0


class LeaseEntry(Struct, frozen=True):
    """The coordinator's lease: `age_s` since it was last renewed, by the broker's clock. `ttl_s` 0: it never expires."""

    holder: Holder
    revision: int
    age_s: float
    ttl_s: float


class Refusal(Struct, frozen=True):
    """A node that was refused, as its event says, and how long ago."""

    node: str
    reason: str
    ago_s: float


class Facts(Struct):
    """What there is to be judged."""

    version: str  # ours
    folder: Folder | None = None
    no_connection: NoConnection | None = None
    broker: Broker | None = None
    streams: dict[str, Stream] | None = None
    consumers: tuple[Consumer, ...] | None = None
    queued_at: dict[str, int] | None = None  # messages of FOG_WORK by node
    lease: LeaseEntry | None = None
    lease_read: bool = False
    status: StatusReply | None = None
    status_error: str = ""  # why the coordinator did not answer
    coordinator_ahead_s: float | None = None  # the clock it judges by against the broker's
    nodes: tuple[NodeRow, ...] | None = None
    trouble: TroubleReply | None = None
    parts_lost: tuple[str, ...] = ()  # parts of chunks that no stream holds
    refusals: tuple[Refusal, ...] = ()
    unwritable: str = ""  # why the broker stores nothing
    unread: dict[str, str] = {}  # what could not be read, and why
