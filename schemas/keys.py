"""Signatures by nkeys: who registered a node, who signed a version."""

from __future__ import annotations

import base64
import binascii


def is_signed(key: str, said: bytes, signature: str) -> bool:
    """Whether `signature` (base64) is `key`'s (a public user nkey) of `said`."""
    from nacl.exceptions import BadSignatureError  # here: most of those who import this module check nothing
    from nacl.signing import VerifyKey

    try:
        raw = base64.b32decode(key + "=" * (-len(key) % 8))  # one byte of kind, 32 of key, two of checksum
        VerifyKey(raw[1:33]).verify(said, base64.b64decode(signature, validate=True))
    except (BadSignatureError, binascii.Error, ValueError, TypeError):
        return False
    return True


def sign(seed: str, said: bytes) -> str:
    """The signature (base64) of `said` by the owner of an nkey seed."""
    import nkeys

    return base64.b64encode(nkeys.from_seed(bytearray(seed.encode())).sign(said)).decode()
