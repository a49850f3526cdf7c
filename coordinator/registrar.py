"""Registrations: who proves to own the key is judged by the core; nobody else is heard.

A first request is answered by a challenge, which needs no memory here: it is the time and a keyed hash of who asked. The
second one carries the node's signature of it. A challenge lives for `CHALLENGE_S` and only for its own node, key and session.
Who signed another one (of the coordinator before us) is given a new one to sign.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable

from coordinator.core.events import Event, NodeConflicted, NodeRegistering, NodeStored
from coordinator.inbound import Bad
from schemas import streams
from schemas.bus import Bus
from schemas.codec import Decoder, encode
from schemas.errors import BadInput, Conflict, FogError
from schemas.keys import is_signed
from schemas.kv import Kv
from schemas.logs import fields
from schemas.membership import NodeRecord, Register, Registered
from schemas.store import Store

log = logging.getLogger("fog.registrar")

CHALLENGE_S = 30.0
AT_ONCE = 64  # registrations that read the bucket at a time
WAITING_MAX = 20_000  # registrations under way; more are dropped, and their nodes ask again


class Registrar:
    """Answers ``register.<node>``. `store` and `answer` carry out what the core decides about a registration."""

    def __init__(
        self, bus: Bus, store: Store, hand_on: Callable[[Event], None], bad: Bad, clock: Callable[[], float]
    ) -> None:
        self._bus, self._hand_on, self._bad, self._clock = bus, hand_on, bad, clock
        self._kv = Kv(bus, store, streams.NODES)
        self._secret = secrets.token_bytes(32)
        self._decode = Decoder(Register)
        self._record = Decoder(NodeRecord)
        self._turnstile = asyncio.Semaphore(AT_ONCE)
        self._open: dict[str, Register] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        """A request on ``register.<node>``."""
        try:
            request = self._decode(data)
            if subject[subject.rfind(".") + 1 :] != request.node:
                raise BadInput("node", "not the one that the subject names")
            if request.signature and self._is_ours(request):
                self._check(request)
        except BadInput as error:
            self._bad.add("register", subject, str(error))
            if reply:
                self.answer(reply, Registered(error=str(error)))
            return
        if not reply:
            return
        if not request.signature or not self._is_ours(request):
            # A challenge of the coordinator before us, or an old one: the node is asked to sign another.
            self.answer(reply, Registered(challenge=self._challenge(request, int(self._clock()))))
        elif len(self._open) < WAITING_MAX:
            self._open[reply] = request
            self._spawn(reply)

    def _challenge(self, request: Register, at: int) -> str:
        said = f"{at}:{request.node}:{request.session}:{request.key}".encode()
        return f"{at}:{hmac.new(self._secret, said, hashlib.sha256).hexdigest()}"

    def _is_ours(self, request: Register) -> bool:
        """Whether we gave this node that challenge, not long ago."""
        at = request.challenge.partition(":")[0]
        if not at.isdecimal() or len(at) > 12 or abs(self._clock() - int(at)) > CHALLENGE_S:
            return False
        return hmac.compare_digest(self._challenge(request, int(at)).encode(), request.challenge.encode())

    def _check(self, request: Register) -> None:
        said = f"{request.node}:{request.session}:{request.challenge}".encode()
        if not is_signed(request.key, said, request.signature):
            raise BadInput("signature", "not made with the key that is named")

    def _spawn(self, reply: str) -> None:
        task = asyncio.get_running_loop().create_task(self._look_up(reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, reply: str) -> None:
        """Read what is known of the node, and let the core judge. (No answer on failure: the node asks again.)"""
        request = self._open[reply]
        try:
            async with self._turnstile:
                record, revision = await self._read(request.node)
        except FogError as error:
            self._open.pop(reply, None)
            log.warning("a registration could not be looked up", extra=fields(node=request.node, error=error.message))
        except Exception:
            self._open.pop(reply, None)
            log.exception("a registration failed", extra=fields(node=request.node))
        else:
            self._hand_on(NodeRegistering(request, record, revision, reply))

    async def _read(self, node: str) -> tuple[NodeRecord | None, int]:
        """What the bucket holds of a node, and its revision (a delete mark has one, too; 0: nothing)."""
        entry = await self._kv.get(node, even_deleted=True)
        if entry is None:
            return None, 0
        if entry.deleted:
            return None, entry.revision
        try:
            return self._record(entry.value), entry.revision
        except BadInput as error:  # whoever has it registers anew: nothing else would ever mend it
            self._bad.add("node", f"{self._kv.bucket}/{node}", str(error))
            return None, entry.revision

    async def store(self, record: NodeRecord, revision: int, reply: str) -> None:
        """Write a node's record by compare-and-set; on a conflict read again, and have it judged again."""
        try:
            try:
                written = await self._kv.update(record.node, encode(record), revision)
            except Conflict:
                if not reply:
                    self._hand_on(NodeConflicted(record.node, *await self._read(record.node)))
                elif reply in self._open:
                    self._spawn(reply)
                return
        except FogError as error:
            self._open.pop(reply, None)
            log.warning("a node's record was not stored", extra=fields(node=record.node, error=error.message))
            return
        self._hand_on(NodeStored(record, reply, written))

    async def drop(self, node: str, revision: int) -> None:
        """Delete a node's record, unless somebody wrote it meanwhile."""
        try:
            await self._kv.delete(node, revision)
        except FogError as error:
            log.info("a node's record was not deleted", extra=fields(node=node, error=error.message))

    def answer(self, reply: str, registered: Registered) -> None:
        """Answer a registration, for good or for now."""
        self._open.pop(reply, None)
        self._bus.publish(reply, encode(registered))

    def stop(self) -> None:
        """This term is over."""
        for task in self._tasks:
            task.cancel()
