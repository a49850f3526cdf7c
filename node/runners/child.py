"""A runner: ``python -m node.runners.child FD,FD [MODULE…]``, started by the daemon, which alone talks to it over the first FD.

It imports the owner's modules, says what they offer, and then does one thing at a time. Its end of the socket tells it when
the daemon is gone: then it kills everything below itself and goes, however the daemon ended.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from types import FrameType
from typing import NoReturn

from node.runners import tree
from node.runners.calls import Function
from node.runners.capture import Capture
from node.runners.frames import Call, CallEach, Failed, FromRunner, Hello, Launch, Printed, Progressed, frame
from node.runners.inbox import Inbox, Job
from node.runners.page import Page
from node.runners.program import run
from node.runners.work import Stopped, call, call_each, explain, sendable
from schemas.errors import FogError
from schemas.procs import wake_with_parent
from schemas.ticks import ticks

FLUSH_S = 0.01  # answers and output wait no longer than this
LINGER_S = 0.03  # for so long after the last call the watching thread stays awake
LOOK_S = 0.005  # after a call that took longer than this, look whether the rest is asked back
TEXT_MAX = 64 * 1024  # characters of output waiting before the printing call itself has to send them
FINISH_S = 0.4  # less than `runner.GRACE_S`
ENDED = 143  # 128 + SIGTERM


class Runner:
    """The process's one state: the socket, what is to do, what is to be said."""

    def __init__(self, sock: socket.socket, page: Page) -> None:
        self._sock, self._page = sock, page
        self._out: deque[FromRunner] = deque()
        self._inbox = Inbox(sock, page, self._out.append, self._die)
        self._text = 0
        self._sending = threading.Lock()
        self._key = 0
        self._functions: dict[str, Function] = {}
        self._wake_reader, self._wake_writer = os.pipe()
        self._busy = True  # importing
        self._attentive = True  # the watching thread looks every FLUSH_S; else it waits to be woken
        self._attentive_until = 0.0
        self._copy = False  # a child that a function forked
        self._progressed: Progressed | None = None  # the latest, not sent yet
        self._capture = Capture(self._print)
        self._stopping = False
        self._home = os.getcwd()

    # Being started.

    def start(self, modules: list[str]) -> None:
        """Watch the daemon, import the modules, say hello."""
        self._sock.set_inheritable(False)  # a copy below would hide this process's death from the daemon
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)
        signal.signal(signal.SIGTERM, self._stop)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        error = ""
        try:
            self._load(modules)
        except FogError as problem:
            error = problem.message
        self._out.append(Hello(tuple(f.offer() for f in self._functions.values()), error))
        self._busy = False
        self._flush()

    def _load(self, modules: list[str]) -> None:
        import node

        node._hooks["progress"] = self._progress
        if not {"", os.getcwd()} & set(sys.path):  # the owner's modules may lie in the current folder, after all others
            sys.path.append(os.getcwd())
        for module in ("node.builtin", *modules):
            try:
                importlib.import_module(module)
            except BaseException as problem:
                raise FogError(f"cannot import {module}: {explain(problem)}") from None
        for name, fn in node._registry.items():
            try:
                self._functions[name] = Function(name, fn)
            except FogError:
                raise
            except Exception as problem:
                raise FogError(f"cannot offer {name}: {explain(problem)}") from None

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            raise Stopped

    def _forked(self) -> None:
        """In a child that a function forked: it is no runner, and what it prints goes to the descriptors that we read."""
        self._copy = True
        self._sock.close()
        self._out.clear()
        self._progressed = None
        if signal.getsignal(signal.SIGTERM) == self._stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._capture.release()

    # Working.

    def work(self) -> None:
        """Do what comes, until the daemon goes or says stop."""
        inbox = self._inbox
        while True:
            inbox.wait()
            self._busy = True
            if not self._attentive:
                os.write(self._wake_writer, b"x")
            looked = time.perf_counter()
            while (job := self._next()) is not None:
                self._do(job)
                now = time.perf_counter()
                if now - looked > LOOK_S:
                    inbox.look()
                    looked = now
            self._busy = False
            self._flush()

    def _next(self) -> Job | None:
        """What to begin now. Whatever a function made of being stopped: nothing more."""
        if self._stopping:
            raise Stopped
        return self._inbox.begin()

    def _do(self, job: Job) -> None:
        self._key = job.key
        answer: FromRunner
        if isinstance(job, Launch):
            answer = run(job, self._print, time.perf_counter)
        elif (function := self._functions.get(job.name)) is None:
            answer = Failed(job.key, 0.0, f"no function {job.name} here")
        elif isinstance(job, Call):
            answer = call(job, function, time.perf_counter)
        else:
            assert isinstance(job, CallEach)
            answer = call_each(job, function, time.perf_counter)
        if self._copy:  # the child of a function that forked and came back twice: one answer is enough
            sys.stdout.flush()
            os._exit(0)
        self._page.is_through(job.key)
        self._capture.drain()
        self._key = 0
        if self._progressed is not None:
            with self._sending:
                self._take_progress()
        self._out.append(answer)
        self._go_home()

    def _go_home(self) -> None:
        """Where a function went must not decide what the next one finds."""
        try:
            if os.getcwd() == self._home:
                return
        except OSError:  # what it went to is gone
            pass
        with contextlib.suppress(OSError):
            os.chdir(self._home)

    # Saying.

    def _print(self, stream: str, text: str) -> None:
        self._out.append(Printed(self._key, stream, text))
        self._text += len(text)
        if self._text > TEXT_MAX:
            self._flush()

    def _progress(self, fraction: float, text: str) -> None:
        """Only the latest is kept: told in a tight loop it would be more than anybody reads."""
        self._progressed = Progressed(self._key, fraction, sendable(text))

    def _take_progress(self) -> None:
        told, self._progressed = self._progressed, None
        if told is not None:
            self._out.append(told)

    def _flush(self) -> None:
        with self._sending:
            self._take_progress()
            messages: list[FromRunner] = []
            while self._out:
                messages.append(self._out.popleft())
            self._text = 0
            if messages:
                self._sock.sendall(frame(messages))

    # Watching.

    def _watch(self) -> None:
        """On a thread: notice that the daemon is gone; while busy, send what waits, and read the descriptors and what comes."""
        if not hasattr(select, "poll"):
            self._watch_plainly()
        poll = select.poll()
        poll.register(self._sock, 0)  # hang-up only
        poll.register(self._wake_reader, select.POLLIN)
        for pipe in self._capture.pipes:
            poll.register(pipe.reader, select.POLLIN)
        pipes = {pipe.reader: pipe for pipe in self._capture.pipes}
        while True:
            for fd, what in poll.poll(FLUSH_S * 1000 if self._is_attentive() else None):
                if fd == self._sock.fileno() and what & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                    self._die()
                if fd == self._wake_reader:
                    os.read(self._wake_reader, 4096)
                elif fd in pipes and not pipes[fd].drain():
                    poll.unregister(fd)  # nobody can write there any more: a function put something else in its place
            if self._page.is_over(ticks()):
                self._die()  # its lease is over, and the daemon stands still
            if self._busy:
                self._look()
            if self._out or self._progressed is not None:
                self._try_flush()

    def _is_attentive(self) -> bool:
        """Whether there is, or was just now, something to look after. Waking this thread for every batch of quick calls would
        cost more than they do (measured: 94 → 72 µs for one call at a time).

        Said first and looked at then: who begins to work in between either is seen here, or sees that it must wake us.
        """
        self._attentive = False
        if self._busy or self._out or self._progressed is not None:
            self._attentive_until = ticks() + LINGER_S
        self._attentive = ticks() < self._attentive_until
        return self._attentive

    def _watch_plainly(self) -> NoReturn:
        from schemas.procs import die_with_parent  # Windows: no poll, no sessions; the parent is waited for

        die_with_parent()
        while True:
            time.sleep(FLUSH_S)
            self._capture.drain()
            self._look()
            if self._out or self._progressed is not None:
                self._try_flush()

    def _look(self) -> None:
        """What is asked back must not wait for a long call to end."""
        try:
            self._inbox.look()
        except OSError:
            self._die()

    def _try_flush(self) -> None:
        try:
            self._flush()
        except OSError:
            self._die()

    def _die(self) -> NoReturn:
        """Leave nothing: everything below, then the own group, then this process."""
        tree.kill_below(os.getpid())
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            with contextlib.suppress(OSError):
                os.killpg(0, signal.SIGKILL)
        os._exit(ENDED)


def _become_subreaper() -> None:
    """What double-forks away stays below this process (PR_SET_CHILD_SUBREAPER, prctl(2))."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)


def _let_finish() -> None:
    """What runs below was told to stop as well: it has until shortly before the daemon kills everything."""
    until = time.monotonic() + FINISH_S
    while time.monotonic() < until and tree.below(os.getpid()):
        time.sleep(0.01)


def main() -> None:
    """Run until the daemon is gone or asks to stop."""
    _become_subreaper()
    fds = sys.argv[1].split(",")
    page = Page(int(fds[1]))
    wake_with_parent()
    page.is_up()
    runner = Runner(socket.socket(fileno=int(fds[0])), page)
    try:
        runner.start(sys.argv[2:])
        runner.work()
    except Stopped:
        _let_finish()
    except OSError:
        pass
    runner._die()


if __name__ == "__main__":
    main()
