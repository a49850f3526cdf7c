"""A key-value bucket by raw compare-and-set: NATS's own KV layout, so that ``nats kv`` and any client can read it."""

from __future__ import annotations

import re

from msgspec import Struct

from schemas import jetstream
from schemas.bus import Bus, header
from schemas.errors import BadInput, Conflict, StoreRefused
from schemas.store import Store

READ_S, WRITE_S = 5.0, 10.0
WRONG_LAST_SEQUENCE = (10071, 10164)
_KEY = re.compile(r"[-/_=.a-zA-Z0-9]+")


class Entry(Struct, frozen=True):
    """A value and the revision at which it was written (its sequence in the bucket's stream)."""

    value: bytes
    revision: int
    deleted: bool = False


class Kv:
    """One bucket. Writing goes through `store`, so that a retry after a lost answer is recognised as the same write.

    Where the broker does not answer for `wait_s`, reading and writing raise Unreachable.
    """

    def __init__(self, bus: Bus, store: Store, bucket: str, wait_s: float | None = None) -> None:
        self._bus, self._store, self.bucket = bus, store, bucket
        self._read_s, self._write_s = wait_s or READ_S, wait_s or WRITE_S
        self._stream = f"KV_{bucket}"

    def subject(self, key: str) -> str:
        """The subject under which the bucket keeps `key`; BadInput for a key that NATS would not take."""
        if not _KEY.fullmatch(key):
            raise BadInput("key", f"{key!r:.80} is not a key")
        return f"$KV.{self.bucket}.{key}"

    async def get(self, key: str, *, even_deleted: bool = False) -> Entry | None:
        """The entry, read from the leader; None when there is none (or a delete mark, unless `even_deleted`)."""
        message = await jetstream.get_message(
            self._bus, self._stream, last_by=self.subject(key), timeout_s=self._read_s
        )
        if message is None:
            return None
        # A delete mark has KV-Operation, the mark of an expiry Nats-Marker-Reason.
        deleted = bool(header(message.headers, b"KV-Operation") or header(message.headers, b"Nats-Marker-Reason"))
        return Entry(message.data, message.seq, deleted) if even_deleted or not deleted else None

    async def put(self, key: str, value: bytes) -> int:
        """Write whatever was there; returns the revision."""
        return (await self._store.put(self.subject(key), value, timeout_s=self._write_s)).seq

    async def create(self, key: str, value: bytes, *, ttl_s: int = 0) -> int:
        """Write only if the key is not there. Raises Conflict."""
        entry = await self.get(key, even_deleted=True)
        if entry is not None and not entry.deleted:
            raise Conflict(f"{self.bucket}/{key} exists at revision {entry.revision}")
        return await self.update(key, value, entry.revision if entry else 0, ttl_s=ttl_s)

    async def update(
        self, key: str, value: bytes, revision: int, *, ttl_s: int = 0, timeout_s: float | None = None
    ) -> int:
        """Write only if the last revision is still `revision` (0: none). Raises Conflict; returns the new revision.

        With `ttl_s` (whole seconds, at least 1) the entry expires by itself.
        """
        headers = b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % revision
        if ttl_s:
            headers += b"Nats-TTL: %d\r\n" % ttl_s
        try:
            ack = await self._store.put(self.subject(key), value, headers=headers, timeout_s=timeout_s or self._write_s)
        except StoreRefused as error:
            if error.code in WRONG_LAST_SEQUENCE:
                raise Conflict(f"{self.bucket}/{key} is no longer at revision {revision}") from None
            raise
        return ack.seq

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Write a delete mark; with `revision` only if that is still the last (Conflict otherwise)."""
        headers = b"KV-Operation: DEL\r\n"
        if revision is not None:
            headers += b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % revision
        try:
            await self._store.put(self.subject(key), b"", headers=headers, timeout_s=self._write_s)
        except StoreRefused as error:
            if error.code in WRONG_LAST_SEQUENCE:
                raise Conflict(f"{self.bucket}/{key} is no longer at revision {revision}") from None
            raise

    async def all(self) -> dict[str, Entry]:
        """Every entry of the bucket by key."""
        prefix = f"$KV.{self.bucket}."
        found = {}
        for message in await jetstream.read_all(self._bus, self._stream, prefix + ">"):
            if not header(message.headers, b"KV-Operation") and not header(message.headers, b"Nats-Marker-Reason"):
                found[message.subject[len(prefix) :]] = Entry(message.data, message.seq)
        return found
