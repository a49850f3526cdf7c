"""The key that signs what this user rolls out: made at first use, and kept in the home, readable by its owner only."""

from __future__ import annotations

import time
from pathlib import Path

from schemas.creds import new_seed, public_key
from schemas.errors import BadInput
from schemas.files import write_private
from schemas.keys import sign
from schemas.lock import Held, Lock

FILE = "signing.key"
MAKE_S = 5.0  # for another command that makes it right now
LOOK_S = 0.02


class SigningKey:
    """An nkey. `path` is where its seed lies: whoever has that file can sign as this user."""

    def __init__(self, path: Path, seed: str) -> None:
        self.path = path
        self._seed = seed
        self.public = public_key(seed)

    def sign(self, said: bytes) -> str:
        """The signature, in base64."""
        return sign(self._seed, said)


def signing_key(root: Path) -> SigningKey:
    """The key of the home `root`, made now if there is none. Raises BadInput for a file that holds no key, OSError."""
    path = root / FILE
    if not path.exists():
        _make(path)
    try:
        return SigningKey(path, path.read_text("ascii").strip())
    except Exception as error:  # nkeys raises what its parts raise
        raise BadInput(
            FILE, f"{path} holds no nkey seed ({error})", hint="put back the right file, or remove it for a new key"
        ) from None


def _make(path: Path) -> None:
    """Two commands that start at once make one key: the second finds the first one's."""
    ends = time.monotonic() + MAKE_S
    while not path.exists():
        try:
            lock = Lock(path.with_suffix(".lock"), str(path))
        except Held:
            if time.monotonic() > ends:
                raise
            time.sleep(LOOK_S)
            continue
        try:
            if not path.exists():
                write_private(path, new_seed().encode() + b"\n")
        finally:
            lock.release()
