"""What the daemon and a runner say to each other: frames of a 4-byte big-endian length and a msgpack list of messages.

`key` names one handing over: the same attempt handed over again has a new one. Values are JSON bytes, made and read at the
ends only. Both sides are of one version and one machine, so this is no part of the contract in schemas/.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from schemas.device import FunctionOffer

FRAME_MAX = 1 << 31  # a longer frame can only be a mistake
HEAD = 4  # bytes of the length
PAYLOAD_MAX = 512 << 20  # bytes of one task's inputs, and of one result: both ends hold it several times over


class Call(Struct, frozen=True, array_like=True, tag=0):
    """Call function `name` with the JSON array `args`; argument ``files[i][0]`` is the bytes ``files[i][1]``."""

    key: int
    name: str
    args: bytes
    files: tuple[tuple[int, bytes], ...] = ()


class CallEach(Struct, frozen=True, array_like=True, tag=1):
    """Call `name` once for each item of the JSON array `items`, or each of the `files`; `first` is the first one's index."""

    key: int
    name: str
    first: int
    items: bytes = b""
    files: tuple[bytes, ...] = ()


class Launch(Struct, frozen=True, array_like=True, tag=2):
    """Run a program. `env` is added to the daemon's own."""

    key: int
    argv: tuple[str, ...]
    env: dict[str, str]
    stdin: bytes | None


class Withdraw(Struct, frozen=True, array_like=True, tag=3):
    """Give these back, as far as they have not begun: the answer is `Withdrawn`."""

    keys: tuple[int, ...]


ToRunner = Call | CallEach | Launch | Withdraw


class Hello(Struct, frozen=True, array_like=True, tag=0):
    """The runner is ready and offers this; `error` says which module could not be imported, and why."""

    offers: tuple[FunctionOffer, ...]
    error: str = ""


class Finished(Struct, frozen=True, array_like=True, tag=1):
    """It is done: a JSON `value`, or `blob`, or (of a map) `blobs`; of a program its `exit_code` and the ends of its output.

    `errors` are items that raised, as (index in the job, text).
    """

    key: int
    duration_s: float
    value: bytes = b""
    blob: bytes | None = None
    blobs: tuple[bytes | None, ...] | None = None
    errors: tuple[tuple[int, str], ...] = ()
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""


class Failed(Struct, frozen=True, array_like=True, tag=2):
    """It raised `error` (a traceback's last lines), or could not be called. `arguments`: they do not fit its annotations.

    `memory`: the system gave it no more.
    """

    key: int
    duration_s: float
    error: str
    arguments: bool = False
    memory: bool = False


class Printed(Struct, frozen=True, array_like=True, tag=3):
    """It wrote to `stream` (stdout or stderr)."""

    key: int
    stream: str
    text: str


class Progressed(Struct, frozen=True, array_like=True, tag=4):
    """It said how far it is, 0..1."""

    key: int
    fraction: float
    text: str


class Withdrawn(Struct, frozen=True, array_like=True, tag=5):
    """These it has not begun, and never will. Of those asked for and not named it tells the end."""

    keys: tuple[int, ...]


FromRunner = Hello | Finished | Failed | Printed | Progressed | Withdrawn

_encode = msgspec.msgpack.Encoder().encode
decode_to_runner = msgspec.msgpack.Decoder(list[ToRunner]).decode
decode_from_runner = msgspec.msgpack.Decoder(list[FromRunner]).decode


def frame(messages: list[ToRunner] | list[FromRunner]) -> bytes:
    """The messages as one frame."""
    body = _encode(messages)
    return len(body).to_bytes(HEAD, "big") + body
