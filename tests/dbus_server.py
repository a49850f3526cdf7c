"""A message bus of our own making: a real socket that speaks D-Bus, and answers for the services that a test plays.

It serves one client after the other, and needs no dbus-daemon: the client's library (jeepney) reads and writes the messages.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

from jeepney import HeaderFields, Message, MessageFlag, MessageType, new_error, new_method_return
from jeepney.low_level import Parser

NO_SERVICE = "org.freedesktop.DBus.Error.ServiceUnknown"
Answer = tuple[str, tuple[Any, ...]] | None  # a signature and what it says; None: there is no answer, ever


class DbusServer:
    """`answers` by (destination, member) or, of a property, (destination, property's name). What is not there is an error.
    `asked` counts the calls, `auto_starts` those that would have started a service."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix:path={path}"
        self.answers: dict[tuple[str, str], Answer] = {}
        self.asked: list[tuple[str, str]] = []
        self.auto_starts = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(4)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Go, and break every connection."""
        for one in (self._socket, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            rest = self._authenticate(client)
            parser, serial = Parser(), 0
            while True:
                for call in parser.feed(rest):
                    reply = self._reply(call)
                    if reply is not None:
                        serial += 1
                        client.sendall(reply.serialise(serial))
                if not (rest := client.recv(65536)):
                    return
        except OSError:
            return

    def _authenticate(self, client: socket.socket) -> bytes:
        """SASL, as any bus does it: a zero, AUTH EXTERNAL, BEGIN; what came behind that."""
        said = b""
        while b"BEGIN\r\n" not in said:
            more = client.recv(4096)
            if not more:
                raise OSError("the client went")
            said += more
            if more.lstrip(b"\0").startswith(b"AUTH"):
                client.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
        return said.partition(b"BEGIN\r\n")[2]

    def _reply(self, call: Message) -> Message | None:
        if call.header.message_type is not MessageType.method_call:
            return None
        fields = call.header.fields
        member, destination = fields[HeaderFields.member], fields.get(HeaderFields.destination, "")
        if member == "Hello":
            return new_method_return(call, "s", (":1.1",))
        is_property = fields.get(HeaderFields.interface) == "org.freedesktop.DBus.Properties"
        key = (destination, call.body[1] if is_property else member)
        self.asked.append(key)
        self.auto_starts += not call.header.flags & MessageFlag.no_auto_start
        if key not in self.answers:
            return new_error(call, NO_SERVICE, "s", (f"The name {destination} was not provided",))
        answer = self.answers[key]
        if answer is None:
            return None
        signature, body = answer
        return (
            new_method_return(call, "v", ((signature, body[0]),)) if is_property else new_method_return(call, *answer)
        )
