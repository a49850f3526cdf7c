"""What the fleet does in the phone's evening: real work for a processor, offered from a module as any user would write it."""

from __future__ import annotations

import inspect
from pathlib import Path

MODULE = "fog_demo_crunch"


def crunch(rounds: int, salt: str) -> str:
    """Derive a key as slowly as is asked for."""
    import hashlib

    key = b"fog"
    for _ in range(rounds):
        key = hashlib.pbkdf2_hmac("sha256", key, salt.encode(), 10_000)
    return key.hex()


def write_module(folder: Path) -> None:
    """Write the module that the nodes import: this very function, marked as theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    source = (
        f"from __future__ import annotations\n\nfrom node import function\n\n\n@function\n{inspect.getsource(crunch)}"
    )
    (folder / f"{MODULE}.py").write_text(source, encoding="utf-8")
