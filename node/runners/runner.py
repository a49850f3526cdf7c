"""The daemon's side of one runner: its process, its socket, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from node.core.lanes import Lane
from node.core.last import Last
from node.runners import tree
from node.runners.frames import FRAME_MAX, HEAD, FromRunner, ToRunner, decode_from_runner, frame
from node.runners.page import Page
from schemas.procs import how_it_ended
from schemas.ticks import ticks

log = logging.getLogger("fog.node.runner")

RECV_MAX = 1 << 18
GRACE_S = 0.5  # between TERM and KILL
START_MAX_S = 300.0  # for a runner to import its modules: some are large, and some devices slow
GUARD_S = 0.8  # after its lease a runner that the daemon has not stopped ends itself; less than EXCLUSIVE_STOP_S
WAIT_S = 0.01  # between two looks for the exit code of a process whose socket has closed


class Runner:
    """A child process that runs one thing at a time. `lane` is what it works on now; `ready` once it said hello; `last`, once
    it is gone, what it did last. `now` is the clock by which its start may take `START_MAX_S`."""

    def __init__(
        self,
        modules: tuple[str, ...],
        on_message: Callable[[Runner, FromRunner], None],
        on_gone: Callable[[Runner, str], None],
        now: Callable[[], float] | None = None,
    ) -> None:
        self.lane: Lane | None = None
        self.ready = False
        self.idle_since = 0.0
        self.error = ""
        self.last: Last | None = None
        self._on_message, self._on_gone = on_message, on_gone
        self._loop = asyncio.get_running_loop()
        self._in = bytearray()
        self._out: list[ToRunner] = []
        self._unsent = bytearray()
        self._stopping = False
        self._gone = False
        self._page = Page.new()
        try:
            self._sock, self._process = self._spawn(modules)
        except OSError:
            self._page.close()
            raise
        self.pid = self._process.pid
        self._modules = modules
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self._now = now or self._loop.time
        self._begun = self._now()
        self._starting = self._loop.call_later(START_MAX_S, self._is_ready)

    def _spawn(self, modules: tuple[str, ...]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        more: dict[str, Any] = {}
        if sys.platform == "win32":
            theirs.set_inheritable(True)
            startup = subprocess.STARTUPINFO()
            startup.lpAttributeList = {"handle_list": [theirs.fileno()]}
            more["startupinfo"] = startup
        else:
            more.update(pass_fds=(theirs.fileno(), self._page.fd), start_new_session=True)
        # As this process was started: with -P where what lies in the current folder must not stand in for our packages.
        safe = ["-P"] if sys.flags.safe_path else []
        argv = [sys.executable, *safe, "-m", "node.runners.child", f"{theirs.fileno()},{self._page.fd}", *modules]
        with theirs:
            try:
                return ours, subprocess.Popen(argv, stdin=subprocess.DEVNULL, **more)
            except OSError:
                ours.close()
                raise

    def hello(self, error: str) -> None:
        """It has said hello: it is ready, or `error` says why it never will be, and it goes."""
        self._starting.cancel()
        self.ready, self.error = not error, error
        if error:
            self.kill()

    @property
    def holdable(self) -> bool:
        """Whether it may be stopped (SIGSTOP) for a while: from when its daemon's death continues it, until it ends."""
        return self._page.up and not self._stopping and not self._gone

    @property
    def at_work_on(self) -> int:
        """The key of what it does just now; 0: nothing, or it cannot tell."""
        last = self._page.last()
        return last.begun if last is not None and last.begun > last.through else 0

    def _is_ready(self) -> None:
        """Time that the node kept it stopped is not time to get ready in."""
        left_s = self._begun + START_MAX_S - self._now()
        if left_s > 0:
            self._starting = self._loop.call_later(max(1.0, left_s), self._is_ready)
            return
        named = f", importing {', '.join(self._modules)}" if self._modules else ""
        self.error = f"the runner did not get ready within {START_MAX_S:g} s{named}"
        self.kill()

    def lease(self, until: float) -> None:
        """What it works on may run until these ticks; 0: as long as it takes."""
        self._page.end_by(until + GUARD_S if until else 0.0)

    # Talking.

    def send(self, messages: list[ToRunner]) -> None:
        """Give it these, with whatever else is given in this turn of the event loop, in one frame."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += messages

    def _flush(self) -> None:
        if self._gone or not self._out:
            return
        data = frame(self._out)
        self._out = []
        if self._unsent:
            self._unsent += data
            return
        sent = self._send(data)
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self._loop.add_writer(self._sock.fileno(), self._write)

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # the reader sees its end

    def _write(self) -> None:
        del self._unsent[: self._send(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            block = self._sock.recv(RECV_MAX)
        except BlockingIOError:
            return
        except OSError:
            block = b""
        if not block:
            self._closed()
            return
        try:
            if self._in or len(block) < HEAD or len(block) != HEAD + int.from_bytes(block[:HEAD], "big"):
                self._in += block
                self._parse()
            else:  # just one frame, which is the usual
                for message in decode_from_runner(memoryview(block)[HEAD:]):
                    self._on_message(self, message)
        except Exception:
            log.exception("a runner said something unreadable pid=%s", self.pid)
            self._in.clear()
            self.kill()

    def _parse(self) -> None:
        data, at = self._in, 0
        while len(data) - at >= HEAD:
            size = int.from_bytes(data[at : at + HEAD], "big")
            if size > FRAME_MAX:
                raise ValueError(f"a frame of {size} bytes")
            if len(data) - at < HEAD + size:
                break
            messages = decode_from_runner(bytes(data[at + HEAD : at + HEAD + size]))
            at += HEAD + size
            for message in messages:
                self._on_message(self, message)
        if at:
            del data[:at]

    # Ending.

    def stop(self) -> None:
        """Stop it and everything below it: TERM, CONT, and after `GRACE_S` KILL. `on_gone` tells when it is over."""
        if self._stopping or self._gone:
            return
        self._stopping = True
        if self._page.is_over(ticks()):  # stopped over the end of its lease: it must not run for another moment
            self.kill()
            return
        tree.ask_to_stop(self.pid)
        self._loop.call_later(GRACE_S, self.kill)

    def kill(self) -> None:
        """Stop it now."""
        self._stopping = True
        if self._process.returncode is None:
            tree.kill(self.pid)

    def close(self) -> None:
        """It is idle and not needed: its end of the socket tells it to go."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _closed(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._starting.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._await_exit(100)

    def _await_exit(self, looks: int) -> None:
        code = self._process.poll()
        if code is None:
            if looks == 0:
                tree.kill(self.pid)
            self._loop.call_later(WAIT_S, self._await_exit, looks - 1)
            return
        tree.send(tree.in_session(self.pid), tree.KILL)
        self.last = self._page.last()
        self._page.close()
        self._on_gone(self, self.error or f"the runner ended: {how_it_ended(code)}")
