"""The apps' folder. Nothing half installed is ever found in it: a version appears by one rename, whole and checked.

::

    apps/<app>/state.json          `core.app.Kept`, written whole
    apps/<app>/current             the folder that tasks are given, by its name
    apps/<app>/<version>-<digest>/ an installed version, and beside its files ``.manifest.json``
    apps/<app>/.new-<digest>/      one that is being put together; a crash leaves it, the next start removes it
    apps/.chunks/<digest>          chunks of a download that is under way: one that was interrupted goes on with them
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from node.core.app_actions import Kept
from schemas.artifact import RESERVED as MANIFEST
from schemas.artifact import Chunk, Manifest, digest_of
from schemas.codec import Decoder, encode
from schemas.errors import BadInput
from schemas.files import write_private
from schemas.rollout import AppVersion

CURRENT = "current"
CHUNKS_S = 7 * 86_400.0
_kept = Decoder(Kept)
_manifest = Decoder(Manifest)

Read = Callable[[], bytes]


class Disk:
    """The folder `root`. Every method may block, and raise OSError unless it says otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # What is kept of an app.

    def load(self) -> tuple[list[Kept], list[str]]:
        """Every app, and what could not be read (in words). Tidies up after a crash."""
        found, problems = [], []
        for path in sorted(self.root.glob("*/state.json")):
            try:
                kept = _kept(path.read_bytes())
            except (OSError, BadInput) as error:
                problems.append(f"{path}: {error}")
                continue
            for half in path.parent.glob(".new-*"):
                shutil.rmtree(half, ignore_errors=True)
            missing = [name for name, version in kept.versions.items() if not self.folder(version).is_dir()]
            for name in missing:
                problems.append(f"{path.parent}: version {name} is gone from the disk")
                del kept.versions[name]
            found.append(kept)
        return found, problems

    def keep(self, kept: Kept) -> None:
        """Write what is known of an app."""
        write_private(self.root / kept.app / "state.json", encode(kept))

    # Versions.

    def folder(self, version: AppVersion) -> Path:
        """Where a version lies once it is installed."""
        return self.root / version.app / f"{version.version}-{version.artifact[7:19]}"

    def point(self, app: str, version: AppVersion | None) -> None:
        """What tasks find under the app's name from now on."""
        path = self.root / app / CURRENT
        if version is None:
            path.unlink(missing_ok=True)
        else:
            write_private(path, self.folder(version).name.encode())

    def drop(self, app: str, keep: set[str]) -> None:
        """Remove every installed version whose folder is not named in `keep`."""
        for entry in self._installed(app):
            if entry.name not in keep:
                shutil.rmtree(entry, ignore_errors=True)

    # Chunks.

    def chunk(self, digest: str) -> Path:
        """Where a downloaded chunk waits for its install."""
        return self.root / ".chunks" / digest

    def put_chunk(self, digest: str, data: bytes) -> None:
        """Keep a downloaded chunk (not forced to the disk: what a crash spoils is checked, and fetched again)."""
        path = self.chunk(digest)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Its own name for each thread: a chunk may come twice at once, from a peer that was given up and from the store.
        part = path.with_name(f".{digest}.{threading.get_ident()}")
        part.write_bytes(data)
        os.replace(part, path)

    def sources(self, app: str, wanted: set[str]) -> dict[str, Read]:
        """Where chunks that are on this device already can be read: from an interrupted download, and from the app's other
        versions. Who reads checks what comes."""
        found: dict[str, Read] = {}
        for folder in (entry for entry in self._installed(app)):
            with contextlib.suppress(OSError, BadInput):
                for digest, read in _chunks_of(folder, _manifest((folder / MANIFEST).read_bytes())):
                    if digest in wanted:
                        found.setdefault(digest, read)
        for digest in wanted:
            path = self.chunk(digest)
            if path.is_file():
                found[digest] = path.read_bytes
        return found

    def installed(self) -> Iterator[tuple[str, dict[str, Read]]]:
        """Of every installed version of every app: the name of its artifact, and where its chunks can be read."""
        for app in self.root.glob("[!.]*"):
            for folder in self._installed(app.name):
                with contextlib.suppress(OSError, BadInput):
                    data = (folder / MANIFEST).read_bytes()
                    yield digest_of(data), dict(_chunks_of(folder, _manifest(data)))

    def _installed(self, app: str) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from (e for e in (self.root / app).iterdir() if e.is_dir() and not e.name.startswith("."))

    def install(self, version: AppVersion, manifest: Manifest, read: Callable[[Chunk], bytes]) -> None:
        """Put the version together and let it appear. `read` gives a chunk's checked bytes."""
        folder = self.folder(version)
        if folder.is_dir():
            return
        new = folder.with_name(f".new-{version.artifact[7:19]}")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700, parents=True)
        for file in manifest.files:
            path = new.joinpath(*file.path.split("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                for chunk in file.chunks:
                    out.write(read(chunk))
                out.flush()
                os.fsync(out.fileno())
            path.chmod(0o755 if file.executable else 0o644)
        write_private(new / MANIFEST, encode(manifest))
        os.replace(new, folder)

    def drop_chunks(self, manifest: Manifest) -> None:
        """Its version is installed: what waited for that may go, and what has waited for `CHUNKS_S` for a download that was
        given up."""
        for file in manifest.files:
            for chunk in file.chunks:
                self.chunk(chunk.digest).unlink(missing_ok=True)
        for path in (self.root / ".chunks").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another app's install took it
                if path.stat().st_mtime < time.time() - CHUNKS_S:
                    path.unlink()


def _chunks_of(folder: Path, manifest: Manifest) -> Iterator[tuple[str, Read]]:
    for file in manifest.files:
        at = 0
        path = folder.joinpath(*file.path.split("/"))
        for chunk in file.chunks:
            yield chunk.digest, _reader(path, at, chunk.size)
            at += chunk.size


def _reader(path: Path, at: int, size: int) -> Read:
    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(at)
            return file.read(size)

    return read


def checked(digest: str, data: bytes) -> bytes:
    """`data`, if its name is `digest`; BadInput otherwise."""
    if digest_of(data) != digest:
        raise BadInput(digest, "its bytes are not what its name says")
    return data
