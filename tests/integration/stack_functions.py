"""Functions that the nodes of `tests.integration.stack` offer besides the built-in ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import node

HERE = os.environ.get("STACK_NODE", "")


@node.function
def where(seconds: float = 0.0) -> str:
    """The node's name, after a while."""
    time.sleep(seconds)
    return HERE


@node.function
def fail_on(names: list[str]) -> str:
    """Raise where the node is one of these, else give its name back."""
    if HERE in names:
        raise ValueError(f"nothing works on {HERE}")
    return HERE


@node.function
def fail_first(folder: str) -> str:
    """The first call, wherever that is, raises; the others give back where they ran."""
    try:
        (Path(folder) / "failed").touch(exist_ok=False)
    except FileExistsError:
        return HERE
    raise ValueError(f"the first call fails, on {HERE}")


@node.function
def slow_on(names: list[str], seconds: float, else_seconds: float = 0.0) -> str:
    """Take `seconds` where the node is one of these, `else_seconds` elsewhere."""
    time.sleep(seconds if HERE in names else else_seconds)
    return HERE


@node.function
def family(folder: str) -> None:
    """Start a child that starts a grandchild, write all three pids to a file of the folder, and run until stopped."""
    child = "import os, subprocess; print(os.getpid(), subprocess.Popen(['sleep', '600']).pid, flush=True); os.wait()"
    with subprocess.Popen([sys.executable, "-S", "-c", child], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        part = Path(folder) / "pids.part"
        part.write_text(f"{os.getpid()} {process.stdout.readline()}")
        part.rename(Path(folder) / "pids")
        process.wait()


JOURNAL = """
import sys, time
path, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
until = time.monotonic() + seconds
with open(path, "a", buffering=1) as file:
    while time.monotonic() < until:
        print(name, time.monotonic(), file=file)
        time.sleep(0.01)
"""


@node.function
def journal(path: str, seconds: dict[str, float]) -> str:
    """While it runs, a child of its own writes the node's name and the machine's time, over and over."""
    subprocess.run([sys.executable, "-S", "-c", JOURNAL, path, HERE, str(seconds[HERE])], check=True)
    return HERE


@node.function
def die_unless(flag: str, content: bytes = b"") -> int:
    """Kill the runner that it is called in, unless the file `flag` is there; then the length of `content`."""
    if not Path(flag).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return len(content)
