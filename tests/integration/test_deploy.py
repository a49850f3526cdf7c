"""What `deploy/` shows works as it stands: the server takes the configurations, and the key that they were given."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from coordinator.broker import LOOPBACK, any_free
from schemas import subjects
from schemas.creds import read_creds
from tests.cluster import DEPLOY, start_server
from tests.until import until


@pytest.fixture
def servers() -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for server in running:
        server.kill()
        server.wait()


def new_creds(path: Path, port: int) -> str:
    """Run the script of deploy/; returns the public key that it prints."""
    argv = [sys.executable, str(DEPLOY / "new_creds.py"), f"nats://{LOOPBACK}:{port}", str(path)]
    env = {**os.environ, "PYTHONPATH": str(DEPLOY.parent)}
    return subprocess.run(argv, capture_output=True, text=True, check=True, env=env).stdout.strip()


async def connect(creds: Path) -> Any:
    key = read_creds(creds)
    return await nats.connect(key.nats, nkeys_seed_str=key.seed, max_reconnect_attempts=50, reconnect_time_wait=0.1)


async def test_the_single_server_takes_the_key_and_tells_of_closed_connections(
    tmp_path: Path, servers: list[subprocess.Popen[bytes]]
) -> None:
    port, creds = any_free(LOOPBACK), tmp_path / "fog.creds"
    key = new_creds(creds, port)
    servers.append(start_server("nats-single.conf", tmp_path / "one", port, FOG_NKEY=key))
    until(lambda: "Server is ready" in (tmp_path / "one" / "log").read_text(), what="the server ready")
    client, other = await connect(creds), await connect(creds)
    closed = await client.subscribe(subjects.DISCONNECTS)
    await client.flush()
    assert (await client.jetstream().add_stream(name="S", subjects=["s"])).config.name == "S"
    await other.close()
    assert json.loads((await closed.next_msg(timeout=5)).data)["client"]["acc"] == "FOG"
    await client.close()


def test_new_creds_never_overwrites_a_key(tmp_path: Path) -> None:
    new_creds(tmp_path / "fog.creds", 4222)
    before = (tmp_path / "fog.creds").read_bytes()
    with pytest.raises(subprocess.CalledProcessError):
        new_creds(tmp_path / "fog.creds", 4222)
    assert (tmp_path / "fog.creds").read_bytes() == before


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_a_unit_lets_the_command_stop_its_children_itself(unit: Path) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    service = parser["Service"]
    assert service["ExecStart"].startswith("/opt/fogfleet/bin/fog ")
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > 30  # what `fog up` may take: ten seconds a rank
