"""Functions of the campaign's nodes: each start and each end is a line of the journal, written in one piece.

A line is ``<time> <what> <task> <pid> <node>``; `what` is start, end, raise or die. One without an end was stopped.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import node

FOLDER = Path(os.environ.get("CHAOS_FOLDER", "."))
HERE = os.environ.get("STACK_NODE", "")


def note(what: str, task: str) -> None:
    """Append a line. A line is short and the file is opened for appending: writers do not mix."""
    line = f"{time.time():.4f} {what} {task} {os.getpid()} {HERE}\n"
    file = os.open(FOLDER / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def nth(task: str) -> int:
    """How many attempts of the task began before."""
    n = 0
    while True:
        try:
            (FOLDER / f"{task}.{n}").touch(exist_ok=False)
            return n
        except FileExistsError:
            n += 1


@node.function
def work(task: str, seconds: float) -> str:
    """Take a while. A touched file shows until when it ran."""
    note("start", task)
    mark, until = FOLDER / f"{task}.runs", time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if seconds > 1:
            mark.touch()
        time.sleep(min(0.05, left))
    note("end", task)
    return task


@node.function
def flaky(task: str, times: int, seconds: float) -> str:
    """Raise in the first so many attempts."""
    note("start", task)
    time.sleep(seconds)
    if nth(task) < times:
        note("raise", task)
        raise ValueError(f"{task} is not through yet")
    note("end", task)
    return task


@node.function
def deadly(task: str, times: int) -> str:
    """End the process that runs it, in the first so many attempts."""
    note("start", task)
    if nth(task) < times:
        note("die", task)
        os._exit(3)
    note("end", task)
    return task


@node.function
def dig(number: int) -> int:
    """Twice the number; the process does not survive those that leave 37 when divided by 400."""
    if number % 400 == 37:
        os._exit(4)
    time.sleep(0.003)
    return 2 * number
