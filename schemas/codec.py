"""JSON in and out. Whatever cannot be decoded is refused by the name of its field, and can stop nothing."""

from __future__ import annotations

import re
from typing import Generic, TypeVar

import msgspec

from schemas.errors import BadInput

T = TypeVar("T")

encode = msgspec.json.Encoder().encode

_PATH = re.compile(r"^(?P<problem>.*?)(?: - at `\$?\.?(?P<path>[^`]*)`)?$", re.DOTALL)


def as_bad_input(error: Exception) -> BadInput:
    """The BadInput that names the field which a msgspec error is about (``message`` when it is the whole)."""
    found = _PATH.match(str(error))
    problem, path = (found["problem"], found["path"]) if found else (str(error), None)
    return BadInput(path or "message", problem[:300])


class Decoder(Generic[T]):
    """Decodes one type. Unknown fields are ignored, so that a newer sender is understood.

    >>> Decoder(Task)(data)   # a Task, or BadInput("needs.cores", "Expected `float`, got `str`")
    """

    __slots__ = ("_decode", "type")

    def __init__(self, kind: type[T]) -> None:
        self.type = kind
        self._decode = msgspec.json.Decoder(kind).decode

    def __call__(self, data: bytes | bytearray | memoryview | msgspec.Raw) -> T:
        """The decoded value. Raises BadInput."""
        try:
            return self._decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise as_bad_input(error) from None


def convert(value: object, kind: type[T]) -> T:
    """Check a value that is already decoded (from TOML, from flags) against a type; BadInput names the field."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.MsgspecError as error:
        raise as_bad_input(error) from None
