"""A chunk's items on the wire: one JSON array, or a blob an item, within the inline limit of one task."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Raw, Struct

from client.arguments import Content, as_content, encode_values
from client.contents import read_file
from schemas import limits
from schemas.device import Parameter
from schemas.errors import BadInput
from schemas.objects import Objects
from schemas.task import Blob

SHRINK = 0.9  # items differ in size: aim a little below the limit


class Packed(Struct, frozen=True):
    """The first `count` of the items given, in the form that `schemas.task.MapRun` has for them. `size` is in bytes.

    `count` 0: the first item cannot be read, `error` says why.
    """

    count: int
    size: int = 0
    items: Raw | None = None
    files: tuple[Blob, ...] = ()
    packed: Blob | None = None
    error: str = ""


async def pack(items: Sequence[Any], kind: Parameter | None, objects: Objects) -> Packed:
    """As many of `items` (at least one), from the first on, as one chunk can carry.

    Raises BadInput for items that are neither JSON values nor bytes nor files, or some of each.
    """
    contents = [as_content(item, kind) for item in items] if _may_be_bytes(items, kind) else [None]
    if None not in contents:
        return await _pack_contents([c for c in contents if c is not None], objects)
    if any(content is not None for content in contents):
        raise BadInput("items", "files (or bytes) and JSON values are mixed", hint="map over one kind at a time")
    return await _pack_values(items, objects)


def _may_be_bytes(items: Sequence[Any], kind: Parameter | None) -> bool:
    if kind is not None and kind.type == "bytes":
        return True
    # Looking at the few types that occur, not at every item, is what keeps 100,000 numbers cheap.
    return any(issubclass(found, (bytes, bytearray, memoryview, Path)) for found in set(map(type, items)))


async def _pack_values(items: Sequence[Any], objects: Objects) -> Packed:
    count = len(items)
    while True:
        data = encode_values(items[:count] if count < len(items) else items, "items")
        if len(data) <= limits.INLINE_MAX:
            return Packed(count, len(data), items=Raw(data))
        if count == 1:
            return Packed(1, len(data), packed=Blob(len(data), None, await objects.put(data)))
        count = max(1, min(count - 1, int(count * limits.INLINE_MAX / len(data) * SHRINK)))


async def _pack_contents(contents: list[Content], objects: Objects) -> Packed:
    datas, error = await asyncio.to_thread(_read, contents)
    if not datas:
        return Packed(0, error=error)
    blobs = [
        Blob(len(data), data) if len(data) <= limits.INLINE_MAX else Blob(len(data), None, await objects.put(data))
        for data in datas
    ]
    return Packed(len(blobs), sum(blob.size for blob in blobs), files=tuple(blobs))


def _read(contents: list[Content]) -> tuple[list[bytes], str]:
    """The contents from the first on, while the small ones fit inline together; stops at one that cannot be read."""
    datas: list[bytes] = []
    room = limits.INLINE_MAX
    for content in contents:
        try:
            data = content if isinstance(content, bytes) else read_file(content, "item")
        except BadInput as error:
            return datas, error.problem
        if len(data) <= limits.INLINE_MAX:
            if len(data) > room:
                break
            room -= len(data)
        datas.append(data)
        if len(data) > limits.INLINE_MAX:
            break  # one large file a chunk: it is held in memory until it is stored
    return datas, ""
