"""Connecting: from what the user knows (an address, a creds file, a home) to a `Fleet`."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from client.fleet import Fleet, local_submitter
from schemas.bus import Bus
from schemas.home import resolve

log = logging.getLogger("fog.client")


@asynccontextmanager
async def connect(
    nats: str | None = None,
    creds: str | Path | None = None,
    home: str | Path | None = None,
    submitter: str | None = None,
) -> AsyncIterator[Fleet]:
    """A connection to the fleet, closed at the end of the block.

    Without arguments: the instance that runs in FOG_HOME (or the default home). `nats` is a broker's address, `creds` a
    fog.creds or NATS .creds file, `submitter` the lasting name that tasks are filed under (default: the local user).
    Raises Unreachable when nobody answers, BrokerUnfit when the broker cannot serve us.
    """
    target = resolve(nats, Path(creds) if creds else None, Path(home) if home else None)
    name = submitter or local_submitter()
    fleets: list[Fleet] = []

    def lost() -> None:
        log.warning("the connection to the broker is lost: waiting until it is back; nothing submitted is lost with it")

    def back() -> None:
        log.warning("the connection to the broker is back")
        for fleet in fleets:
            fleet.link_back()

    bus = await Bus.connect(target, name=f"client-{name}-{os.getpid()}", on_lost=lost, on_back=back)
    try:
        fleet = Fleet(bus, name, Path(home) if home else None)
        fleets.append(fleet)
        await fleet.open()
    except BaseException:
        await bus.close()
        raise
    try:
        yield fleet
    finally:
        await fleet.close()
