"""Serves chunks to the members of this node's clusters: a listener of its own, at the address that its owner gave.

Who asks proves by a key, which is only told over the broker, that it is a member (`schemas.peer_link`). It costs the device
little: `CONNECTIONS` at most, `UPLOADS` chunks at a time, within its bandwidth, and nothing at all while `why_not` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable

from node.apps.shelf import Shelf
from node.core.seats import Seats
from node.core.serving import why_too_far
from node.enforce.throttle import Throttle
from schemas.errors import BadInput
from schemas.logs import fields
from schemas.peer import ChunksAsk, ChunksHeld
from schemas.peer_link import GREETING, IDLE_S, LACKING, LINE_MAX, WAIT_S, is_proof, key_of

log = logging.getLogger("fog.node.peers")

AUTO = "auto"  # as the address: the one by which this device reaches its broker
CONNECTIONS = 16
OF_ONE_NODE = 2  # connections
UPLOADS = 4
HELLO_S = 5.0
SEND_S = 30.0  # for one answer to be taken
NOT_SHARED = "its owner shares nothing: `fog node --share`"


class Share:
    """Listens once `open` was called. `served_bytes` counts what went to peers. `site` is the mark of this node's gateway."""

    def __init__(
        self,
        seats: Seats,
        shelf: Shelf,
        throttle: Throttle,
        why_not: Callable[[], str],
        site: Callable[[], str] = lambda: "",
    ) -> None:
        self._seats, self._shelf, self._throttle, self._why_not, self._site = seats, shelf, throttle, why_not, site
        self._secret = secrets.token_bytes(32)
        self._turns = asyncio.Semaphore(UPLOADS)
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()
        self._links: dict[asyncio.Task[None], str] = {}
        self._host = self.at = ""
        self.served_bytes = 0

    async def open(self, host: str, port: int, broker: tuple[str, int]) -> None:
        """Listen there (`AUTO`: as this device reaches `broker`), and no longer where it listened before. When that cannot
        be, it is logged, and nobody is served."""
        async with self._opening:
            await self._open(host, port, broker)

    async def _open(self, host: str, port: int, broker: tuple[str, int]) -> None:
        try:
            host = await asyncio.to_thread(_address, host, broker)
            if self._server is not None and self._host == host:
                return
            await self.close()
            self._host = host
            self._server = await asyncio.start_server(self._accept, host, port, limit=LINE_MAX)
        except OSError as error:
            log.warning("peers cannot be served", extra=fields(at=host, error=error.strerror or str(error)))
            return
        host, port = self._server.sockets[0].getsockname()[:2]
        self.at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        log.info("peers are served", extra=fields(at=self.at))

    async def close(self) -> None:
        """Serve nobody any more."""
        if self._server is not None:
            self._server.close()
        self._server, self.at = None, ""
        links = list(self._links)
        for task in links:
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    # Over the broker.

    def held(self, cluster: str, ask: ChunksAsk) -> ChunksHeld:
        """A member wants to know what is here. Raises BadInput for who is none."""
        if not self._is_member(cluster, ask.node):
            raise BadInput("node", f"{ask.node} is not in cluster {cluster}")
        takes, have = self._shelf.held(ask.artifact)
        why = self._why_not() or why_too_far(self._site(), ask.site) or ("" if self.at else NOT_SHARED)
        if why:
            return ChunksHeld(why_not=why, takes=takes)
        return ChunksHeld(self.at, key_of(self._secret, cluster, ask.node), "", takes, have)

    def _is_member(self, cluster: str, node: str) -> bool:
        seat = self._seats.now.get(cluster)
        return seat is not None and any(peer.node == node for peer in seat.peers)

    def near(self, site: str) -> str:
        """Where it listens, for one behind the same gateway that measures how near it is; "" for others, and while it serves
        nobody."""
        return "" if self._why_not() or not site or site != self._site() else self.at

    # Directly.

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._links) < CONNECTIONS:
                self._links[task] = ""
                await self._serve(task, reader, writer)
        except (OSError, ValueError):
            pass  # it is gone, or does not speak as it should: it may come again
        except asyncio.CancelledError:
            pass  # we end
        finally:
            self._links.pop(task, None)
            writer.close()

    async def _serve(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.timeout(HELLO_S):
            node = await self._who(reader, writer)
        if not node or Counter(self._links.values())[node] >= OF_ONE_NODE:
            return
        self._links[task] = node
        while not self._why_not():
            async with asyncio.timeout(IDLE_S):
                line = await reader.readline()
            if not line:
                return
            await self._answer(line.decode("latin-1").strip(), writer)

    async def _who(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """The member that has proved that it is one; "" for anybody else."""
        nonce = secrets.token_hex(16)
        writer.write(f"{GREETING} {nonce}\n".encode())
        words = (await reader.readline()).decode("latin-1").split()
        if len(words) != 3:
            return ""
        cluster, node, said = words
        known = self._is_member(cluster, node) and is_proof(said, key_of(self._secret, cluster, node), nonce)
        if not known:
            log.warning("a peer is not known", extra=fields(peer=node[:63], cluster=cluster[:63]))
        return node if known else ""

    async def _answer(self, digest: str, writer: asyncio.StreamWriter) -> None:
        if not await self._shelf.has(digest, WAIT_S):
            await self._send(writer, LACKING)
            return
        async with self._turns:
            data = await self._read(digest)
            if data is None:
                await self._send(writer, LACKING)
                return
            await self._throttle.paced(len(data))
            await self._send(writer, f"{len(data)}\n".encode(), data)
        self.served_bytes += len(data)

    async def _send(self, writer: asyncio.StreamWriter, *pieces: bytes) -> None:
        """Once it is taken: what nobody reads does not pile up here."""
        async with asyncio.timeout(SEND_S):
            for piece in pieces:
                writer.write(piece)
            await writer.drain()

    async def _read(self, digest: str) -> bytes | None:
        try:
            return await asyncio.to_thread(self._shelf.read, digest)
        except (OSError, BadInput) as error:
            log.warning("a chunk cannot be served", extra=fields(digest=digest, error=str(error)))
            return None


def _address(host: str, broker: tuple[str, int]) -> str:
    """`host`, or what `AUTO` stands for. Blocks; raises OSError."""
    if host != AUTO:
        return host
    family, kind, _, _, to = socket.getaddrinfo(*broker, type=socket.SOCK_DGRAM)[0]
    with contextlib.closing(socket.socket(family, kind)) as probe:
        probe.connect(to)  # sends nothing: the system says which of its addresses it would use
        found: str = probe.getsockname()[0]
        return found
