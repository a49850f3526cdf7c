"""This node's share of its clusters' caches: values with a time to live, in at most so much memory, the least used go first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from schemas.peer import CachePut

OVERHEAD = 200  # bytes that an entry takes besides its key and value


class Entry(NamedTuple):
    """A value, when it ends (on the node's monotonic clock), and which put it came by."""

    value: bytes
    ends_at: float
    stamp: int


class Pool:
    """Keys of all clusters that this node is in; `size` in bytes never exceeds `room`."""

    def __init__(self, room: int) -> None:
        self.room, self.size = room, 0
        self._entries: dict[tuple[str, str], Entry] = {}  # the least used first

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, cluster: str, put: CachePut, now: float) -> str:
        """Keep a value, unless a later put is kept already; returns why it is not, or ""."""
        name = (cluster, put.key)
        needs = _size(name, put.value)
        if needs > self.room:
            return f"the value takes {needs} bytes of the {self.room} that this node offers"
        old = self._entries.get(name)
        if old is not None and old.ends_at > now and old.stamp > put.stamp:
            return ""
        self._drop(name)
        if self.size + needs > self.room:
            self._make_room(needs, now)
        self._entries[name] = Entry(put.value, now + put.ttl_s, put.stamp)
        self.size += needs
        return ""

    def get(self, cluster: str, key: str, now: float) -> bytes | None:
        """The value, which counts as used; None when there is none (any more)."""
        name = (cluster, key)
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.ends_at <= now:
            self._drop(name)
            return None
        self._entries[name] = self._entries.pop(name)
        return entry.value

    def drop(self, cluster: str, key: str) -> bool:
        """Keep it no longer; whether it was kept."""
        return self._drop((cluster, key))

    def kept(self, cluster: str, now: float) -> Iterator[CachePut]:
        """All of a cluster's that is alive, as it would be put elsewhere: with the time that is left to it."""
        for (of, key), entry in list(self._entries.items()):
            if of == cluster and entry.ends_at > now:
                yield CachePut(key, entry.value, entry.ends_at - now, entry.stamp)

    def _make_room(self, needs: int, now: float) -> None:
        for name, entry in list(self._entries.items()):
            if entry.ends_at <= now:
                self._drop(name)
        while self.size + needs > self.room:
            self._drop(next(iter(self._entries)))

    def _drop(self, name: tuple[str, str]) -> bool:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.size -= _size(name, entry.value)
        return entry is not None


def _size(name: tuple[str, str], value: bytes) -> int:
    return OVERHEAD + len(name[0]) + len(name[1].encode()) + len(value)
