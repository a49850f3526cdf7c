"""A version that needs an encrypted link, in a fleet whose broker speaks TLS.

``tls/`` holds a certificate for 127.0.0.1 that ends in 2126 and its key, made with ``openssl req -x509`` for this test alone.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.broker import LOOPBACK, any_free, find_server
from coordinator.broker_config import Account, render
from schemas import rollout_api as api
from schemas.bus import Bus
from schemas.creds import new_seed, public_key
from schemas.rollout import AppNeeds
from schemas.target import Target
from tests.integration.stack import stack
from tests.integration.test_rollout_requests import signed
from tests.until import eventually

TLS = Path(__file__).parent / "tls"


@pytest.fixture
def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A broker that takes nothing but TLS, and whose certificate everybody here trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "cert.pem"))
    seed, port, folder = new_seed(), any_free(LOOPBACK), tmp_path / "broker"
    folder.mkdir()
    plain = render([Account("T", public_key(seed))], host=LOOPBACK, port=port, folder=folder)
    files = f"cert_file: {json.dumps(str(TLS / 'cert.pem'))}, key_file: {json.dumps(str(TLS / 'key.pem'))}"
    (folder / "nats.conf").write_text(f"{plain}tls {{ {files} }}\n")
    server = subprocess.Popen([find_server(), "-c", folder / "nats.conf"])
    yield Target(f"tls://{LOOPBACK}:{port}", seed=seed)
    server.terminate()
    server.wait()


async def test_a_node_whose_link_is_tls_may_take_what_needs_that(encrypted: Target, tmp_path: Path) -> None:
    bus = await Bus.connect(encrypted, name="probe", wait=True)  # until it listens
    assert bus.encrypted
    await bus.close()
    async with stack(encrypted, tmp_path / "stack") as fleet:
        await fleet.coordinator()
        await fleet.node("n1")
        ask = api.PlanRequest(signed(needs=AppNeeds(encrypted_link=True)))

        async def may() -> bool:
            return (await fleet.api.call("rollout", "plan", ask, api.PlanReply)).counts["yes"] == 1

        await eventually(may)
