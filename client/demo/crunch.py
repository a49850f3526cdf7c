"""What the fleet does in the phone's evening: real work for a processor, offered from a module as any user would write it."""

from __future__ import annotations

from client.demo.module import offering


def crunch(rounds: int, salt: str) -> str:
    """Derive a key as slowly as is asked for."""
    import hashlib

    key = b"fog"
    for _ in range(rounds):
        key = hashlib.pbkdf2_hmac("sha256", key, salt.encode(), 10_000)
    return key.hex()


MODULE = offering("fog_demo_crunch", crunch)
