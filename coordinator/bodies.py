"""The submitted messages of tasks, as they came, for as long as they may be needed to place (or move) them.

Bodies of tasks that lie in a node's queue could be read again from FOG_WORK; they are kept here only so that moving many
at once needs no reading, and only up to `LOOSE_BYTES`.
"""

from __future__ import annotations

from collections import OrderedDict

HELD_BYTES = 64 << 20  # beyond this, no more TASKS are pulled
LOOSE_BYTES = 32 << 20


class Bodies:
    """Bodies by task id: *held* until the task is placed, *loose* (evicted oldest first) afterwards."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._loose: OrderedDict[str, bytes] = OrderedDict()
        self.held_bytes = 0
        self.loose_bytes = 0

    def hold(self, task: str, body: bytes) -> None:
        """Keep the body of a task that is yet to be placed. The first one counts: a task never changes."""
        if task in self._held:
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

    @property
    def full(self) -> bool:
        """Whether no more TASKS should be pulled for now."""
        return self.held_bytes >= HELD_BYTES
