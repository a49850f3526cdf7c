"""Running a program of the node inside a runner: its streams as they come, their ends kept, nothing left behind."""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import subprocess
import sys
from collections.abc import Callable

from node.runners import tree
from node.runners.frames import Failed, Finished, Launch
from schemas import limits

READ_MAX = 1 << 16
LOOK_S = 0.02  # between two looks whether it ended, where the system cannot tell us
NOT_RUN = 127  # what a shell says when a program cannot be started
_ENV, _HOME = dict(os.environ), os.getcwd()  # the daemon's own, whatever functions do to those of this process


class _Tail:
    """One output stream: emitted as text, its last bytes kept."""

    def __init__(self, name: str, emit: Callable[[str, str], None]) -> None:
        self._name, self._emit = name, emit
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._kept = b""

    def feed(self, block: bytes) -> None:
        self._kept = (self._kept + block)[-limits.OUTPUT_TAIL :]
        text = self._decode(block)
        if text:
            self._emit(self._name, text)

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")


def run(job: Launch, emit: Callable[[str, str], None], clock: Callable[[], float]) -> Finished | Failed:
    """Run it to its end. What it started and left running is killed then: the task is over."""
    begun = clock()
    try:
        process = subprocess.Popen(
            job.argv,
            env={**_ENV, **job.env},
            cwd=_HOME,
            stdin=subprocess.DEVNULL if job.stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=None if sys.platform == "win32" else 0,
        )
    except (OSError, ValueError) as error:
        text = f"cannot run {job.argv[0]}: {error.strerror if isinstance(error, OSError) else error}\n"
        return Finished(job.key, clock() - begun, exit_code=NOT_RUN, stderr=text)
    out, err = _Tail("stdout", emit), _Tail("stderr", emit)
    _feed(process, job.stdin or b"", out, err)
    code = process.wait()
    tree.kill_below(os.getpid())
    _reap()
    return Finished(job.key, clock() - begun, exit_code=code, stdout=out.text, stderr=err.text)


def _feed(process: subprocess.Popen[bytes], stdin: bytes, out: _Tail, err: _Tail) -> None:
    """Move bytes until the program itself ended, then take what is left; a child that keeps a pipe open does not hold us."""
    assert process.stdout is not None and process.stderr is not None
    with selectors.DefaultSelector() as ready:
        for pipe, tail in ((process.stdout, out), (process.stderr, err)):
            os.set_blocking(pipe.fileno(), False)
            ready.register(pipe, selectors.EVENT_READ, tail)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            ready.register(process.stdin, selectors.EVENT_WRITE, None)
        ended = _watch_end(process.pid, ready)
        left = memoryview(stdin)
        while process.poll() is None:
            for key, _ in ready.select(None if ended is not None else LOOK_S):
                if key.fileobj is process.stdin:
                    left = _write(process, left, ready)
                elif key.data is not None:
                    _read(key.fd, key.data, ready, key.fileobj)
        for key in list(ready.get_map().values()):
            if isinstance(key.data, _Tail):
                while _read(key.fd, key.data, ready, key.fileobj):
                    pass
        if ended is not None:
            os.close(ended)


def _watch_end(pid: int, ready: selectors.BaseSelector) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        fd = os.pidfd_open(pid)
        ready.register(fd, selectors.EVENT_READ, None)
    except OSError:
        return None
    return fd


def _write(process: subprocess.Popen[bytes], left: memoryview, ready: selectors.BaseSelector) -> memoryview:
    assert process.stdin is not None
    try:
        left = left[os.write(process.stdin.fileno(), left[:READ_MAX]) :]
    except BlockingIOError:
        return left
    except OSError:  # it does not want more
        left = left[:0]
    if not left:
        ready.unregister(process.stdin)
        with contextlib.suppress(OSError):
            process.stdin.close()
    return left


def _read(fd: int, tail: _Tail, ready: selectors.BaseSelector, pipe: object) -> bool:
    try:
        block = os.read(fd, READ_MAX)
    except BlockingIOError:
        return False
    except OSError:
        block = b""
    if not block:
        ready.unregister(pipe)  # type: ignore[arg-type]
        return False
    tail.feed(block)
    return True


def _reap() -> None:
    """Take the exit codes of adopted grandchildren, so that none stays a zombie."""
    if not hasattr(os, "WNOHANG"):
        return
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
