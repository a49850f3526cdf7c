"""One call in a runner: from its frame to the frame that answers it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec

from node.runners.calls import Function
from node.runners.frames import PAYLOAD_MAX, Call, CallEach, Failed, Finished
from schemas import limits
from schemas.errors import BadInput

ITEM_ERRORS_BYTES = 400_000  # what the errors of one chunk may take of its result's message
ITEM_ERROR_MAX = 300
ITEM_ERROR_COST = 28  # bytes of JSON around one item error's text

Clock = Callable[[], float]


class Stopped(BaseException):
    """The daemon asked this runner to stop: what runs may clean up for half a second."""


def sendable(text: object) -> str:
    """`text` as a frame can carry it: lone surrogates (names of files that are not UTF-8) are spelled out."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def explain(error: BaseException) -> str:
    """The error with the place in the user's code, its end kept: that says what happened."""
    return sendable(_explained(error))


def _explained(error: BaseException) -> str:
    if isinstance(error, BadInput):
        return str(error)[: limits.ERROR_MAX]
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("node.runners."):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).strip()[-limits.ERROR_MAX :]


def call(job: Call, function: Function, clock: Clock) -> Finished | Failed:
    """Call once."""
    begun = clock()
    try:
        try:
            arguments = function.arguments(job.args, job.files)
        except (BadInput, msgspec.MsgspecError) as error:
            return Failed(job.key, clock() - begun, explain(error), arguments=True)
        value, blob = function.packed(function.fn(*arguments))
        if len(value) + len(blob or b"") > PAYLOAD_MAX:
            _refuse_size(len(value) + len(blob or b""))
    except Stopped:
        raise
    except BaseException as error:
        return Failed(job.key, clock() - begun, explain(error), memory=isinstance(error, MemoryError))
    return Finished(job.key, clock() - begun, value, blob)


def _refuse_size(size: int) -> None:
    raise BadInput("result", f"its result of {size} bytes is more than a node takes ({PAYLOAD_MAX})")


class _Wrong:
    """Stands for an item that could not be decoded."""

    def __init__(self, error: str) -> None:
        self.error = error


def call_each(job: CallEach, function: Function, clock: Clock) -> Finished | Failed:
    """Call once for each item; an item that raises is an item error, and the others go on."""
    begun = clock()
    errors: list[tuple[int, str]] = []
    try:
        values = _run_all(function.fn, _items(job, function), job.first, errors)
        done = _packed(function, values, job.first, errors)
        if (size := len(done[0]) + sum(len(blob or b"") for blob in done[1] or ())) > PAYLOAD_MAX:
            _refuse_size(size)
    except Stopped:
        raise
    except BaseException as error:
        return Failed(job.key, clock() - begun, explain(error), memory=isinstance(error, MemoryError))
    data, blobs = done
    return Finished(job.key, clock() - begun, data, None, blobs, _cut(errors))


def _items(job: CallEach, function: Function) -> list[Any]:
    slot = function.slot(0)
    if function.required > 1:
        raise BadInput("name", f"{function.name} needs {function.required} arguments; map gives one")
    if job.files:
        if not slot.takes_bytes:
            raise BadInput(slot.name, "does not take files")
        return list(job.files)
    try:
        return slot.read_all(job.items)
    except (msgspec.MsgspecError, BadInput):
        return [_read(slot.read, raw) for raw in msgspec.json.decode(job.items, type=list[msgspec.Raw])]


def _read(read: Callable[[msgspec.Raw], Any], raw: msgspec.Raw) -> Any:
    try:
        return read(raw)
    except BadInput as error:
        return _Wrong(error.message)


def _run_all(fn: Callable[[Any], Any], items: list[Any], first: int, errors: list[tuple[int, str]]) -> list[Any]:
    values: list[Any] = []
    add = values.append
    for item in items:
        try:
            if item.__class__ is _Wrong:
                raise BadInput("item", item.error)
            add(fn(item))
        except Stopped:
            raise
        except BaseException as error:  # who leaves by sys.exit fails alone, too
            errors.append((first + len(values), _said(error)))
            add(None)
    return values


def _said(error: BaseException) -> str:
    if isinstance(error, BadInput):
        return error.message[:ITEM_ERROR_MAX]
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # its author's __str__ fails
        text = f"{type(error).__name__}: its text cannot be made"
    return sendable(text[:ITEM_ERROR_MAX])


def _packed(
    function: Function, values: list[Any], first: int, errors: list[tuple[int, str]]
) -> tuple[bytes, tuple[bytes | None, ...] | None]:
    if any(value.__class__ is bytes for value in values) or (function.returns_bytes and not errors):
        return b"", _blobs(function, values, first, errors)
    try:
        return (function.packed_all(values) if not errors else _one_by_one(function, values, first, errors)), None
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return _one_by_one(function, values, first, errors), None


def _one_by_one(function: Function, values: list[Any], first: int, errors: list[tuple[int, str]]) -> bytes:
    failed = {index for index, _ in errors}
    parts: list[bytes] = []
    for index, value in enumerate(values, first):
        part = b"null"
        if index not in failed:
            try:
                part, blob = function.packed(value)
                if blob is not None:
                    raise BadInput("result", "some items returned bytes and some did not")
            except BadInput as error:
                errors.append((index, error.message[:ITEM_ERROR_MAX]))
                part = b"null"
        parts.append(part)
    errors.sort()
    return b"[" + b",".join(parts) + b"]"


def _blobs(
    function: Function, values: list[Any], first: int, errors: list[tuple[int, str]]
) -> tuple[bytes | None, ...]:
    failed = {index for index, _ in errors}
    blobs: list[bytes | None] = []
    for index, value in enumerate(values, first):
        blob = None
        if index not in failed and not (value is None and function.returns_bytes):
            try:
                _, blob = function.packed(value)
                if blob is None:
                    raise BadInput("result", f"{function.name} returned {type(value).__name__}, not bytes")
            except BadInput as error:
                errors.append((index, error.message[:ITEM_ERROR_MAX]))
        blobs.append(blob)
    errors.sort()
    return tuple(blobs)


def _cut(errors: list[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    if not errors:
        return ()
    room = max(12, ITEM_ERRORS_BYTES // len(errors) - ITEM_ERROR_COST)
    return tuple((index, text if len(text) <= room else text[: room - 1] + "…") for index, text in errors)
