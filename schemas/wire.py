"""NATS's protocol on the way in: messages to our own subscriptions are handed over as the socket gives them.

nats-py reads through a stream, a task and a regular expression a message; with a few messages a read, as in a fleet, that
costs more than handling them. This protocol sits before nats-py's: it takes the messages whose subscription has a handler
here, and passes everything else on, whole operations in their order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("fog.bus")

OnMessage = Callable[[str, str, bytes, bytes], None]

_M = ord("M")
_MESSAGES = frozenset(b"MH")


class Wire(asyncio.Protocol):
    """`handlers`, by subscription id as it stands on the wire. `inner` is the protocol that it sits before."""

    def __init__(self, inner: asyncio.Protocol, handlers: dict[bytes, OnMessage]) -> None:
        self._inner = inner
        self._handlers = handlers
        self._rest = bytearray()
        self._needed = 0  # bytes that `_rest` must hold before it is worth another look

    def data_received(self, data: bytes) -> None:
        """What the socket gave: any number of operations, the last perhaps not whole."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at, end = 0, len(data)
        self._needed = 0
        try:
            while at < end:
                line = data.find(b"\r\n", at)
                if line < 0:
                    break
                after = line + 2
                kind = data[at]
                if kind in _MESSAGES:
                    words = data[at:line].split(b" ")
                    after = line + 4 + int(words[-1])
                    if after > end:
                        self._needed = after - at
                        break
                    handler = self._handlers.get(words[2])
                    if handler is not None:
                        # ``MSG <subject> <sid> [reply] <size>``, ``HMSG <subject> <sid> [reply] <header size> <size>``
                        if kind == _M:
                            reply, headers, body = (words[3] if len(words) == 5 else b""), b"", line + 2
                        else:
                            reply, body = (words[3] if len(words) == 6 else b""), line + 2 + int(words[-2])
                            headers = data[line + 2 : body]
                        at = after
                        try:
                            handler(words[1].decode(), reply.decode(), data[body : after - 2], headers)
                        except Exception:
                            log.exception("a message handler failed subject=%s", words[1][:200])
                        continue
                self._inner.data_received(data[at:after])
                at = after
        except (ValueError, IndexError):
            self._inner.data_received(data[at:])  # nats-py says what is wrong with it, and connects anew
            return
        if at < end:
            self._rest += data[at:]

    def eof_received(self) -> bool | None:
        """The broker has closed."""
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._inner.resume_writing()
