"""Child processes that never outlive their parent, however the parent ends, and that its terminal cannot interrupt.

Linux: a tiny launcher in the child asks the kernel to kill it when its parent dies (PR_SET_PDEATHSIG), checks that the
parent still lives, and then becomes the wanted program, under the same pid. (A `preexec_fn` would do the same, but is
unsafe once the parent has threads.) The kernel means the *thread* that spawned: spawn from one that stays.
Elsewhere: one guard process holds the reading end of a pipe from the parent; its end of file means that the parent is
gone, and the guard kills what it was told to.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(137)
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
os.execv(sys.argv[2], sys.argv[3:])
"""

_GUARD = """
import os, signal, sys
pids = set()
for line in sys.stdin:
    (pids.add if line[0] == "+" else pids.discard)(int(line[1:]))
for pid in pids:
    try:
        os.kill(pid, getattr(signal, sys.argv[1], signal.SIGTERM))
    except OSError:
        pass
"""

# Windows has no sessions; a process group of its own keeps Ctrl-C away there.
_OWN_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)

Stream = int | IO[bytes] | None


def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` as a child in a session of its own (no terminal signal reaches it) that dies with this process.

    SIGINT has its default meaning there, also where this process was started with SIGINT ignored. No file descriptor
    is inherited but the streams and `pass_fds`. Raises FileNotFoundError when the program is not there.
    """
    words = [str(word) for word in argv]
    program = shutil.which(words[0])
    if program is None:
        raise FileNotFoundError(f"no such program: {words[0]}")
    if sys.platform == "linux":
        words = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), program, *words]
    child = subprocess.Popen(
        words,
        env=env,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        cwd=cwd,
        start_new_session=True,
        creationflags=_OWN_GROUP,
    )
    if sys.platform != "linux":
        _guard.add(child.pid)
    return child


class Guard:
    """Signals the pids it was given once this process is gone. Its process starts with the first pid."""

    def __init__(self, signal_name: str = "SIGKILL") -> None:
        self._signal_name = signal_name
        self._process: subprocess.Popen[str] | None = None

    def add(self, pid: int) -> None:
        """Signal `pid` when this process ends."""
        self._tell(f"+{pid}\n")

    def remove(self, pid: int) -> None:
        """`pid` has ended: its number may soon be somebody else's."""
        if self._process is not None:
            self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            argv = [sys.executable, "-I", "-S", "-c", _GUARD, self._signal_name]
            self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True, start_new_session=True)
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()


_guard = Guard()


def reaped(pid: int) -> None:
    """Say that a child of `spawn` has ended and was waited for."""
    if sys.platform != "linux":
        _guard.remove(pid)


def die_with_parent() -> None:
    """From now on this process dies with its parent. For a Python child that `spawn` did not start."""
    parent = os.getppid()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died between the two calls
            os._exit(137)
    else:
        threading.Thread(target=_exit_after, args=(parent,), name="parent-watch", daemon=True).start()


def wake_with_parent() -> None:
    """From now on, should this process be stopped (SIGSTOP) when its parent dies, it is continued: so that it can see that.

    On Linux, by the kernel. Elsewhere whoever stops it has to give it to a `Guard` of SIGCONT.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGCONT, 0, 0, 0)


def _exit_after(parent: int) -> None:
    import psutil

    try:
        psutil.Process(parent).wait()
    finally:
        os._exit(137)


def start_mark(pid: int) -> str:
    """What tells this process from a later one with the same pid; empty when there is none, or only its zombie."""
    if sys.platform == "linux":
        return _linux_start_mark(pid)
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.Error:
        return ""


def _linux_start_mark(pid: int) -> str:
    try:
        # The name in brackets may itself hold blanks and brackets: read on from the last one. (proc(5), /proc/pid/stat)
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def kill_group(pid: int) -> None:
    """SIGKILL a child of `spawn` and what it left in its session's process group. No error when it is gone."""
    try:
        if sys.platform == "win32":
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass


def how_it_ended(returncode: int) -> str:
    """A return code in words: ``exit code 3`` or ``killed by SIGKILL``."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
