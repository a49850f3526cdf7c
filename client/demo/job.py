"""What the demo runs: a plain Python function, offered by the nodes from a module as any user would write it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from client.demo.module import offering


def describe(content: bytes) -> dict[str, object]:
    """How many words a file has, its SHA-256, and how small it packs."""
    import hashlib
    import lzma

    return {
        "words": len(content.split()),
        "sha256": hashlib.sha256(content).hexdigest(),
        "packed_bytes": len(lzma.compress(content)),
    }


MODULE = offering("fog_demo_job", describe)


def do_locally(paths: list[Path]) -> list[dict[str, object]]:
    """The same job without any fleet. Hashing and packing let go of the interpreter's lock, so threads do it."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: describe(path.read_bytes()), paths))
