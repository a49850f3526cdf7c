"""Health checks: each answers with "" when it passed, else with what was wrong, in words. None raises."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from node.runners import tree
from schemas.procs import how_it_ended, reaped, spawn
from schemas.rollout import AppVersion, CommandCheck, HttpCheck, ProcessCheck, TcpCheck

HOST = "127.0.0.1"
LINE_MAX = 1000
SHOWN_MAX = 200  # characters of a command's last line


async def check(version: AppVersion, folder: Path) -> str:
    """Make the version's check once, within its `timeout_s`."""
    what = version.health.check
    try:
        async with asyncio.timeout(version.health.timeout_s):
            match what:
                case ProcessCheck():
                    return ""
                case TcpCheck():
                    return await _tcp(what.port)
                case HttpCheck():
                    return await _http(what.port, what.path)
                case CommandCheck():
                    return await _command(what.argv, folder)
    except TimeoutError:
        return f"no answer within {version.health.timeout_s:g} s"


async def _tcp(port: int) -> str:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError as error:
        return f"port {port}: {error.strerror or error}"
    writer.close()
    return ""


async def _http(port: int, path: str) -> str:
    try:
        reader, writer = await asyncio.open_connection(HOST, port, limit=LINE_MAX)
    except OSError as error:
        return f"port {port}: {error.strerror or error}"
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {HOST}:{port}\r\nUser-Agent: fogfleet\r\n\r\n".encode())
        line = (await reader.readline()).decode("latin-1").split()
    except (OSError, ValueError) as error:
        return f"port {port}: {error}"
    finally:
        writer.close()
    if len(line) < 2 or not line[0].startswith("HTTP/") or not line[1].isdecimal():
        return f"port {port} does not speak HTTP"
    return "" if int(line[1]) < 400 else f"{path} answers {line[1]}"


async def _command(argv: tuple[str, ...], folder: Path) -> str:
    with tempfile.TemporaryFile() as said:
        return await _run([word.replace("{dir}", str(folder)) for word in argv], folder, said)


async def _run(words: list[str], folder: Path, said: IO[bytes]) -> str:
    try:
        process = spawn(words, stdout=said, stderr=subprocess.STDOUT, cwd=folder, env=dict(os.environ))
    except OSError as error:
        return f"cannot run {words[0]}: {error.strerror or error}"
    try:
        while process.poll() is None:  # noqa: ASYNC110 - as in process.py
            await asyncio.sleep(0.02)
    finally:
        if process.poll() is None:
            tree.kill(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        reaped(process.pid)
    if process.returncode == 0:
        return ""
    last = _last_line(said, folder)
    return f"{Path(words[0]).name} {how_it_ended(process.returncode)}" + (f": {last}" if last else "")


def _last_line(said: IO[bytes], folder: Path) -> str:
    """What it said last, which mostly is why; paths are told from the version's folder on."""
    said.seek(max(0, said.seek(0, os.SEEK_END) - LINE_MAX))
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip().replace(f"{folder}{os.sep}", "")[:SHOWN_MAX] if lines else ""
