"""The ways of this node's messages: each one's decision, and the batch in which those go that are held.

What is held is on the disk already, by whoever keeps it (`outbox`, `claims`); here is only when it goes: with the next
heartbeat, with whatever else goes out, when the link is back, or when it is due, all of it together and in the order in which
it came.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from msgspec.structs import replace

from node.context import Context
from node.core.transport import Message, Way, decide
from schemas.logs import fields
from schemas.transport import OutboxReport, Routed, Routing, What

log = logging.getLogger("fog.node.transports")

DRAINS, LEAVES, SLEEPS = "the node is taken out of service", "the node is going down", "the node sleeps"


class Transports:
    """`way()` is how the device can send now, as its advice says."""

    def __init__(self, context: Context, way: Callable[[], Way]) -> None:
        self._context, self._way = context, way
        self._held: list[Callable[[], None]] = []
        self._due: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._last: tuple[Message, str, float, Routing] | None = None
        self.direct = self.batched = self.batches = 0
        self.claims: Callable[[], int] = lambda: 0  # of the ledger, not delivered

    @property
    def held(self) -> int:
        """Messages that wait for a batch."""
        return len(self._held)

    def route(self, message: Message, about: str) -> Routing:
        """Decide; `about` names its task or claim. What is held goes along with whatever is not."""
        context = self._context
        parting = LEAVES if context.leaving else DRAINS if context.closed_to else SLEEPS if context.sleep else ""
        way = self._way()
        if parting or context.full or not context.bus.connected:
            way = replace(way, connected=context.bus.connected, room=not context.full, parting=parting)
        routing = decide(message, way)
        self._last = message, about, time.time(), routing
        if not routing.hold_s and way.connected:
            self.direct += 1
            self.release("along with another message")
        return routing

    def hold(self, what: What, send: Callable[[], None], hold_s: float) -> None:
        """Call `send` when the batch goes, within `hold_s`. It must not raise."""
        self._held.append(send)
        self._context.outbox_held += what is not What.CLAIM
        at = self._loop.time() + hold_s
        if self._due is None or at < self._due.when():
            self._cancel()
            self._due = self._loop.call_at(at, self.release, "held for long enough")

    def on_beat(self) -> None:
        """A heartbeat goes out, so the radio is awake."""
        self.release("with a heartbeat")

    def release(self, why: str) -> None:
        """Send the batch now."""
        if not self._held:
            return
        self._cancel()
        batch, self._held = self._held, []
        self._context.outbox_held = 0
        self.batches += 1
        self.batched += len(batch)
        log.info("a batch goes", extra=fields(messages=len(batch), why=why))
        for send in batch:
            send()

    def reconsider(self) -> None:
        """The advice has changed: what nothing is to be spared for any more goes now."""
        if not self._way().spares:
            self.release("the link and the battery allow it")

    def _cancel(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def close(self) -> None:
        """Send nothing more by itself."""
        self._cancel()
        self._held.clear()

    def report(self) -> OutboxReport:
        """How it stands; of the disk, as the outbox told last."""
        context, last = self._context, None
        if self._last is not None:
            message, about, at, routing = self._last
            last = Routed(message.what, about, message.size, message.priority, round(at, 3), routing)
        return OutboxReport(
            context.outbox, context.outbox_bytes, context.outbox_since, self.claims(), self.held,
            full=context.full, direct=self.direct, batched=self.batched, batches=self.batches, last=last,
        )  # fmt: skip
