"""Offered functions: what one takes, decoding a call's arguments against its annotations, and checking what it returns."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from schemas import limits
from schemas.device import FunctionOffer, Parameter
from schemas.errors import BadInput

_encode = msgspec.json.Encoder().encode
_list_of_raw = msgspec.json.Decoder(list[msgspec.Raw]).decode
_any = msgspec.json.Decoder().decode
BYTES = (bytes, bytearray, memoryview)  # a union would be made anew for each value


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _says(annotation: Any) -> str:
    if annotation is Any:
        return ""
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)


class Slot:
    """One parameter: its JSON is read by `read`; `takes_bytes` says that a file may stand there."""

    def __init__(self, name: str, annotation: Any, optional: bool) -> None:
        self.name, self.annotation, self.optional = name, annotation, optional
        members = _members(annotation)
        self.is_bytes = bytes in members
        self.takes_bytes = self.is_bytes or annotation is Any
        self._may_be_str = str in members
        self._decode = None if self.is_bytes else msgspec.json.Decoder(annotation).decode
        self._none_ok = type(None) in members

    def parameter(self) -> Parameter:
        """As it is told to the fleet."""
        kind = "bytes" if self.is_bytes else "str" if self.annotation is str else "json"
        return Parameter(self.name, kind, _says(self.annotation), self.optional)

    def read(self, raw: msgspec.Raw | bytes) -> Any:
        """The value of an argument's JSON; a JSON string for a ``bytes`` parameter is its UTF-8 text. Raises BadInput."""
        try:
            return self._text(_any(raw)) if self._decode is None else self._decode(raw)
        except msgspec.MsgspecError as error:
            raise BadInput(self.name, str(error)) from None

    def _text(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if self._may_be_str else value.encode()
        if value is None and self._none_ok:
            return None
        raise BadInput(self.name, "expected a file's content or a string")

    def read_all(self, items: bytes) -> list[Any]:
        """The values of a JSON array of arguments, at once. Raises MsgspecError or BadInput when one of them is wrong."""
        if self._decode is None:
            return [self._text(value) for value in _any(items)]
        if self.annotation is Any:
            return _any(items)  # type: ignore[no-any-return]
        return msgspec.json.decode(items, type=list[self.annotation])  # type: ignore[name-defined]


class Function:
    """A function that is offered, ready to be called. Raises BadInput when its signature cannot be offered."""

    def __init__(self, name: str, fn: Callable[..., Any]) -> None:
        self.name, self.fn = name, fn
        self.slots: list[Slot] = []
        self.rest: Slot | None = None
        hints = typing.get_type_hints(fn)
        for parameter in inspect.signature(fn).parameters.values():
            self._add(parameter, hints.get(parameter.name, Any))
        self.required = sum(not slot.optional for slot in self.slots)
        self._read_all = self._all_at_once()
        returns = hints.get("return", Any)
        self.returns_bytes = bytes in _members(returns)
        try:
            check = None if returns is Any or self.returns_bytes else msgspec.json.Decoder(returns).decode
            self._check_all = check and msgspec.json.Decoder(list[returns]).decode  # type: ignore[valid-type]
        except TypeError as error:
            raise BadInput(name, f"its result cannot be JSON: {error}") from None
        self._check = check
        self._returns = returns

    def _add(self, parameter: inspect.Parameter, annotation: Any) -> None:
        optional = parameter.default is not parameter.empty
        if parameter.kind is parameter.VAR_KEYWORD or (parameter.kind is parameter.KEYWORD_ONLY and optional):
            return
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise BadInput(
                self.name, f"its parameter {parameter.name} can only be given by keyword; arguments are a list"
            )
        try:
            slot = Slot(parameter.name, annotation, optional)
        except TypeError as error:
            raise BadInput(self.name, f"its parameter {parameter.name} cannot be JSON: {error}") from None
        if parameter.kind is parameter.VAR_POSITIONAL:
            self.rest = slot
        else:
            self.slots.append(slot)

    def _all_at_once(self) -> Callable[[bytes], Sequence[Any]] | None:
        """Decodes all arguments of a call together, which costs a third of one by one (a runner's call: 12.4 → 8.8 µs)."""
        kinds = tuple(slot.annotation for slot in self.slots)
        if not kinds or self.rest is not None or any(slot.is_bytes for slot in self.slots):
            return None
        return msgspec.json.Decoder(tuple[kinds]).decode  # type: ignore[valid-type]

    def offer(self) -> FunctionOffer:
        """As it is told to the fleet; a variadic parameter comes last."""
        parameters = [slot.parameter() for slot in self.slots] + ([self.rest.parameter()] if self.rest else [])
        doc = (inspect.getdoc(self.fn) or "").partition("\n")[0][: limits.REASON_MAX]
        return FunctionOffer(self.name, tuple(parameters), self.rest is not None, _says(self._returns), doc)

    def slot(self, index: int) -> Slot:
        """The parameter that argument `index` belongs to. Raises BadInput when there are too many."""
        if index < len(self.slots):
            return self.slots[index]
        if self.rest is None:
            raise BadInput("args", f"{self.name} takes at most {len(self.slots)} arguments")
        return self.rest

    def arguments(self, args: bytes, files: tuple[tuple[int, bytes], ...]) -> Sequence[Any]:
        """Decode a call's arguments. Raises BadInput that names the parameter."""
        if args == b"[]" and not files and not self.required:
            return ()
        if self._read_all is not None and not files:
            try:
                return self._read_all(args)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                pass  # optional ones are missing, or something is wrong: said by the parameter's name below
        try:
            given = _list_of_raw(args)
        except msgspec.MsgspecError as error:
            raise BadInput("args", str(error)) from None
        if len(given) < self.required:
            raise BadInput("args", f"{self.name} needs {self.slots[len(given)].name}")
        content = dict(files)
        return [self._argument(i, raw, content) for i, raw in enumerate(given)]

    def _argument(self, index: int, raw: msgspec.Raw, content: dict[int, bytes]) -> Any:
        slot = self.slot(index)
        if index not in content:
            return slot.read(raw)
        if not slot.takes_bytes:
            raise BadInput(slot.name, f"takes {_says(slot.annotation)}, not a file")
        return content[index]

    def packed(self, value: Any) -> tuple[bytes, bytes | None]:
        """A returned value as (JSON, None) or (b"", bytes). Raises BadInput when it is not what the annotation says."""
        if isinstance(value, BYTES):
            if self._check is not None:
                raise BadInput("result", f"{self.name} returned bytes, not {_says(self._returns)}")
            return b"", bytes(value)
        if self._returns is bytes:
            raise BadInput("result", f"{self.name} returned {type(value).__name__}, not bytes")
        try:
            data = _encode(value)
            if self._check is not None:
                self._check(data)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise BadInput("result", f"{self.name}: {error}") from None
        return data, None

    def packed_all(self, values: list[Any]) -> bytes:
        """Many returned values as one JSON array, checked at once. Raises when one of them is wrong."""
        data = _encode(values)
        if self._check_all is not None:
            self._check_all(data)
        return data
