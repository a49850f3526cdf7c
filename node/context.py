"""What every part of the daemon shares: who the node is at the moment, its broker, and what it counted."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from node.core.sleep import Sleep
from schemas.bus import Bus
from schemas.errors import BadInput
from schemas.eventlog import EventLog
from schemas.limits import NODE_QUEUE_MAX
from schemas.membership import Offer
from schemas.names import new_id
from schemas.pull import ack
from schemas.store import Store

ASLEEP = "the node sleeps"
ACKS_MAX = 2 * NODE_QUEUE_MAX  # deliveries that the broker has un-acked at a time, so what may be lost of acks at once
BAD_KEPT = 5  # of the latest bad messages, as the answer to `report` tells them


@dataclass
class Context:
    """One node's identity and standing. `boot` is 0 until registered; `closed_to` says why it is out of service, `resting` why
    it takes no work for the moment: a harvesting device works only while nobody needs it."""

    node: str
    bus: Bus
    store: Store
    events: EventLog
    offer: Offer
    session: str = field(default_factory=new_id)
    boot: int = 0
    term: int = 0
    seen_seq: int = 0
    closed_to: str = ""
    resting: str = ""
    harvest_state: str = ""
    critical: str = ""  # why its power mode is critical
    leaving: bool = False
    sleep: Sleep = field(default_factory=Sleep)
    full: str = ""  # why its outbox takes no more
    outbox: int = 0  # results and outcomes kept on disk, undelivered
    outbox_held: int = 0  # of them, those that wait for a batch
    outbox_bytes: int = 0
    outbox_since: float = 0.0
    outbox_spoilt: int = 0
    bad_messages: int = 0
    bad: deque[str] = field(default_factory=lambda: deque(maxlen=BAD_KEPT))
    acked: deque[str] = field(default_factory=lambda: deque(maxlen=ACKS_MAX))

    @property
    def refuses(self) -> str:
        """Why no new work is wanted now; "" when it is."""
        return self.closed_to or self.critical or (ASLEEP if self.sleep else "") or self.full or self.resting

    def ack(self, reply: str) -> None:
        """Say that a delivery of FOG_WORK is over here. Not waited for."""
        self.acked.append(reply)
        ack(self.bus, reply)

    def ack_again(self) -> None:
        """Another server leads the consumer: what was acked lately may have been lost with the one before."""
        for reply in self.acked:
            ack(self.bus, reply)

    def note_bad(self, where: str, error: BadInput) -> None:
        """Count a message that could not be understood."""
        self.bad_messages += 1
        self.bad.append(f"{where} at {time.time():.0f}: {error.message}"[:300])
