"""Members of one cluster without their daemons: real shares, fetchers and connections, a real broker and store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from node.apps.disk import Disk
from node.apps.fetch import Fetcher, Progress
from node.apps.peers import Peers
from node.apps.share import Share
from node.apps.shelf import Shelf
from node.clusters import Clusters
from node.context import Context
from node.enforce.throttle import Throttle
from schemas.bus import Bus
from schemas.cluster import Membership, Peer
from schemas.device import DeviceState
from schemas.eventlog import EventLog
from schemas.limits import CHUNK_BYTES
from schemas.membership import Offer
from schemas.rollout import AppVersion
from schemas.store import Store
from schemas.target import Target

LOOPBACK = ("127.0.0.1", 0, ("127.0.0.1", 4222))


class Sharer:
    """One member. `why_not` is why it serves nobody; `batch` how many chunks it asks of the store in one go."""

    def __init__(self, name: str, bus: Bus, folder: Path, shelf: type[Shelf] = Shelf) -> None:
        self.name, self.bus, self.why_not, self.batch = name, bus, "", 2
        self.site = ""  # the mark of its gateway
        store = Store(bus)
        self.context = Context(name, bus, store, EventLog(bus, store, f"/fog/node/{name}"), Offer())
        self.clusters = Clusters(self.context, lambda _now: DeviceState())
        self.disk, self.throttle = Disk(folder / name), Throttle()
        self.shelf = shelf(self.disk)
        seats = self.clusters.seats
        self.share = Share(seats, self.shelf, self.throttle, lambda: self.why_not, lambda: self.site)
        self.peers = Peers(
            self.context,
            seats,
            self.clusters.seated,
            self.throttle.paced,
            lambda: bool(self.share.at) and not self.why_not,
        )
        self.fetcher = Fetcher(bus, self.disk, self.shelf, self.peers, lambda: self.batch * CHUNK_BYTES, self.throttle)
        self.clusters.share(self.share.held, self.share.near)
        self.progress = Progress()

    def told(self, members: Sequence[str], version: int = 1) -> None:
        """It is in cluster c1 with these; the first leads."""
        peers = tuple(Peer(name) for name in members)
        assert not self.clusters.told(Membership(1, "c1", 1, version, members[0], peers))

    async def fetch(self, version: AppVersion) -> Progress:
        """Install it."""

        def tell(progress: Progress) -> None:
            self.progress = progress

        await self.fetcher.fetch(version, tell)
        return self.progress

    def installed(self, version: AppVersion, path: str) -> bytes:
        """A file of a version."""
        return (self.disk.folder(version) / path).read_bytes()


@asynccontextmanager
async def sharers(
    target: Target, folder: Path, names: Sequence[str], liars: dict[str, type[Shelf]] | None = None
) -> AsyncIterator[list[Sharer]]:
    """Members of cluster c1 that listen, each with a connection of its own to the broker."""
    async with AsyncExitStack() as ends:
        found = []
        for name in names:
            bus = await Bus.connect(target, name=name)
            ends.push_async_callback(bus.close)
            one = Sharer(name, bus, folder, (liars or {}).get(name, Shelf))
            ends.callback(one.context.store.close)
            ends.callback(one.context.events.close)
            ends.push_async_callback(one.share.close)
            one.told(names)
            await one.share.open(*LOOPBACK)
            await one.clusters.start()
            found.append(one)
        yield found
