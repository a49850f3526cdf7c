"""Asking a program of the device (nmcli, nvidia-smi, termux-battery-status): never waiting for ever, never raising."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence

from node.sensors.reading import Reading, known, unknown

_ANSWER_MAX = 64 * 1024


def find(program: str, env: Mapping[str, str]) -> str:
    """The program's path by the PATH of `env`, or ""."""
    return shutil.which(program, path=env.get("PATH", "")) or ""


def once(argv: Sequence[str], env: Mapping[str, str], timeout_s: float = 5.0) -> Reading[str]:
    """Run a program, wait at most `timeout_s`, and return what it printed. The source is the command line."""
    path = find(argv[0], env)
    if not path:
        return unknown(f"{argv[0]} is not installed")
    try:
        done = subprocess.run(
            [path, *argv[1:]],
            env=_english(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return unknown(f"{argv[0]} did not answer within {timeout_s:g} s")
    except (OSError, ValueError) as problem:
        return unknown(f"{argv[0]} could not be run: {problem}")
    return _judge(argv, done.returncode, done.stdout[:_ANSWER_MAX])


class Ask:
    """One question that is asked again every `every_s` without ever waiting for the answer.

    `answer` starts the program when it is due, collects what it said by a later call, kills it after `timeout_s`,
    and calls an answer older than `keep_s` unknown.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], *, every_s: float, keep_s: float, timeout_s: float = 5.0
    ) -> None:
        self.argv = tuple(argv)
        self._env = env
        self._every_s, self._keep_s, self._timeout_s = every_s, keep_s, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = self._answered = float("-inf")
        self._last: Reading[str] = unknown(f"{argv[0]} was asked and has not answered yet")

    @property
    def waiting(self) -> bool:
        """Whether the program runs now."""
        return self._process is not None

    def answer(self, now: float) -> Reading[str]:
        """The newest answer. Takes no longer than starting a process."""
        self._collect(now)
        due = not 0 <= now - self._asked < self._every_s  # a clock that was set back counts as due
        if due and self._process is None:
            self._start(now)
        if self._last.value is not None and not 0 <= now - self._answered < self._keep_s:
            return unknown(f"{self.argv[0]} last answered more than {self._keep_s:g} s ago")
        return self._last

    def close(self) -> None:
        """Kill the program if it still runs."""
        if self._process is not None:
            _kill(self._process)
            self._process.wait()
            self._drop()

    def _start(self, now: float) -> None:
        self._asked = now
        path = find(self.argv[0], self._env)
        if not path:
            self._last = unknown(f"{self.argv[0]} is not installed")
            return
        try:
            self._process = subprocess.Popen(
                [path, *self.argv[1:]],
                env=_english(self._env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as problem:
            self._last = unknown(f"{self.argv[0]} could not be run: {problem}")

    def _collect(self, now: float) -> None:
        process = self._process
        if process is None:
            return
        code = process.poll()
        if code is not None:
            if code != -signal.SIGKILL:
                self._last, self._answered = _judge(self.argv, code, _drain(process)), now
            self._drop()
        elif not 0 <= now - self._asked < self._timeout_s:
            _kill(process)  # its exit is collected by a later call
            self._last = unknown(f"{self.argv[0]} did not answer within {self._timeout_s:g} s")

    def _drop(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None


def _judge(argv: Sequence[str], code: int, output: bytes) -> Reading[str]:
    text = output.decode("utf-8", "replace").strip()
    if code != 0:
        return unknown(f"{argv[0]} failed (exit code {code})")
    return known(text, " ".join(argv)) if text else unknown(f"{argv[0]} said nothing")


def _english(env: Mapping[str, str]) -> dict[str, str]:
    return {**env, "LC_ALL": "C", "LANG": "C"}  # nmcli translates its answers


def _drain(process: subprocess.Popen[bytes]) -> bytes:
    if process.stdout is None:
        return b""
    os.set_blocking(process.stdout.fileno(), False)  # a grandchild may still hold the pipe open
    with contextlib.suppress(OSError):
        return process.stdout.read(_ANSWER_MAX) or b""
    return b""


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # it leads a session of its own
        else:
            process.kill()
