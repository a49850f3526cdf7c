"""What FOG_CHUNKS holds: whether an artifact is whole, and what nothing needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from schemas import jetstream, streams, subjects
from schemas.artifact import Manifest, check_paths, digest_of
from schemas.bus import Bus
from schemas.codec import Decoder
from schemas.errors import BadInput
from schemas.rollout import AppVersion

REMOVED_MAX = 500  # chunks in one sweep: whoever begins a rollout waits for its end
AT_ONCE = 16
_manifest: Decoder[Manifest] = Decoder(Manifest)


class Artifacts:
    """The store of artifacts. `unused` remembers since when each chunk was found in no artifact that is needed."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.unused: dict[str, float] = {}

    async def lacking(self, version: AppVersion) -> int:
        """How many of the version's chunks (its manifest is one) are not there.

        Raises BadInput for a manifest that no device would take, or that is not of `artifact_bytes`.
        """
        manifest = (await self._manifests([version.artifact])).get(version.artifact)
        if manifest is None:
            return 1
        check_paths(manifest)
        if manifest.size != version.artifact_bytes:
            raise BadInput("version.artifact_bytes", f"{version.artifact_bytes} is wrong: it has {manifest.size}")
        return len(_chunks(manifest) - await self._there())

    async def sweep(self, keep: set[str], now: float, grace_s: float) -> tuple[int, bool]:
        """Remove the chunks that are part of none of the artifacts `keep`, and were not since `grace_s`.

        Returns how many were removed, and whether more are to go.
        """
        there = await self._there()
        manifests = await self._manifests(keep & there)
        used = set(keep).union(*map(_chunks, manifests.values()))
        self.unused = {digest: self.unused.get(digest, now) for digest in there - used}
        due = [digest for digest, since in self.unused.items() if now - since >= grace_s]
        some = due[:REMOVED_MAX]
        for at in range(0, len(some), AT_ONCE):
            await asyncio.gather(*map(self._remove, some[at : at + AT_ONCE]))
        return len(some), len(due) > len(some)

    async def bytes(self) -> int:
        """What it takes in the broker."""
        return int((await jetstream.stream_info(self._bus, streams.CHUNKS))["state"]["bytes"])

    async def _remove(self, digest: str) -> None:
        await jetstream.purge_subject(self._bus, streams.CHUNKS, subjects.chunk(digest))
        self.unused.pop(digest, None)

    async def _there(self) -> set[str]:
        prefix = len(subjects.chunk(""))
        found = await jetstream.subjects(self._bus, streams.CHUNKS, subjects.chunk("*"))
        return {subject[prefix:] for subject in found}

    async def _manifests(self, digests: Iterable[str]) -> dict[str, Manifest]:
        """Those that are there and are what their name says."""
        wanted = [subjects.chunk(digest) for digest in digests]
        found = {}
        for message in await jetstream.multi_last(self._bus, streams.CHUNKS, wanted, 30.0):
            found[digest_of(message.data)] = _manifest(message.data)
        return {digest: manifest for digest, manifest in found.items() if subjects.chunk(digest) in wanted}


def _chunks(manifest: Manifest) -> set[str]:
    return {chunk.digest for file in manifest.files for chunk in file.chunks}
