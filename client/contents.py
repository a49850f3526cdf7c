"""Getting bytes and files into a task: inline while small, by the object store when large."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from client.arguments import Content
from schemas import limits
from schemas.errors import BadInput
from schemas.objects import Objects
from schemas.task import Blob, FileArg


async def file_args(contents: Sequence[tuple[int, Content]], objects: Objects) -> tuple[FileArg, ...]:
    """Each content as a Blob: inline as long as all of them together stay within `limits.INLINE_MAX`."""
    room = limits.INLINE_MAX
    found = []
    for index, content in contents:
        blob = await blob_of(content, objects, room, field=f"arguments[{index}]")
        room -= inline_size(blob)
        found.append(FileArg(index, blob))
    return tuple(found)


async def blob_of(content: Content, objects: Objects, room: int, *, field: str) -> Blob:
    """One content as a Blob, inline if it has at most `room` bytes. Raises BadInput for a file that cannot be read."""
    data = content if isinstance(content, bytes) else await asyncio.to_thread(read_file, content, field)
    if len(data) <= room:
        return Blob(len(data), data)
    return Blob(len(data), None, await objects.put(data))


def inline_size(blob: Blob) -> int:
    """Bytes that the task itself carries for this blob."""
    return len(blob.data) if blob.data is not None else 0


def read_file(path: Path, field: str) -> bytes:
    """A file's content. Raises BadInput naming the file and what is wrong with it."""
    try:
        if not path.is_file():  # a pipe or a device would be read for ever
            problem = "is no regular file" if path.exists() else "there is no such file"
            raise BadInput(field, f"{path}: {problem}")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(field, f"{path}: {error.strerror or error}") from None
