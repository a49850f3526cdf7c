"""Child processes that end with their parent, on Linux by the kernel, elsewhere by the guard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from schemas.procs import how_it_ended, kill_group, spawn, start_mark
from tests.until import gone, until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def parent_of_one(start: str) -> tuple[subprocess.Popen[bytes], int]:
    """A process that runs `start`, which sets `pid`; and that pid."""
    program = (
        f"import sys, time, os, subprocess, schemas.procs as p\nSLEEP = {SLEEP!r}\n"
        f"{start}\nprint(pid, flush=True)\ntime.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize(
    "start",
    [
        "pid = p.spawn(SLEEP).pid",
        "g = p.Guard()\npid = subprocess.Popen(SLEEP).pid\ng.add(pid)",
        "code = 'import schemas.procs as p, time; p.die_with_parent(); print(1, flush=True); time.sleep(600)'\n"
        "c = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)\nc.stdout.readline()\npid = c.pid",
    ],
    ids=["spawn", "guard", "die_with_parent"],
)
def test_a_child_dies_when_its_parent_is_killed(start: str) -> None:
    parent, pid = parent_of_one(start)
    with parent:
        assert not gone(pid)
        parent.kill()
    until(lambda: gone(pid), what="the child's end")


@pytest.mark.parametrize(
    "start",
    [
        "c = subprocess.Popen([sys.executable, '-c', CODE], stdout=subprocess.PIPE)\nc.stdout.readline()\npid = c.pid",
        "g = p.Guard('SIGCONT')\npid = subprocess.Popen(SLEEP).pid\ng.add(pid)",
    ],
    ids=["wake_with_parent", "guard"],
)
def test_a_stopped_child_goes_on_when_its_parent_is_killed(start: str) -> None:
    code = "import schemas.procs as p, time; p.wake_with_parent(); print(1, flush=True); time.sleep(600)"
    parent, pid = parent_of_one(f"CODE = {code!r}\n{start}\nos.kill(pid, 19)")
    child = psutil.Process(pid)
    with parent:
        until(lambda: child.status() == psutil.STATUS_STOPPED, what="the child stopped")
        parent.kill()
    until(lambda: child.status() == psutil.STATUS_SLEEPING, what="the child going on")
    child.kill()


def test_the_guard_leaves_alone_what_has_ended() -> None:
    parent, pid = parent_of_one("g = p.Guard()\npid = subprocess.Popen(SLEEP).pid\ng.add(pid)\ng.remove(pid)")
    with parent:
        guard = _children(parent.pid) - {pid}
        parent.kill()
    until(lambda: all(gone(each) for each in guard), what="the guard's end")
    assert not gone(pid)
    os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children()}


def test_a_spawned_child_keeps_its_command_line_pid_environment_and_descriptors() -> None:
    here, there = os.pipe()
    code = f"import os, sys; os.write({there}, (sys.argv[1] + os.environ['X'] + str(os.getpid())).encode())"
    child = spawn([sys.executable, "-c", code, "word"], env={**os.environ, "X": "1"}, pass_fds=[there])
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        assert pipe.read() == f"word1{child.pid}".encode()
    assert child.wait() == 0


def test_a_spawned_child_hears_sigint_though_its_parent_ignores_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        child = spawn([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.communicate()[0] == b"True\n"
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_program_that_is_not_there_is_an_error_of_the_caller() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        spawn(["no-such-program"])


def test_killing_a_group_takes_what_the_child_started_in_it() -> None:
    code = f"import subprocess\nprint(subprocess.Popen({SLEEP!r}).pid, flush=True)\nimport time; time.sleep(600)"
    child = spawn([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    kill_group(child.pid)
    assert child.wait() == -signal.SIGKILL
    until(lambda: gone(grandchild), what="the grandchild's end")
    child.stdout.close()


def test_a_process_has_one_mark_as_long_as_it_lives_and_none_after() -> None:
    child = spawn(SLEEP)
    mark = start_mark(child.pid)
    assert mark
    assert mark == start_mark(child.pid)
    assert mark != start_mark(os.getpid())
    child.kill()
    until(lambda: start_mark(child.pid) == "", what="the mark's end")  # already as a zombie
    child.wait()


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")]
)
def test_an_end_is_told_in_words(code: int, words: str) -> None:
    assert how_it_ended(code) == words
