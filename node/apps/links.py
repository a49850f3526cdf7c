"""Connections to peers that serve chunks: the asking end of `schemas.peer_link`."""

from __future__ import annotations

import asyncio
import contextlib

from schemas.artifact import Chunk
from schemas.errors import BadInput
from schemas.peer import ChunksHeld
from schemas.peer_link import LINE_MAX, proof, read_address, read_greeting, read_size

CONNECT_S = 3.0


class Link:
    """One connection, over which one chunk is asked for at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, me: str, cluster: str, peer: ChunksHeld) -> Link:
        """Connect, and prove to be a member. Raises OSError, also for what is no server of chunks."""
        host, port = read_address(peer.at)
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(host, port, limit=LINE_MAX)
            try:
                nonce = read_greeting(await reader.readline())
            except BaseException as error:  # also when it says nothing in that time
                writer.close()
                if isinstance(error, BadInput | ValueError):
                    raise OSError(f"{peer.at} serves no chunks: {error}") from None
                raise
        writer.write(f"{cluster} {me} {proof(peer.key, nonce)}\n".encode())
        return cls(reader, writer)

    async def get(self, chunk: Chunk) -> bytes | None:
        """A chunk as the peer says it is; None when it has not come there. Raises OSError, EOFError, BadInput."""
        self._writer.write(f"{chunk.digest}\n".encode())
        try:
            line = await self._reader.readline()
        except ValueError:
            raise BadInput("size", f"no line of at most {LINE_MAX} bytes") from None
        if not line:
            raise EOFError("it closed the connection")
        if read_size(line, chunk.size) is None:
            return None
        return await self._reader.readexactly(chunk.size)

    def close(self) -> None:
        """End it."""
        self._writer.close()


class Links:
    """The connections of one download, one a peer."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._open: dict[str, Link] = {}

    async def get(self, cluster: str, node: str, peer: ChunksHeld, chunk: Chunk) -> bytes | None:
        """`Link.get` over the connection that there is. When that has ended (the peer closes idle ones), over a new one."""
        link = self._open.pop(node, None)
        if link is not None:
            with contextlib.suppress(OSError, EOFError):
                return await self._over(link, node, chunk)
        return await self._over(await Link.open(self._me, cluster, peer), node, chunk)

    async def _over(self, link: Link, node: str, chunk: Chunk) -> bytes | None:
        try:
            data = await link.get(chunk)
        except BaseException:  # also when it is cut short in the middle of a chunk
            link.close()
            raise
        self.drop(node)
        self._open[node] = link
        return data

    def drop(self, node: str) -> None:
        """End the connection to a peer, if it is not in use."""
        link = self._open.pop(node, None)
        if link is not None:
            link.close()

    def close(self) -> None:
        """End all that are not in use."""
        for node in list(self._open):
            self.drop(node)
