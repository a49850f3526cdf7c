"""The coordinator as a service: connects, waits for the lease, acts while it holds it, follows when it does not."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import Any

from coordinator.acting import Acting
from coordinator.clock import Clock
from coordinator.faults import Faults
from coordinator.inbound import Bad
from coordinator.lease import Lease
from schemas import jetstream
from schemas.bus import Bus
from schemas.errors import BrokerUnfit, FogError
from schemas.logs import fields
from schemas.names import COORDINATOR_CONNECTION
from schemas.store import Store
from schemas.target import Target

log = logging.getLogger("fog.coordinator")

AGAIN_S = 1.0


class Service:
    """A coordinator named `name` at `target`. `run` returns after `stop`. Heartbeats go by way of the clusters' leaders in a
    fleet of `relay_from` nodes or more."""

    def __init__(self, target: Target, name: str, replicas: int, relay_from: float = inf) -> None:
        self._relay_from = relay_from
        self._target, self._name, self._replicas = target, name, replicas
        self._stopping = asyncio.Event()
        self._acting: Acting | None = None
        self._bad = Bad()
        self._faults = Faults()
        self._clock = Clock()

    def stop(self) -> None:
        """End `run` in an orderly way: the lease is given up at once."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped. Raises BrokerUnfit when the broker will never do."""
        bus = await self._connect()
        if bus is None:
            return
        bus.when_closed(self.stop)
        leases = Store(bus)
        try:
            await self._prepare(bus)
            while not self._stopping.is_set():
                await self._one_term(bus, leases)
        finally:
            leases.close()
            await bus.close()
        if bus.closed_for:
            raise BrokerUnfit(f"the broker ended the connection: {bus.closed_for}", hint="start the coordinator again")

    async def _connect(self) -> Bus | None:
        connecting = asyncio.ensure_future(
            Bus.connect(
                self._target,
                name=COORDINATOR_CONNECTION + self._name,
                on_lost=self._link_lost,
                on_back=self._link_back,
                wait=True,
            )
        )
        await self._or_stop(connecting)
        return None if self._stopping.is_set() else connecting.result()

    async def _prepare(self, bus: Bus) -> None:
        """Make the streams; a broker that has just started may need a moment."""
        for last in [False] * 20 + [True]:
            try:
                await jetstream.ensure_streams(bus, self._replicas)
                return
            except FogError as error:
                if last or self._stopping.is_set():
                    raise
                log.warning("the streams could not be made, trying again", extra=fields(error=error.message))
                await asyncio.sleep(AGAIN_S)

    async def _one_term(self, bus: Bus, leases: Store) -> None:
        lease = Lease(bus, leases, self._name)
        acquiring = asyncio.ensure_future(lease.acquire())
        await self._or_stop(acquiring)
        if self._stopping.is_set():
            return
        if lease.told is not None:
            self._clock.learn(*lease.told)
        keeping = asyncio.ensure_future(lease.keep())
        # A store of this term's own: what it still wants to say when the lease is gone is never said.
        store = Store(bus, allowed=lambda: lease.valid)
        self._acting = acting = Acting(
            bus, store, lease, self._clock, self._name, self._bad, self._faults, self._relay_from
        )
        over = asyncio.ensure_future(acting.over.wait())
        failed = True
        try:
            await self._or_stop(asyncio.ensure_future(acting.start()))
            await self._or_stop(
                asyncio.ensure_future(asyncio.wait({keeping, over}, return_when=asyncio.FIRST_COMPLETED))
            )
            failed = False
            level = logging.INFO if self._stopping.is_set() else logging.WARNING
            log.log(level, "stepping down", extra=fields(term=lease.term))
        except FogError as error:
            log.error("could not take over, trying again", extra=fields(error=error.message))
        except Exception:
            log.exception("could not take over, trying again")
        finally:
            self._acting = None
            keeping.cancel()
            over.cancel()
            await acting.stop("stopping" if self._stopping.is_set() else "lease lost")
            store.close()
            if lease.valid:
                await lease.release()
        if failed and not self._stopping.is_set():
            await asyncio.sleep(AGAIN_S)  # another may do better

    async def _or_stop(self, work: asyncio.Future[Any]) -> None:
        """Wait for `work`, or until told to stop, which cancels it."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stopping.is_set() and not work.done():
            work.cancel()
        elif work.done() and not work.cancelled() and work.exception() is not None and not self._stopping.is_set():
            raise work.exception()  # type: ignore[misc]

    def _link_lost(self) -> None:
        log.warning("the broker link is down")
        if self._acting is not None:
            self._acting.link_lost()

    def _link_back(self) -> None:
        log.info("the broker link is back")
        if self._acting is not None:
            self._acting.link_back()
