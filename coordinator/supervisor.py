"""Runs a fixed set of child processes: starts them in order, reports one that dies, stops them in order.

Knows nothing of what they are; `coordinator.up` says that.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType

from schemas.errors import FogError
from schemas.procs import how_it_ended, kill_group, reaped

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 30.0  # before a restart; doubled by each death that comes soon
STEADY_S = 60.0  # a child that ran this long starts again without a longer wait
SAME_SIGNAL_S = 0.3  # a terminal and a parent may both pass on one Ctrl-C: so close together they are one
AILS_S = 5.0  # between two looks at how a child fares
TICK_S = 0.25  # where the system has no SIGCHLD, children are looked at this often

# Windows has no SIGHUP.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass(frozen=True)
class ChildSpec:
    """A child to run: `start` starts it and returns once others may rely on it.

    Higher `rank`s are stopped first. The death of a `vital` child ends all. `failed` begins the line that reports a
    death other than an orderly end, `then` ends it when the child is not started again. SIGKILL comes `stop_s` after SIGTERM.
    `ails` is asked every few seconds why the child should be stopped and started again; "" when it should not.
    """

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    rank: int = 0
    vital: bool = False
    failed: str = ""
    then: str = ""
    stop_s: float = 10.0
    ails: Callable[[], str] | None = None


@dataclass
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    due: float | None = None  # when to start it again


@dataclass
class Supervisor:
    """Runs `specs`; `say` tells the user a line, `changed` hears the pids by name whenever they change."""

    specs: Sequence[ChildSpec]
    restart: bool
    say: Callable[[str], None]
    changed: Callable[[dict[str, int]], None]
    _children: list[_Child] = field(default_factory=list)
    _signals: list[float] = field(default_factory=list)

    def run(self, started: Callable[[], None]) -> int:
        """Start all, call `started`, and wait for a signal or a vital child's death; then stop all.

        Returns 0 after a signal and 1 after a vital child's death. A second signal while stopping kills what is left
        and raises SystemExit. Errors of starting pass through, once what had started is stopped.
        """
        with _Wakeups(self._on_signal) as self._wakeups:
            try:
                return self._run(started)
            except SystemExit:
                self._kill_all()
                raise
            finally:
                self._stop_all()

    def _run(self, started: Callable[[], None]) -> int:
        for spec in self.specs:
            if self._signals:
                return 0
            child = _Child(spec)
            self._children.append(child)
            self._start(child)
        started()
        while not self._signals:
            self._wakeups.wait(self._until_due())
            if not all(self._look(child) for child in self._children):
                return 1
        return 0

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._signals and now - self._signals[0] > SAME_SIGNAL_S:
            raise SystemExit(128 + number)
        if not self._signals:
            self._signals.append(now)

    def _start(self, child: _Child) -> None:
        child.started, child.due = time.monotonic(), None
        child.process = child.spec.start()
        self._tell_pids()

    def _look(self, child: _Child) -> bool:
        """Report a death, start again what is due. False when it is the end of all."""
        if child.process is not None and (code := child.process.poll()) is not None:
            return self._died(child, child.process.pid, code)
        if child.process is not None and child.spec.ails is not None and (why := child.spec.ails()):
            self.say(f"{child.spec.name} is started again: {why}")
            self._stop([child])
            self._start_again(child)
        if child.due is not None and child.due <= time.monotonic():
            self._start_again(child)
        return True

    def _died(self, child: _Child, pid: int, code: int) -> bool:
        spec = child.spec
        reaped(pid)
        child.process = None
        self._tell_pids()
        ended = spec.failed if code and spec.failed else f"{spec.name} ended"
        what = f"{ended}: {how_it_ended(code)} (pid {pid})"
        if self.restart:
            self._plan_restart(child, what)
            return True
        self.say(f"{what}; {spec.then}" if spec.then else what)
        return not spec.vital

    def _plan_restart(self, child: _Child, what: str) -> None:
        now = time.monotonic()
        child.deaths = 1 if now - child.started > STEADY_S else child.deaths + 1
        delay = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (child.deaths - 1))
        child.due = now + delay
        self.say(f"{what}; starting again in {delay:g} s")

    def _start_again(self, child: _Child) -> None:
        try:
            self._start(child)
        except (FogError, OSError) as problem:
            self._plan_restart(child, f"{child.spec.name} could not start: {problem}")
        else:
            self.say(f"{child.spec.name} runs again (pid {child.process.pid if child.process else 0})")

    def _until_due(self) -> float | None:
        dues = [child.due for child in self._children if child.due is not None]
        dues += [time.monotonic() + AILS_S for child in self._children if child.spec.ails is not None][:1]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _tell_pids(self) -> None:
        self.changed({child.spec.name: child.process.pid for child in self._children if child.process})

    def _stop_all(self) -> None:
        for rank in sorted({child.spec.rank for child in self._children}, reverse=True):
            self._stop([child for child in self._children if child.spec.rank == rank and child.process])

    def _stop(self, children: list[_Child]) -> None:
        """SIGTERM to all of one rank at once, SIGKILL to those that do not end in time."""
        begun = time.monotonic()
        for child in children:
            assert child.process is not None
            child.process.terminate()
        try:
            for child in children:
                assert child.process is not None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.0, begun + child.spec.stop_s - time.monotonic()))
                if child.process.poll() is None:
                    self.say(f"{child.spec.name} did not stop within {child.spec.stop_s:g} s: killing it")
                self._kill(child)
        except SystemExit:
            self._kill_all()
            raise

    def _kill(self, child: _Child) -> None:
        if child.process is None:
            return
        if child.process.poll() is None:
            kill_group(child.process.pid)
            child.process.wait()
        reaped(child.process.pid)
        child.process = None

    def _kill_all(self) -> None:
        for child in self._children:
            self._kill(child)


class _Wakeups:
    """Signal handlers, and a socket that any signal makes readable: no signal is slept through."""

    def __init__(self, on_stop: Callable[[int, FrameType | None], None]) -> None:
        self._on_stop = on_stop
        self._here, self._there = socket.socketpair()

    def __enter__(self) -> _Wakeups:
        self._here.setblocking(False)
        self._there.setblocking(False)
        signal.set_wakeup_fd(self._there.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            # SIGINT is taken even where a shell started us in the background with it ignored; nohup is respected.
            if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_stop)
        if sys.platform != "win32":
            signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        self._here.close()
        self._there.close()

    def wait(self, timeout_s: float | None) -> None:
        """Until a signal came, or for `timeout_s`."""
        if sys.platform == "win32":
            timeout_s = min(TICK_S, timeout_s if timeout_s is not None else TICK_S)
        select.select([self._here], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            while self._here.recv(4096):
                pass
