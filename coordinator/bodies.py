"""The submitted messages of tasks, as they came: a cache, so that placing (or moving) many at once needs no reading.

A body that is not here is read again from the message that is its task's place. So nothing waits for room here: not a
critical task behind large ones, and not the intake.
"""

from __future__ import annotations

from collections import OrderedDict

HELD_BYTES = 64 << 20
LOOSE_BYTES = 32 << 20


class Bodies:
    """Bodies by task id: *held* until the task is placed, as far as there is room; else *loose*, the oldest evicted first."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._loose: OrderedDict[str, bytes] = OrderedDict()
        self.held_bytes = 0
        self.loose_bytes = 0

    def hold(self, task: str, body: bytes) -> None:
        """Keep the body of a task that is yet to be placed. The first one counts: a task never changes."""
        if task in self._held:
            return
        if self.held_bytes + len(body) > HELD_BYTES:
            self.keep(task, body)
            return
        loose = self._loose.pop(task, None)
        if loose is not None:
            self.loose_bytes -= len(loose)
            body = loose
        self._held[task] = body
        self.held_bytes += len(body)

    def get(self, task: str) -> bytes | None:
        """The body, if it is here."""
        body = self._held.get(task)
        return body if body is not None else self._loose.get(task)

    def loosen(self, task: str) -> None:
        """The task is stored in a queue: its body may go when room is needed."""
        body = self._held.pop(task, None)
        if body is None:
            return
        self.held_bytes -= len(body)
        self.keep(task, body)

    def keep(self, task: str, body: bytes) -> None:
        """Keep a body while there is room. Its task lies in a queue, or may be over already."""
        if task in self._held or task in self._loose:
            return
        self._loose[task] = body
        self.loose_bytes += len(body)
        while self.loose_bytes > LOOSE_BYTES:
            self.loose_bytes -= len(self._loose.popitem(last=False)[1])

    def drop(self, task: str) -> None:
        """The task is over."""
        body = self._held.pop(task, None)
        if body is not None:
            self.held_bytes -= len(body)
        body = self._loose.pop(task, None)
        if body is not None:
            self.loose_bytes -= len(body)
