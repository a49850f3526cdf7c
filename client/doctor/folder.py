"""Reads a home on this machine, and changes nothing there."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from client.doctor.facts import Folder
from schemas.creds import read_creds
from schemas.errors import BadInput
from schemas.home import Home, Instance
from schemas.lock import holder
from schemas.procs import start_mark

LOG_LINES = 2_000  # of the broker's log that are looked at
ERRORS_KEPT = 20
ERRORS_S = 86_400.0
BAD_LINES = ("[ERR]", "[FTL]")
CONNECT_S = 0.5


def read_folder(home: Home, *, chosen: bool, now: float) -> Folder:
    """What is in the home. `chosen`: the user named the fleet by it. Never raises."""
    instance, broken = _record(home)
    alive = instance is not None and instance.alive
    creds_url, creds_error = _creds(home)
    port, port_error = _port(home)
    free, total = _disk(home.broker / "store")
    return Folder(
        root=str(home.root),
        chosen=chosen,
        there=home.root.exists(),
        pid=instance.pid if instance else 0,
        alive=alive,
        url=instance.url if instance else "",
        broken=broken,
        lock_pid=holder(home.lock),
        strays=_strays(instance) if instance and not alive else {},
        creds_url=creds_url,
        creds_error=creds_error,
        creds_open=os.name == "posix" and home.creds.exists() and bool(home.creds.stat().st_mode & 0o077),
        port=port,
        port_error=port_error,
        port_taken=bool(port) and _listens(port),
        disk_free=free,
        disk_total=total,
        errors=tuple(_errors(home.broker / "server.log", now)),
    )


def _record(home: Home) -> tuple[Instance | None, str]:
    try:
        return msgspec.json.decode(home.instance.read_bytes(), type=Instance), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, msgspec.DecodeError) as error:
        return None, str(error)


def _strays(instance: Instance) -> dict[str, int]:
    """Children of a dead `fog up` that live on. (A pid that was given out again began after it.)"""
    import psutil

    found = {}
    for name, pid in instance.pids.items():
        if not start_mark(pid):
            continue
        try:
            process = psutil.Process(pid)
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if any(word in words for word in ("nats-server", "coordinator", "node")):
            found[name] = pid
    return found


def _creds(home: Home) -> tuple[str, str]:
    if not home.creds.exists():
        return "", ""
    try:
        return read_creds(home.creds).nats, ""
    except BadInput as error:
        return "", error.message


def _port(home: Home) -> tuple[int, str]:
    path = home.broker / "port"
    try:
        text = path.read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        return 0, ""
    except OSError as error:
        return 0, f"{path} cannot be read: {error.strerror}"
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        return 0, f"{path} holds {text[:40]!r}, which is no port"
    return int(text), ""


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(CONNECT_S)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _disk(path: Path) -> tuple[int | None, int]:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None, 0
    return usage.free, usage.total


def _errors(path: Path, now: float) -> list[str]:
    """The last errors of nats-server's log: ``[pid] 2026/01/31 12:00:00.000001 [ERR] words``, in local time."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = deque(file, LOG_LINES)
    except OSError:
        return []
    bad = [line.strip()[:300] for line in lines if any(mark in line for mark in BAD_LINES)]
    return [line for line in bad if now - _logged_at(line) < ERRORS_S][-ERRORS_KEPT:]


def _logged_at(line: str) -> float:
    words = line.split()
    try:
        return datetime.strptime(" ".join(words[1:3]), "%Y/%m/%d %H:%M:%S.%f").astimezone(UTC).timestamp()
    except (ValueError, IndexError):
        return time.time()
