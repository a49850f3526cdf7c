"""Servers that run a configuration of `deploy/` as it stands: one, or three that hold streams of three replicas."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.broker import LOOPBACK, any_free, find_server
from schemas.bus import Bus
from schemas.creds import new_seed, public_key
from schemas.errors import FogError
from schemas.jetstream import call
from schemas.procs import spawn
from schemas.target import Target
from tests.until import eventually

DEPLOY = Path(__file__).parents[1] / "deploy"
READY_S = 60.0


def start_server(config: str, folder: Path, port: int, route_port: int = 6222, **env: str) -> subprocess.Popen[bytes]:
    """Run a server with a configuration of deploy/, on ports of this test's. Its log is ``folder/log``."""
    text = (DEPLOY / config).read_text().replace("0.0.0.0:4222", f"{LOOPBACK}:{port}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nats.conf").write_text(text.replace("0.0.0.0:6222", f"{LOOPBACK}:{route_port}"))
    with (folder / "log").open("wb") as log:
        own = {**os.environ, **env, "FOG_STORE": json.dumps(str(folder / "store"))}
        return spawn([find_server(), "-c", folder / "nats.conf"], env=own, stdout=log, stderr=log)


class PortTaken(Exception):
    """A server could not listen: another process's outgoing connection has its port."""


class Cluster:
    """Three servers on this machine, named ``fog-1`` to ``fog-3``. Make it by `cluster`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seed = new_seed()
        self.names = [f"fog-{number}" for number in (1, 2, 3)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._choose_ports()

    def _choose_ports(self) -> None:
        self.ports = {name: any_free(LOOPBACK) for name in self.names}
        self._routes = {name: any_free(LOOPBACK) for name in self.names}

    @property
    def target(self) -> Target:
        """All three, as a client is told of them."""
        return Target(",".join(f"nats://{LOOPBACK}:{port}" for port in self.ports.values()), seed=self.seed)

    def target_of(self, name: str) -> Target:
        """One server alone; it tells its clients of the others."""
        return Target(f"nats://{LOOPBACK}:{self.ports[name]}", seed=self.seed)

    def start(self, name: str) -> None:
        """Start a server, or start it again."""
        routes = [f"nats-route://{LOOPBACK}:{port}" for port in self._routes.values()]
        own = {"FOG_NAME": name, "FOG_NKEY": public_key(self.seed), "FOG_ROUTES": json.dumps(routes)}
        self.processes[name] = start_server(
            "nats-cluster.conf", self._folder / name, self.ports[name], self._routes[name], **own
        )

    def kill(self, name: str) -> None:
        """SIGKILL a server, and wait until it is gone."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def log(self, name: str) -> str:
        """What a server has logged since its last start."""
        return (self._folder / name / "log").read_text("utf-8", "replace")

    async def ready(self, timeout_s: float = READY_S) -> None:
        """Wait until every running server takes clients and JetStream answers through each."""

        async def answers() -> bool:
            for name, process in self.processes.items():
                if process.poll() is not None or "address already in use" in self.log(name):
                    raise PortTaken(f"{name}: {self.log(name)[-500:]}")
                try:
                    bus = await Bus.connect(self.target_of(name), name="is-it-ready")
                except FogError:
                    return False
                try:
                    await call(bus, "INFO", timeout_s=1.0)
                except FogError:
                    return False
                finally:
                    await bus.close()
            return True

        await eventually(answers, timeout_s, "a cluster that answers")

    async def start_all(self) -> None:
        """Start all three, and wait until they answer. A port that some process took meanwhile is replaced."""
        for last in (False, False, True):
            for name in self.names:
                self.start(name)
            try:
                await self.ready()
                return
            except PortTaken:
                if last:
                    raise
                for name in self.names:
                    self.kill(name)
                self._choose_ports()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Three servers, not started yet; what was started is gone at the end."""
    made = Cluster(folder)
    try:
        yield made
    finally:
        for name in list(made.processes):
            made.kill(name)


async def leader_of(bus: Bus, stream: str) -> str:
    """The name of the server that leads a stream; "" while nobody does."""
    try:
        info = await call(bus, f"STREAM.INFO.{stream}", timeout_s=2.0)
    except FogError:
        return ""
    return str((info.get("cluster") or {}).get("leader", ""))


async def caught_up(bus: Bus, streams: list[str], timeout_s: float = READY_S) -> None:
    """Wait until every stream has a leader and all of its replicas are current: any server may be killed then."""

    async def current() -> bool:
        for stream in streams:
            try:
                info = await call(bus, f"STREAM.INFO.{stream}", timeout_s=2.0)
            except FogError:
                return False
            replicas = (info.get("cluster") or {}).get("replicas") or []
            if len(replicas) != 2 or not all(r.get("current") and not r.get("offline") for r in replicas):
                return False
        return True

    await eventually(current, timeout_s, "replicas that are current")
    await asyncio.sleep(0)
