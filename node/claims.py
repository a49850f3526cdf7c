"""Claims on their way: each is on the device's disk before it is sent, and goes when the broker has it, also one of a former
boot. They go one after the other, in the order in which they were made, at once or with the next batch. The open claim of a
session is kept as well as it grows, so that a daemon that is killed loses some seconds of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from node.context import Context
from node.core.transport import Message
from node.transports import Transports
from schemas import subjects
from schemas.codec import encode
from schemas.errors import BadInput, FogError, Unreachable
from schemas.files import write_private
from schemas.ledger import Claim, check_claim, claim_of
from schemas.logs import fields
from schemas.store import Ack
from schemas.transport import What

log = logging.getLogger("fog.node.claims")

T = TypeVar("T")
SUFFIX = ".claim"
KEPT_MAX = 20_000  # some weeks of sessions without a broker; at this bound nothing more is harvested
AGAIN_S = 5.0  # until what the broker, or the disk, refused for now is tried again


class Claims:
    """Those of one node, in `folder`."""

    def __init__(self, context: Context, folder: Path, transports: Transports) -> None:
        self._context, self._folder, self._transports = context, folder, transports
        self._queue: deque[Claim] = deque()  # may go; the first is on its way
        self._waiting: dict[str, Claim] = {}  # finished, and not known to be stored by the broker
        self._disk = ThreadPoolExecutor(1, "claims")  # one thread, so that files are written and removed in order
        self._loop = asyncio.get_running_loop()
        self._closed = False
        transports.claims = lambda: self.count

    @property
    def count(self) -> int:
        """Finished claims that the broker has not confirmed."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether no more can be kept."""
        return len(self._waiting) >= KEPT_MAX

    async def open(self) -> None:
        """Send what a former boot left."""
        for claim in await self._on_disk(self._read_all):
            self._waiting[claim.id] = claim
            self._may_go(claim)

    def keep_open(self, claim: Claim) -> None:
        """Keep the open claim of a session, as it is now."""
        self._write(claim, sent=False)

    def finished(self, claim: Claim) -> None:
        """Keep it, then send it."""
        self._waiting[claim.id] = claim
        self._write(claim, sent=True)

    async def close(self) -> None:
        """Return when everything is on the disk. Nothing more is sent."""
        self._closed = True
        await self._on_disk(lambda: None)
        self._disk.shutdown(wait=False)

    # The disk.

    async def _on_disk(self, do: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._disk, do)

    def _write(self, claim: Claim, *, sent: bool) -> None:
        if self._closed:
            return
        writing = self._loop.run_in_executor(self._disk, write_private, self._path(claim.id), encode(claim))
        writing.add_done_callback(partial(self._written, claim, sent))

    def _written(self, claim: Claim, sent: bool, writing: asyncio.Future[None]) -> None:
        error = None if writing.cancelled() else writing.exception()
        if error is not None:
            log.error("a claim cannot be kept on disk", extra=fields(claim=claim.id, error=str(error)))
            if sent:
                self._loop.call_later(AGAIN_S, partial(self._write, claim, sent=True))
        elif sent:
            hold_s = self._transports.route(Message(What.CLAIM, len(encode(claim))), claim.id).hold_s
            if hold_s:
                self._transports.hold(What.CLAIM, partial(self._may_go, claim), hold_s)
            else:
                self._may_go(claim)

    def _path(self, claim_id: str) -> Path:
        return self._folder / f"{claim_id}{SUFFIX}"

    def _read_all(self) -> list[Claim]:
        """What is kept, as it was made. What cannot be read is moved aside, and stops nothing."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._folder)):
                path = self._folder / name
                if not name.endswith(SUFFIX):
                    continue
                try:
                    claim = claim_of(path.read_bytes())
                    check_claim(claim, self._context.node)
                except (OSError, BadInput) as error:
                    log.error("a kept claim cannot be read", extra=fields(file=name, error=str(error)))
                    with contextlib.suppress(OSError):
                        path.rename(path.with_suffix(".spoilt"))
                else:
                    found.append(claim)
        return sorted(found, key=lambda claim: (claim.since, claim.session, int(claim.id.rpartition(".")[2])))

    # The broker.

    def _may_go(self, claim: Claim) -> None:
        self._queue.append(claim)
        if len(self._queue) == 1:
            self._send(claim)

    def _send(self, claim: Claim) -> None:
        if not self._closed:
            subject = subjects.ledger(self._context.node)
            self._context.store.post(subject, encode(claim), claim.id, partial(self._answered, claim))

    def _answered(self, claim: Claim, answer: Ack | FogError) -> None:
        if isinstance(answer, Ack):
            self._waiting.pop(claim.id, None)
            self._queue.popleft()
            if self._queue:
                self._send(self._queue[0])
            with contextlib.suppress(
                RuntimeError
            ):  # closed meanwhile: the next boot says it again, which changes nothing
                self._loop.run_in_executor(self._disk, partial(self._path(claim.id).unlink, missing_ok=True))
        elif not isinstance(answer, Unreachable):  # that says only that the daemon goes down
            log.error("a claim was refused, trying again", extra=fields(claim=claim.id, error=answer.message))
            self._loop.call_later(AGAIN_S, self._send, claim)
