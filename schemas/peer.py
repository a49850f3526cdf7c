"""What the members of a cluster, and clients, ask of a member on ``peer.<cluster>.<node>.<verb>``.

| verb | request | reply |
|---|---|---|
| ``ping`` | `PingAsk`, or empty | `Pong` |
| ``vote`` | `decision.VoteRequest` | `decision.Vote` |
| ``cache-get`` | `CacheGet` | `CacheItem` |
| ``cache-put`` | `CachePut` | `CacheDone` |
| ``cache-drop`` | `CacheGet` | `CacheDone` |
| ``chunks`` | `ChunksAsk` | `ChunksHeld` |
| ``beat`` | `relay.MemberBeat` | `relay.BeatAck` |

What goes in chunks goes past the broker: see `peer_link.py`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.names import Id
from schemas.rollout import Digest

Key = Annotated[str, Meta(min_length=1, max_length=512)]


Site = Annotated[str, Meta(max_length=64)]  # the mark of a gateway; "": unknown


class PingAsk(Struct, frozen=True, omit_defaults=True):
    """One behind the gateway `site` asks, which wants to know how near the other is."""

    site: Site = ""


class Pong(Struct, frozen=True, omit_defaults=True):
    """A member is there. `error` says why it does not answer as a member (it is in another cluster).

    `at` is where it listens (``host:port``), for who asks from its own site: the way past the broker can be measured there."""

    node: str = ""
    cluster_term: int = 0
    cache_items: int = 0
    cache_bytes: int = 0
    error: str = ""
    at: Annotated[str, Meta(max_length=64)] = ""


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


class ChunksAsk(Struct, frozen=True, omit_defaults=True):
    """A member, `node`, takes this artifact, or may want some of it: what is there, and where can it be had?

    `site` is the mark of its gateway ("": unknown): members of a cluster that was named or selected may be far apart.
    """

    node: Id
    artifact: Digest
    site: Site = ""


class ChunksHeld(Struct, frozen=True, omit_defaults=True):
    """What a member has of an artifact, and how it serves it.

    It listens on `at` (``host:port``) and knows the asker by `key`; without `at` it serves nobody now, `why_not` says why.
    `takes`: it is getting the artifact, or has it. `have` is a bit for each different chunk of the manifest, in the order
    of their first mention, the lowest bit of the first byte first; None: all of them.
    """

    at: Annotated[str, Meta(max_length=64)] = ""
    key: Annotated[str, Meta(max_length=64)] = ""
    why_not: str = ""
    takes: bool = False
    have: Annotated[bytes, Meta(max_length=4096)] | None = b""
    error: str = ""


def bits_of(held: list[bool]) -> bytes:
    """`ChunksHeld.have` of these."""
    number = sum(1 << at for at, one in enumerate(held) if one)
    return number.to_bytes((len(held) + 7) // 8, "little")


def held_by(bits: bytes | None, chunks: list[str]) -> frozenset[str]:
    """Which of an artifact's chunks `ChunksHeld.have` means."""
    if bits is None:
        return frozenset(chunks)
    number = int.from_bytes(bits[: (len(chunks) + 7) // 8], "little")
    return frozenset(digest for at, digest in enumerate(chunks) if number >> at & 1)
