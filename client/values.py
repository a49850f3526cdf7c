"""From a recorded `Result` to what the caller gets: a value, or an error that tells what happened."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from schemas.errors import BadInput, TaskFailed
from schemas.task import SUCCEEDED, Blob, Result

TOLD = 300  # characters of an attempt's error that go into a one-line message


class Reader(Protocol):
    """Where the bytes of a Blob come from (`schemas.objects.Objects`)."""

    async def bytes_of(self, blob: Blob) -> bytes:
        """What a Blob holds or refers to."""


async def value_of(result: Result, objects: Reader) -> Any:
    """The returned value: bytes, or the JSON value. Raises TaskFailed when there is none."""
    if result.blob is None or result.state is not SUCCEEDED:
        return plain_value(result)
    data = await objects.bytes_of(result.blob)
    return decode(data) if result.packed else data


def plain_value(result: Result) -> Any:
    """The same of a result that refers to no Blob."""
    if result.state is not SUCCEEDED:
        raise failure(result)
    data = bytes(result.value)
    return decode(data) if data else None


async def values_of(result: Result, objects: Reader) -> list[Any]:
    """The values of a succeeded map chunk's items, in order; those that failed have None in their place."""
    if result.blobs:
        return [None if blob is None else await objects.bytes_of(blob) for blob in result.blobs]
    values = await value_of(result, objects)
    return values if isinstance(values, list) else []


def decode(data: bytes) -> Any:
    """A JSON value that somebody else made. Raises BadInput when it is none."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput("value", f"the result holds no JSON value: {error}") from None


def failure(result: Result) -> TaskFailed:
    """A task that ended without success, as an exception that says why."""
    return TaskFailed(f"task {result.task} {describe(result)}", result)


def describe(result: Result) -> str:
    """How a task ended, in a line: ``failed on n1 after 3 attempts: ValueError: …``."""
    where = f" on {result.node}" if result.node else ""
    tries = f" after {result.attempts} attempts" if result.attempts > 1 else ""
    why = result.errors[-1].error.strip() if result.errors else ""
    # A traceback says what went wrong in its last line.
    why = why.splitlines()[-1] if why else ""
    # A failure's reason repeats its last error, with the number of attempts.
    told = "" if result.reason == result.state.value else result.reason
    reason = why if why and why in told else "; ".join(part for part in (told, why) if part)
    return f"{result.state.value}{where}{tries}" + (f": {reason[:TOLD]}" if reason else "")
