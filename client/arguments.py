"""What a caller gives becomes what travels: JSON values in one array, files and bytes beside it.

A `pathlib.Path` stands for the content of that file, `bytes` for themselves; a `str` given to a ``bytes`` parameter is a
path. Everything else is a JSON value. Nothing here touches the network; files are only looked at, not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from schemas.device import FunctionOffer, Parameter
from schemas.errors import BadInput

Content = bytes | Path  # bytes as they are, or the file that holds them


class Arguments(Struct, frozen=True, gc=False):
    """`values` is a JSON array; `contents` are the arguments that travel as bytes, whose places in it hold null."""

    values: Raw
    contents: tuple[tuple[int, Content], ...] = ()


NONE = Arguments(Raw(b"[]"))


def convert(args: Sequence[Any], offer: FunctionOffer | None = None) -> Arguments:
    """Sort `args` into values and contents, by the parameters of `offer` where it is known.

    Raises BadInput for a wrong number of arguments and for what is no JSON value.
    """
    if offer is not None:
        _check_count(args, offer)
    if not args:
        return NONE
    contents: list[tuple[int, Content]] = []
    values = list(args)
    for index, value in enumerate(values):
        content = as_content(value, parameter(offer, index))
        if content is not None:
            contents.append((index, content))
            values[index] = None
    return Arguments(Raw(encode_values(values)), tuple(contents))


def as_content(value: Any, kind: Parameter | None) -> Content | None:
    """The bytes or the file that `value` stands for, or None when it is a JSON value."""
    if isinstance(value, (bytes, Path)):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if kind is not None and kind.type == "bytes" and isinstance(value, str):
        return Path(value)
    return None


def from_text(text: str, kind: Parameter | None) -> Any:
    """What a word of the command line means for a parameter: a path for ``bytes``, itself for ``str``, else JSON if it is."""
    if kind is not None and kind.type == "bytes":
        return Path(text)
    if kind is not None and kind.type == "str":
        return text
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def parameter(offer: FunctionOffer | None, index: int) -> Parameter | None:
    """The parameter that argument number `index` goes to; a variadic function's last one takes all the rest."""
    if offer is None or not offer.parameters:
        return None
    if index < len(offer.parameters):
        return offer.parameters[index]
    return offer.parameters[-1] if offer.variadic else None


def encode_values(values: Sequence[Any], field: str = "arguments") -> bytes:
    """A JSON array of `values`. Raises BadInput for what is no JSON value."""
    try:
        return msgspec.json.encode(values, enc_hook=_no_json)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        hint = "give JSON values (numbers, strings, lists, dicts …), bytes, or a pathlib.Path for a file's content"
        raise BadInput(field, str(error), hint=hint) from None


def _no_json(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__} cannot travel as JSON")


def _check_count(args: Sequence[Any], offer: FunctionOffer) -> None:
    if len(args) == len(offer.parameters):
        return  # whichever of them are optional
    required = sum(not p.optional for p in offer.parameters) - (1 if offer.variadic and offer.parameters else 0)
    most = None if offer.variadic else len(offer.parameters)
    if len(args) < required or (most is not None and len(args) > most):
        takes = ", ".join(_describe(p) for p in offer.parameters) + (" …" if offer.variadic else "")
        raise BadInput("arguments", f"{offer.name} takes ({takes}), got {len(args)} argument{'s' * (len(args) != 1)}")


def _describe(kind: Parameter) -> str:
    text = f"{kind.name}: {kind.annotation or kind.type}"
    return f"[{text}]" if kind.optional else text
