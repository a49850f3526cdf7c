"""What the fleet offers, kept for a moment: so that a call is checked before it is sent, at no cost a call."""

from __future__ import annotations

import asyncio
import logging

from client.api import Api
from schemas import jetstream, streams
from schemas.api import FunctionRow
from schemas.bus import Bus
from schemas.device import FunctionOffer
from schemas.errors import FogError, Refused, StoreRefused, Unreachable

log = logging.getLogger("fog.client")

TTL_S = 2.0
MISS_S = 0.02  # a list as young as this is not asked for again for a name that it lacks and that may come later
PATIENCE_S = 1.0  # a submit waits no longer than this for a coordinator: the task is kept without one as well
NO_STREAM = 10059  # JetStream's code for a stream that does not exist
NOBODY = (
    "no coordinator answers: what is submitted is kept; nothing starts until one runs (`fog up`, `fog coordinator`)"
)


class Functions:
    """The functions that the fleet offers, at most about `TTL_S` old."""

    def __init__(self, api: Api, bus: Bus) -> None:
        self._api, self._bus = api, bus
        self._rows: dict[str, FunctionRow] = {}
        self._at = float("-inf")
        self._questions = 0  # sent so far; one at a time
        self._heard = 0  # which of them gave the rows
        self._asking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.silent = False  # nobody answered the last time

    async def offer(self, name: str, *, needed: bool = True) -> FunctionOffer | None:
        """How `name` is called; None when nobody could be asked, or nobody offers it and that is not `needed` now.

        Raises Refused (``unknown-function``), naming what is offered, and Unreachable on a broker where no coordinator ran.
        Nobody is refused by an answer to what was asked before the call: a node may just have joined.
        """
        before = self._questions
        age = self._loop.time() - self._at
        row = self._rows.get(name)
        if age > TTL_S and row is not None and not self.silent:
            self._ask()  # for the next call; what was true a moment ago is good enough for this one
        elif age > (TTL_S if row is not None or self.silent else MISS_S):
            await self.refresh()
        while needed and name not in self._rows and not self.silent and self._heard <= before:
            await self.refresh()
        row = self._rows.get(name)
        if row is None and needed and not self.silent:
            raise _unknown(name, list(self._rows))
        return row.offer if row is not None else None

    def slots(self, name: str) -> int:
        """How many calls of `name` the fleet can run at a time, as last heard; 0 when that is not known."""
        row = self._rows.get(name)
        return row.slots if row is not None else 0

    async def refresh(self) -> None:
        """Ask now, together with whoever is asking already."""
        await asyncio.shield(self._ask())

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self) -> asyncio.Task[None]:
        if self._asking is None or self._asking.done():
            self._asking = self._loop.create_task(self._update())
        return self._asking

    async def _update(self) -> None:
        self._questions += 1
        try:
            reply = await self._api.functions(PATIENCE_S)
        except Unreachable:
            await self._check_kept()
            if not self.silent:
                log.warning(NOBODY)
            self.silent = True
        except Refused as error:
            log.warning("cannot learn what the fleet offers: %s", error)
            self.silent = True
        else:
            self._rows = {row.offer.name: row for row in reply.functions}
            self._heard = self._questions
            self.silent = False
        self._at = self._loop.time()

    async def _check_kept(self) -> None:
        """What is submitted is kept only where a coordinator has made the streams."""
        try:
            await jetstream.stream_info(self._bus, streams.TASKS)
        except StoreRefused as error:
            if error.code == NO_STREAM:
                raise Unreachable(
                    "no coordinator has run with this broker yet",
                    hint="start one: `fog coordinator --nats URL`; or name the right broker",
                ) from None
        except FogError as error:
            log.debug("cannot look for the streams: %s", error)


def _unknown(name: str, offered: list[str]) -> Refused:
    hint = (
        f"offered now: {', '.join(sorted(offered))}"
        if offered
        else "no node offers anything yet: start one with `fog node`"
    )
    hint += "; --wait-for-node (wait_for_node=True) keeps the task until a node offers it"
    return Refused("unknown-function", f"no known node offers the function {name!r}", hint=hint)
