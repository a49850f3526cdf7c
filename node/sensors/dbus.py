"""Asking a message bus of the desktop (D-Bus): on a thread of its own, never waited for, never raising.

The library is jeepney, which is pure Python; it comes with ``fogfleet[desktop]``, since phones and servers have no use for it.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from node.sensors.reading import Reading, known, unknown
from node.sensors.tree import Tree

ANSWER_S = 2.0  # one question
_MISSING = "the D-Bus library is not installed: pip install 'fogfleet[desktop]'"
_PROPERTIES = "org.freedesktop.DBus.Properties"


class Question(NamedTuple):
    """A method call. The answer is its first value."""

    destination: str
    path: str
    interface: str
    member: str
    signature: str = ""
    body: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.destination} {self.body[-1] if self.interface == _PROPERTIES else self.member}"


def prop(destination: str, path: str, interface: str, name: str) -> Question:
    """The question for one property."""
    return Question(destination, path, _PROPERTIES, "Get", "ss", (interface, name))


def system_address(env: Mapping[str, str], tree: Tree) -> Reading[str]:
    """Where the machine's own bus listens."""
    if address := env.get("DBUS_SYSTEM_BUS_ADDRESS", ""):
        return known(address, "DBUS_SYSTEM_BUS_ADDRESS")
    for path in ("/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket"):
        if tree.exists(path):
            return known(f"unix:path={tree.real(path)}", path)
    return unknown("there is no system bus (D-Bus)")


def session_address(env: Mapping[str, str], tree: Tree) -> Reading[str]:
    """Where the bus of this user's session listens."""
    if address := env.get("DBUS_SESSION_BUS_ADDRESS", ""):
        return known(address, "DBUS_SESSION_BUS_ADDRESS")
    folder = env.get("XDG_RUNTIME_DIR", "") or (f"/run/user/{os.getuid()}" if hasattr(os, "getuid") else "")
    if folder and tree.exists(f"{folder}/bus"):
        return known(f"unix:path={tree.real(folder)}/bus", f"{folder}/bus")
    return unknown("there is no session bus (D-Bus): this does not run in a user's session")


class MessageBus:
    """One bus. `read` gives the newest answer to a question, and asks again when that is due."""

    def __init__(self, address: Reading[str]) -> None:
        self._address = address
        self._asked: dict[Question, float] = {}
        self._answers: dict[Question, tuple[float, Reading[Any]]] = {}
        self._todo: queue.SimpleQueue[tuple[Question, float] | None] = queue.SimpleQueue()
        self._pending: set[Question] = set()  # asked, and not answered yet
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> bool:
        """Whether an answer is under way."""
        return bool(self._pending)

    def read(self, question: Question, now: float, every_s: float, keep_s: float) -> Reading[Any]:
        """The newest answer, unless it was asked for more than `keep_s` ago. Takes no time."""
        if self._address.value is None:
            return unknown(self._address.reason)
        due = (
            not 0 <= now - self._asked.get(question, float("-inf")) < every_s
        )  # a clock that was set back counts as due
        if due and question not in self._pending:
            self._ask(question, now)
        asked_at, answer = self._answers.get(question, (now, unknown(f"{question} has not answered yet")))
        if answer.value is not None and not 0 <= now - asked_at < keep_s:
            return unknown(f"{question} was last answered more than {keep_s:g} s ago")
        return answer

    def _ask(self, question: Question, now: float) -> None:
        self._asked[question] = now
        self._pending.add(question)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="message bus", daemon=True)
            self._thread.start()
        self._todo.put((question, now))

    def close(self) -> None:
        """Ask no more."""
        if self._thread is not None:
            self._todo.put(None)
            self._thread = None

    # On the thread.

    def _work(self) -> None:
        connection: Any = None
        while (task := self._todo.get()) is not None:
            question, now = task
            try:
                if connection is None:
                    connection = _connect(str(self._address.value))
                answer = _put(connection, question)
            except ImportError:
                answer = unknown(_MISSING)
            except Exception as problem:  # jeepney's own, the system's, and those of a strange answer
                _close(connection)
                connection = None
                answer = unknown(f"{question}: {type(problem).__name__} {problem}"[:200])
            self._answers[question] = now, answer
            self._pending.discard(question)
        _close(connection)


def _connect(address: str) -> Any:
    from jeepney.io.blocking import open_dbus_connection

    return open_dbus_connection(address, auth_timeout=ANSWER_S)


def _put(connection: Any, question: Question) -> Reading[Any]:
    from jeepney import DBusAddress, MessageFlag, MessageType, new_method_call

    address = DBusAddress(question.path, question.destination, question.interface)
    call = new_method_call(address, question.member, question.signature or None, question.body)
    call.header.flags = MessageFlag.no_auto_start  # a service that does not run must not be started for this
    reply = connection.send_and_get_reply(call, timeout=ANSWER_S)
    if reply.header.message_type is MessageType.error:
        said = reply.body[0] if reply.body else "an error"
        return unknown(f"{question}: {said}")
    value: Any = reply.body[0] if reply.body else None
    if question.interface == _PROPERTIES:
        value = value[1]  # a variant comes as its signature and its value
    return known(value, str(question))


def _close(connection: Any) -> None:
    if connection is not None:
        connection.close()
