"""Artifacts on the way out: a file or a folder becomes a manifest and chunks, and what the store lacks is sent.

Nothing is held in memory: files are read once for their digests, and what has to be sent is read again, and checked again.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from schemas import jetstream, streams, subjects
from schemas.artifact import FILES_MAX, MANIFEST_BYTES, Chunk, File, Manifest, check_paths, digest_of, name_of
from schemas.bus import Bus
from schemas.codec import encode
from schemas.errors import BadInput, FogError, StoreRefused
from schemas.limits import CHUNK_BYTES
from schemas.store import Store

AT_ONCE = 8  # chunks under way: 2 MiB
RETRY_S = 30.0  # a chunk that a slow link takes long for is not said again too soon
GIVE_UP_S = 300.0  # for one chunk
PATH_MAX = 1000


class Piece(Struct, frozen=True):
    """Where the bytes of a chunk are read."""

    path: Path
    offset: int
    size: int


class Packed(Struct, frozen=True):
    """An artifact that can be sent. `pieces` by digest: what is in it twice is sent once."""

    manifest: Manifest
    pieces: dict[str, Piece]

    @property
    def name(self) -> str:
        """The digest that names the artifact."""
        return name_of(self.manifest)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.manifest.size


class Progress(Struct, frozen=True):
    """Of `total_bytes` to be in the store, `reused_bytes` were there and `sent_bytes` were sent. What is in it twice counts
    once."""

    total_bytes: int
    sent_bytes: int = 0
    reused_bytes: int = 0


OnProgress = Callable[[Progress], None]


# From the disk.


def pack(path: Path) -> Packed:
    """Read a file, or everything below a folder; blocks. Empty folders do not travel.

    Raises BadInput, by the path, for what cannot travel: links, sockets and devices, what cannot be read, what changes
    meanwhile, and too much.
    """
    files: list[File] = []
    pieces: dict[str, Piece] = {}
    try:
        for name, found in _walk(path):
            if len(files) == FILES_MAX:
                raise BadInput("artifact", f"{path} holds more than {FILES_MAX} files", hint=_ARCHIVE)
            files.append(_read(name, found, pieces))
    except OSError as error:
        raise BadInput("artifact", f"{error.filename or path} cannot be read: {error.strerror}") from None
    if not files:
        raise BadInput("artifact", f"{path} holds no file")
    manifest = Manifest(tuple(sorted(files, key=lambda file: file.path)))
    check_paths(manifest)
    size = len(encode(manifest))
    if size > MANIFEST_BYTES:
        raise BadInput(
            "artifact", f"the list of its {len(files)} files and their chunks takes {size} bytes, {MANIFEST_BYTES} are "
            "the most", hint=_ARCHIVE,
        )  # fmt: skip
    return Packed(manifest, pieces)


_ARCHIVE = "put many small files into one archive; a very large artifact is better brought as several apps"


def _walk(path: Path) -> Iterator[tuple[str, Path]]:
    """Every file with its path in the artifact. The artifact itself may be named by a link."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        yield from _below(path, "")
    elif stat.S_ISREG(mode):
        yield path.resolve().name, path
    else:
        raise BadInput("artifact", f"{path} is neither a file nor a folder")


def _below(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = prefix + entry.name
        path = Path(entry.path)
        if entry.is_symlink():
            raise BadInput("artifact", f"{path} is a link", hint="put the file itself there")
        if entry.is_dir():
            yield from _below(path, name + "/")
        elif entry.is_file():
            yield name, path
        else:
            raise BadInput("artifact", f"{path} is neither a file nor a folder")


def _read(name: str, path: Path, pieces: dict[str, Piece]) -> File:
    """The digests of a file's chunks."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadInput("artifact", f"the name of {os.fsencode(path)!r} is not UTF-8") from None
    if len(name) > PATH_MAX:
        raise BadInput("artifact", f"the path {name:.80}… is longer than {PATH_MAX} characters")
    chunks = []
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        offset = 0
        while data := file.read(CHUNK_BYTES):
            chunk = Chunk(digest_of(data), len(data))
            chunks.append(chunk)
            pieces.setdefault(chunk.digest, Piece(path, offset, len(data)))
            offset += len(data)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or offset != after.st_size:
        raise _changed(path)
    return File(name, tuple(chunks), bool(before.st_mode & 0o111))


def _bytes_of(digest: str, piece: Piece) -> bytes:
    try:
        with piece.path.open("rb") as file:
            file.seek(piece.offset)
            data = file.read(piece.size)
    except OSError as error:
        raise BadInput("artifact", f"{piece.path} cannot be read any more: {error.strerror}") from None
    if digest_of(data) != digest:
        raise _changed(piece.path)
    return data


def _changed(path: Path) -> BadInput:
    return BadInput("artifact", f"{path} changed while it was read", hint="try again when nothing writes to it")


# Into the store.


async def missing(bus: Bus, packed: Packed) -> set[str]:
    """The digests of what is not in the store: of chunks, and of the manifest."""
    there = await jetstream.subjects(bus, streams.CHUNKS, subjects.chunk("*"))
    return {digest for digest in (*packed.pieces, packed.name) if subjects.chunk(digest) not in there}


async def send(bus: Bus, packed: Packed, on_progress: OnProgress | None = None) -> Progress:
    """Bring into the store what is not there, the manifest last.

    Raises BadInput where a file is no longer what it was, FogError for a full store, Unreachable.
    """
    lacking = await missing(bus, packed)
    total = sum(piece.size for piece in packed.pieces.values())
    sent = Progress(total, 0, sum(piece.size for digest, piece in packed.pieces.items() if digest not in lacking))
    store = Store(bus, window=AT_ONCE, retry_s=RETRY_S)
    chunks = iter([digest for digest in packed.pieces if digest in lacking])

    def tell(size: int, new: bool) -> None:
        nonlocal sent
        sent = Progress(total, sent.sent_bytes + size * new, sent.reused_bytes + size * (not new))
        if on_progress is not None:
            on_progress(sent)

    async def work() -> None:
        for digest in chunks:
            piece = packed.pieces[digest]
            data = await asyncio.to_thread(_bytes_of, digest, piece)
            tell(piece.size, await _put(store, digest, data))

    tell(0, True)
    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(AT_ONCE):
                workers.create_task(work())
        if packed.name in lacking:
            await _put(store, packed.name, encode(packed.manifest))
    except ExceptionGroup as group:  # the first says what is wrong; the others were ended with it
        raise group.exceptions[0] from None
    finally:
        store.close()
    return sent


async def _put(store: Store, digest: str, data: bytes) -> bool:
    """Store it; False when somebody else has meanwhile."""
    try:
        await store.put(subjects.chunk(digest), data, timeout_s=GIVE_UP_S)
    except StoreRefused as error:
        if error.exists:
            return False
        if "maximum" in error.description:
            raise FogError(
                f"the store of artifacts is full ({error.description})",
                hint="`fog rollout gc` removes what no device needs any more; "
                f"nats stream edit {streams.CHUNKS} --max-bytes … gives it more room",
            ) from None
        raise
    return True
