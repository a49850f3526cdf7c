"""Bringing a version to this device: manifest, then the chunks that are not here yet (from the store, or from peers), then
the install.

An interrupted fetch goes on with what it has; what another version of the app holds is not asked for again. Nothing is
believed: the signature is checked first, every chunk against its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from node.apps.disk import Disk, checked
from node.apps.peers import Peers, Wanted
from node.apps.shelf import Shelf
from node.enforce.throttle import Throttle
from schemas import jetstream, streams, subjects
from schemas.artifact import Chunk, Manifest, check_paths, digest_of, signed_text
from schemas.bus import Bus
from schemas.codec import Decoder
from schemas.errors import BadInput, FogError
from schemas.keys import is_signed
from schemas.limits import CHUNK_BYTES
from schemas.rollout import AppVersion

_manifest = Decoder(Manifest)


class Unfit(FogError):
    """This artifact will never do here: it is not signed, not there, or not what its name says."""


@dataclass
class Progress:
    """Bytes of a version that are here: `got` of them all, of which `reused` were here before, and `from_peers` came from
    members of this node's clusters; the rest came from the store."""

    got: int = 0
    reused: int = 0
    from_peers: int = 0


class Fetcher:
    """Fetches artifacts. `chunk_bytes()` is how much may be asked for at a time by the device's advice; `throttle` holds it to
    its bandwidth. What it has is on the `shelf` for others, too."""

    def __init__(
        self,
        bus: Bus,
        disk: Disk,
        shelf: Shelf,
        peers: Peers,
        chunk_bytes: Callable[[], int],
        throttle: Throttle,
    ) -> None:
        self._bus, self._disk, self._shelf, self._peers = bus, disk, shelf, peers
        self._chunk_bytes, self._throttle = chunk_bytes, throttle

    async def fetch(self, version: AppVersion, tell: Callable[[Progress], None]) -> None:
        """Install the version; `tell` says how far it is.

        Raises Unfit when it never can be, another FogError or OSError when trying again may help.
        """
        if not is_signed(version.key, signed_text(version.app, version.version, version.artifact), version.signature):
            raise Unfit("the signature is not that of the key that is named")
        if self._disk.folder(version).is_dir():
            tell(Progress(version.artifact_bytes, version.artifact_bytes))
            return
        manifest = await self._read_manifest(version)
        chunks = {chunk.digest: chunk for file in manifest.files for chunk in file.chunks}
        here = await asyncio.to_thread(self._here, version.app, chunks)
        self._shelf.begin(version.artifact, list(chunks), here)
        try:
            await self._peers.get(self._wanted(version.artifact, chunks, here, tell))
            await asyncio.to_thread(self._install, version, manifest)
        finally:
            self._shelf.end(version.artifact)
        await asyncio.to_thread(self._disk.drop_chunks, manifest)

    def _wanted(
        self, artifact: str, chunks: dict[str, Chunk], here: set[str], tell: Callable[[Progress], None]
    ) -> Wanted:
        reused = sum(chunks[digest].size for digest in here)
        progress = Progress(reused, reused)
        tell(progress)

        def came(chunk: Chunk, from_peer: bool = True) -> None:
            if chunk.digest in here:
                return  # a peer that was given up sent it all the same
            here.add(chunk.digest)
            progress.got += chunk.size
            progress.from_peers += chunk.size * from_peer
            self._shelf.add(artifact, chunk.digest)
            tell(progress)

        async def store(some: list[Chunk]) -> None:
            await self._from_store(some)
            for chunk in some:
                came(chunk, from_peer=False)

        missing = [chunk for digest, chunk in chunks.items() if digest not in here]
        return Wanted(artifact, list(chunks), missing, self._batch, store, self._keep, came)

    def _batch(self) -> int:
        return max(1, self._chunk_bytes() // CHUNK_BYTES)

    def _keep(self, chunk: Chunk, data: bytes) -> None:
        self._disk.put_chunk(chunk.digest, checked(chunk.digest, data))

    async def _read_manifest(self, version: AppVersion) -> Manifest:
        data = await self._one(version.artifact)
        try:
            manifest = _manifest(data)
            check_paths(manifest)
        except BadInput as error:
            raise Unfit(f"the artifact's manifest cannot be used: {error.message}") from None
        return manifest

    async def _one(self, digest: str) -> bytes:
        found = await jetstream.multi_last(self._bus, streams.CHUNKS, [subjects.chunk(digest)], 30.0)
        if not found:
            raise Unfit(f"{digest} is not in the store", hint="apply the rollout again from where its files are")
        return _right(digest, found[0].data)

    def _here(self, app: str, chunks: dict[str, Chunk]) -> set[str]:
        """The chunks that are on this device, whole."""
        here = set()
        for digest, read in self._disk.sources(app, set(chunks)).items():
            try:
                if digest_of(read()) == digest:
                    here.add(digest)
            except OSError:
                continue
        return here

    async def _from_store(self, some: list[Chunk]) -> None:
        await self._throttle.paced(sum(chunk.size for chunk in some))
        wanted = {subjects.chunk(chunk.digest): chunk for chunk in some}
        came = await jetstream.multi_last(self._bus, streams.CHUNKS, list(wanted), 60.0)
        for message in came:
            chunk = wanted.pop(message.subject, None)
            if chunk is not None:
                data = _right(chunk.digest, message.data)
                await asyncio.to_thread(self._disk.put_chunk, chunk.digest, data)
        if wanted:
            raise Unfit(f"{next(iter(wanted.values())).digest} is not in the store")

    def _install(self, version: AppVersion, manifest: Manifest) -> None:
        wanted = {chunk.digest for file in manifest.files for chunk in file.chunks}
        sources = self._disk.sources(version.app, wanted)
        if (
            gone := wanted - sources.keys()
        ):  # another app's install, which had it in common, took it away: it comes again
            raise BadInput(min(gone), "it is not here any more")
        self._disk.install(version, manifest, lambda chunk: checked(chunk.digest, sources[chunk.digest]()))
        self._shelf.look()


def _right(digest: str, data: bytes) -> bytes:
    try:
        return checked(digest, data)
    except BadInput as error:
        raise Unfit(f"the store holds something else: {error.message}") from None
