"""A message as a stream holds it, read out of the answers to a batch request (`schemas.jetstream`)."""

from __future__ import annotations

import asyncio
import re

from msgspec import Struct

from schemas.errors import StoreRefused
from schemas.headers import header, status_of

_where = re.compile(rb"\r\nNats-Subject: ([^\r]+)\r\nNats-Sequence: (\d+)\r\nNats-Time-Stamp: ([^\r]+)\r\n").match


class StoredMessage(Struct, frozen=True, gc=False):
    """A message as a stream holds it. `time` is RFC 3339, the broker's."""

    subject: str
    seq: int
    data: bytes
    time: str = ""
    headers: bytes = b""


class Answer:
    """The messages of one batch, as they come in."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self.found: list[StoredMessage] = []
        self.ended: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

    def heard(self, _subject: str, _reply: str, data: bytes, headers: bytes) -> None:
        """A message of it, or the status that ends it."""
        status = 0 if headers[:10] == b"NATS/1.0\r\n" else status_of(headers)
        if not status:
            self.found.append(stored(data, headers))
        elif not self.ended.done():
            if status in (204, 404):
                told = [int(header(headers, n) or 0) for n in (b"Nats-Num-Pending", b"Nats-UpTo-Sequence")]
                self.ended.set_result((told[0], told[1]))
            else:
                words = headers[13:100].split(b"\r")[0].decode(errors="replace")
                self.ended.set_exception(StoreRefused(self._stream, status, words))

    async def whole(self, quiet_s: float) -> bool:
        """Whether it came to its end; False once nothing has come for so long."""
        before = -1
        while not self.ended.done() and len(self.found) > before:
            before = len(self.found)
            await asyncio.wait((self.ended,), timeout=quiet_s)
        return self.ended.done()


def stored(data: bytes, headers: bytes) -> StoredMessage:
    """A message of a batch. The broker writes where it lies behind the publisher's own headers, which it must not be taken
    from; at once where it does so in the usual order: a takeover reads a hundred thousand."""
    usual = _where(headers, max(0, headers.rfind(b"\r\nNats-Subject:")))
    if usual is not None:
        subject, seq, time = usual.groups()
        return StoredMessage(subject.decode(), int(seq), data, time.decode(), headers)
    return StoredMessage(
        header(headers, b"Nats-Subject").decode(),
        int(header(headers, b"Nats-Sequence") or 0),
        data,
        header(headers, b"Nats-Time-Stamp").decode(),
        headers,
    )
