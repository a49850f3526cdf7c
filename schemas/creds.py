"""`fog.creds`: where an instance's broker is and the key that opens it, in one file that can be carried elsewhere.

TOML of our own, two lines: ``nats = "nats://host:port"`` and ``seed = "SU…"`` (an nkey user seed, made at first start).
The standard NATS .creds files (a JWT and a seed) are told apart by their first line and passed on to the NATS client.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from msgspec import Struct

from schemas.errors import BadInput
from schemas.files import write_private

_STANDARD_MARK = "BEGIN NATS USER JWT"


class Creds(Struct, frozen=True):
    """The content of a `fog.creds` file."""

    nats: str
    seed: str

    def __repr__(self) -> str:
        return f"Creds({self.nats!r})"


def is_standard(path: Path) -> bool:
    """Whether `path` is a standard NATS .creds file. Raises BadInput when it cannot be read."""
    return _STANDARD_MARK in _text(path)


def read_creds(path: Path) -> Creds:
    """Our own kind of file. Raises BadInput that names what is wrong with it."""
    try:
        table = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as problem:
        raise BadInput(str(path), f"is neither a fog.creds nor a NATS .creds file ({problem})") from None
    nats, seed = table.get("nats"), table.get("seed")
    if not isinstance(nats, str) or not isinstance(seed, str) or not seed.startswith("SU"):
        raise BadInput(str(path), 'must hold nats = "nats://host:port" and seed = "SU…"')
    return Creds(nats, seed)


def write_creds(path: Path, creds: Creds) -> None:
    """Write `creds`, readable by the owner only."""
    lines = [
        "# Opens this fogfleet instance: keep it secret. Copy it to another machine and give it to --creds there.",
        f'nats = "{creds.nats}"',
        f'seed = "{creds.seed}"',
    ]
    write_private(path, ("\n".join(lines) + "\n").encode())


def new_seed() -> str:
    """A fresh nkey user seed."""
    import nkeys  # here, so that processes that only read a file do not load the crypto library

    return str(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode())


def public_key(seed: str) -> str:
    """The public nkey (``U…``) of a user seed, as a broker's configuration names it."""
    import nkeys

    return str(nkeys.from_seed(bytearray(seed.encode())).public_key.decode().rstrip("="))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as problem:
        raise BadInput("creds", f"{path}: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise BadInput("creds", f"{path}: {problem}") from None
