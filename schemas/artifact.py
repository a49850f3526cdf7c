"""What an artifact is: a file or a folder, named by its content, in chunks that are named by theirs.

The **manifest** lists every file with the digests of its chunks; its own digest is the artifact's name, so whoever holds the
name can check every byte. Chunks and manifest lie in FOG_CHUNKS, each under its digest, once: what two versions share is
stored and sent once, and an interrupted download goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.codec import encode
from schemas.errors import BadInput
from schemas.rollout import Digest

FILES_MAX = 100_000
MANIFEST_BYTES = 700_000  # it travels as one message, of which a broker takes 1 MiB
RESERVED = ".manifest.json"  # what a device calls the manifest, beside an installed version's files
_PARTS_REFUSED = {"", ".", ".."}


class Chunk(Struct, frozen=True, array_like=True):
    """``[digest, size]``."""

    digest: Digest
    size: Annotated[int, Meta(ge=0, le=limits.CHUNK_BYTES)]


class File(Struct, frozen=True, omit_defaults=True):
    """One file: its path in the artifact (``/`` between, relative, never upwards), whether it may be run, its chunks."""

    path: Annotated[str, Meta(min_length=1, max_length=1000)]
    chunks: tuple[Chunk, ...] = ()
    executable: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(chunk.size for chunk in self.chunks)


class Manifest(Struct, frozen=True):
    """The files, sorted by path."""

    files: Annotated[tuple[File, ...], Meta(max_length=FILES_MAX)]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def digest_of(data: bytes) -> str:
    """The name of these bytes."""
    return "sha256-" + hashlib.sha256(data).hexdigest()


def name_of(manifest: Manifest) -> str:
    """The artifact's name: the digest of its manifest's JSON."""
    return digest_of(encode(manifest))


def check_paths(manifest: Manifest) -> None:
    """Raise BadInput for a path that would leave the artifact's folder, or comes twice, or is a folder of another."""
    seen: set[str] = set()
    for file in manifest.files:
        parts = file.path.split("/")
        if _PARTS_REFUSED & set(parts) or "\\" in file.path or "\0" in file.path or ":" in parts[0]:
            raise BadInput("files.path", f"{file.path!r:.200} is no path inside an artifact")
        if file.path == RESERVED:
            raise BadInput("files.path", f"{RESERVED} is what a device keeps beside the files")
        if file.path in seen:
            raise BadInput("files.path", f"{file.path!r:.200} comes twice")
        seen.add(file.path)
    for path in seen:
        folders = path.split("/")[:-1]
        if any("/".join(folders[: n + 1]) in seen for n in range(len(folders))):
            raise BadInput("files.path", f"{path!r:.200} lies in what is a file")


def signed_text(app: str, version: str, artifact: str) -> bytes:
    """What an `AppVersion`'s signature signs."""
    return f"{app}:{version}:{artifact}".encode()
