"""What the demo runs: a plain Python function, offered by the nodes from a module as any user would write it."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MODULE = "fog_demo_job"


def describe(content: bytes) -> dict[str, object]:
    """How many words a file has, its SHA-256, and how small it packs."""
    import hashlib
    import lzma

    return {
        "words": len(content.split()),
        "sha256": hashlib.sha256(content).hexdigest(),
        "packed_bytes": len(lzma.compress(content)),
    }


def write_module(folder: Path) -> None:
    """Write the module that the nodes import: this very function, marked as theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    source = (
        f"from __future__ import annotations\n\nfrom node import function\n\n\n@function\n{inspect.getsource(describe)}"
    )
    (folder / f"{MODULE}.py").write_text(source, encoding="utf-8")


def do_locally(paths: list[Path]) -> list[dict[str, object]]:
    """The same job without any fleet. Hashing and packing let go of the interpreter's lock, so threads do it."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: describe(path.read_bytes()), paths))
