"""Rendezvous hashing (Thaler and Ravishankar, 1998): which members hold a key. Everybody who knows the members agrees.

Each member draws a weight for the key, a hash of both; the highest hold it. When a member goes, only what it held moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

COPIES = 2


def owners(key: str, nodes: Iterable[str], copies: int = COPIES) -> list[str]:
    """The nodes that hold the key, the first one first."""
    return sorted(nodes, key=lambda node: (_weight(key, node), node), reverse=True)[:copies]


def _weight(key: str, node: str) -> bytes:
    return blake2b(key.encode(), key=node.encode()[:64], digest_size=8).digest()
