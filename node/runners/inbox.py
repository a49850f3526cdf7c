"""What a runner was given to do: read from the socket by whichever thread is free, begun by one, and given back before that.

Beginning and giving back exclude each other: what is named in a `Withdrawn` has not begun, and never will here.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import NoReturn

from node.runners.frames import FRAME_MAX, HEAD, Call, CallEach, Launch, ToRunner, Withdraw, Withdrawn, decode_to_runner
from node.runners.page import Page

RECV_MAX = 1 << 18
Job = Call | CallEach | Launch


class Inbox:
    """The daemon's orders. `say` takes an answer, before whatever is said later; `die` is called when the daemon is gone."""

    def __init__(
        self, sock: socket.socket, page: Page, say: Callable[[Withdrawn], None], die: Callable[[], NoReturn]
    ) -> None:
        self._sock, self._page, self._say, self._die = sock, page, say, die
        self._in = bytearray()
        self._jobs: deque[Job] = deque()
        self._reading, self._taking = Lock(), Lock()

    def begin(self) -> Job | None:
        """The next one, which begins with this; None when there is none."""
        with self._taking:
            if not self._jobs:
                return None
            job = self._jobs.popleft()
            self._page.begins(job.key)
            return job

    def wait(self) -> None:
        """Return when something was read, or read by another thread before."""
        with self._reading:
            while not self._jobs and not self._read():
                pass

    def look(self) -> None:
        """Read what is there, unless another thread does."""
        if self._reading.acquire(blocking=False):
            try:
                while select.select([self._sock], (), (), 0)[0]:
                    self._read()
            finally:
                self._reading.release()

    def _read(self) -> bool:
        """Take in a block; whether that completed a frame."""
        block = self._sock.recv(RECV_MAX)
        if not block:
            self._die()
        if not self._in and len(block) > HEAD and len(block) == HEAD + int.from_bytes(block[:HEAD], "big"):
            self._take(decode_to_runner(memoryview(block)[HEAD:]))  # just one frame, which is the usual
            return True
        self._in += block
        return self._parse()

    def _parse(self) -> bool:
        """Take whole frames out of what was received; whether there was one."""
        found = False
        while len(self._in) >= HEAD:
            size = int.from_bytes(self._in[:HEAD], "big")
            if size > FRAME_MAX:
                self._die()
            if len(self._in) < HEAD + size:
                break
            messages = decode_to_runner(memoryview(self._in)[HEAD : HEAD + size].tobytes())
            del self._in[: HEAD + size]
            found = True
            self._take(messages)
        return found

    def _take(self, messages: list[ToRunner]) -> None:
        for message in messages:
            if isinstance(message, Withdraw):
                self._give_back(frozenset(message.keys))
            else:
                self._jobs.append(message)

    def _give_back(self, keys: frozenset[int]) -> None:
        with self._taking:
            back = tuple(job.key for job in self._jobs if job.key in keys)
            self._jobs = deque(job for job in self._jobs if job.key not in keys)
            self._say(Withdrawn(back))
