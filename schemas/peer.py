"""What the members of a cluster, and clients, ask of a member on ``peer.<cluster>.<node>.<verb>``.

| verb | request | reply |
|---|---|---|
| ``ping`` | empty | `Pong` |
| ``vote`` | `decision.VoteRequest` | `decision.Vote` |
| ``cache-get`` | `CacheGet` | `CacheItem` |
| ``cache-put`` | `CachePut` | `CacheDone` |
| ``cache-drop`` | `CacheGet` | `CacheDone` |
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits

Key = Annotated[str, Meta(min_length=1, max_length=512)]


class Pong(Struct, frozen=True, omit_defaults=True):
    """A member is there. `error` says why it does not answer as a member (it is in another cluster)."""

    node: str = ""
    cluster_term: int = 0
    cache_items: int = 0
    cache_bytes: int = 0
    error: str = ""


class CacheGet(Struct, frozen=True):
    """Which key."""

    key: Key


class CachePut(Struct, frozen=True, omit_defaults=True):
    """Keep `value` under `key` for `ttl_s`. Of two puts the one with the higher `stamp` (ns since 1970) counts."""

    key: Key
    value: Annotated[bytes, Meta(max_length=limits.CACHE_VALUE_MAX)]
    ttl_s: Annotated[float, Meta(gt=0, le=limits.CACHE_TTL_MAX_S)]
    stamp: Annotated[int, Meta(ge=0)]


class CacheItem(Struct, frozen=True, omit_defaults=True):
    """The value, or None."""

    value: bytes | None = None
    error: str = ""


class CacheDone(Struct, frozen=True, omit_defaults=True):
    """Done (`kept`: the key is held now), or refused with `error`."""

    kept: bool = False
    error: str = ""
