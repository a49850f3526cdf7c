"""`fog doctor` against real fleets that are broken in one way at a time: it finds that, and its advice mends it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.cli import version
from client.doctor.examine import examine
from client.doctor.facts import Facts
from client.doctor.finding import Finding, Level
from client.doctor.folder import read_folder
from client.doctor.reading import read_all
from coordinator.broker import LOOPBACK, Broker, any_free, find_server
from schemas import streams, subjects
from schemas.codec import encode
from schemas.creds import Creds, new_seed, write_creds
from schemas.home import Home
from schemas.jetstream import call, create_consumer, delete_consumer, stream_info
from schemas.membership import Heartbeat
from schemas.procs import spawn
from schemas.target import Target
from tests.integration.client_stack import FOG, ROOT, up, wait_for_nodes
from tests.integration.stack import Stack, stack
from tests.until import eventually, until


def doctor(*words: object, home: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """`fog doctor --json` as users run it: its exit code, and what is not in order, by check."""
    env = {**os.environ, "FOG_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*FOG, "doctor", "--json", *map(str, words)], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, {found["check"]: found for found in json.loads(done.stdout) if found["level"] != "ok"}


class Looks:
    """Looks at a stack as the command does, once and from within: the command looks twice, which takes two seconds."""

    def __init__(self, made: Stack) -> None:
        self._target = made.target
        self.last: list[Finding] = []

    async def wrong(self) -> set[tuple[str, str]]:
        """(check, about) of all that is not in order."""
        facts = Facts(version())
        await read_all(facts, self._target)
        self.last = [found for found in examine(facts) if found.level is not Level.OK]
        return {(found.check, found.about) for found in self.last}

    async def until_wrong(self, *wanted: tuple[str, str]) -> str:
        """Wait until just that is wrong; the advice for the first."""

        async def so() -> bool:
            return await self.wrong() == set(wanted)

        try:
            await eventually(so, 30.0, f"{wanted}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {self.last}") from None
        return next((f.advice for f in self.last if f.check == wanted[0][0]), "") if wanted else ""


async def test_a_healthy_fleet_then_each_thing_broken_and_mended_by_the_advice(target: Target, tmp_path: Path) -> None:
    """One fleet, since starting one takes longer than all of this."""
    async with stack(target, tmp_path) as s:
        await s.coordinator("c1")
        node = await s.node("n1")
        look = Looks(s)
        await look.until_wrong()
        code, wrong = doctor("--creds", tmp_path / "fog.creds", home=tmp_path / "none")
        assert (code, wrong) == (0, {})

        # Somebody reads a queue.
        await create_consumer(
            s.bus, streams.WORK, "spy", filter_subject=subjects.work("ghost", ">"), ack_wait_s=30, max_ack_pending=1
        )
        assert "nats consumer rm FOG_WORK spy" in await look.until_wrong(("consumers.foreign", "spy"))
        await delete_consumer(s.bus, streams.WORK, "spy")
        await look.until_wrong()

        # A node's consumer goes while the node cannot make it anew.
        node.send_signal(signal.SIGSTOP)
        await delete_consumer(s.bus, streams.WORK, "FOG_node_n1")
        await look.until_wrong(("consumers.nodes", "n1"))
        node.send_signal(signal.SIGCONT)
        await s.submit("echo", 1)
        await look.until_wrong()

        # A task that nobody offers; cancelled, as advised.
        task = await s.submit("no_such_function")
        assert f"fog cancel {task}" in await look.until_wrong(("tasks.waiting", task))
        await s.cancel(task)
        await look.until_wrong()

        # A stream is deleted, another one edited: the coordinator, started again, sets both right.
        await call(s.bus, f"STREAM.DELETE.KV_{streams.JOBS}")
        config = (await stream_info(s.bus, streams.EVENTS))["config"]
        await call(s.bus, f"STREAM.UPDATE.{streams.EVENTS}", {**config, "discard": "new"})
        both = ("streams.present", f"KV_{streams.JOBS}"), ("streams.settings", f"{streams.EVENTS}.discard")
        await look.until_wrong(*both)
        s.kill("c1", signal.SIGTERM)
        await look.until_wrong(*both, ("coordinator.lease", ""))
        await s.coordinator("c2")
        await look.until_wrong()


async def test_two_coordinators_a_lying_clock_and_messages_that_nobody_understands(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path) as s:
        await s.coordinator("c1")
        await s.node("n1")
        s.start("c2", "coordinator", "--name", "c2")
        look = Looks(s)

        async def followed() -> bool:
            facts = Facts(version())
            await read_all(facts, target)
            return any(f.check == "coordinator.others" and "c2 would take over" in f.seen for f in examine(facts))

        await eventually(followed, 30.0, "the second coordinator is seen")
        await look.until_wrong()

        # A beat of n1 from a machine whose clock is a day ahead.
        boot = (await s.node_info("n1")).row.boot
        lie = Heartbeat("n1", boot, 1_000_000, sent_at=time.time() + 86_400, full=True)
        s.bus.publish(subjects.heartbeat("n1"), encode(lie))
        assert "NTP" in await look.until_wrong(("clocks.nodes", "n1"))
        s.kill("n1", signal.SIGTERM)
        await s.node("n1")
        await look.until_wrong()

        s.bus.publish(subjects.heartbeat("n9"), b"{")
        await look.until_wrong(("messages.refused", "heartbeat"))
        assert "fog.v1.heartbeat.n9" in look.last[0].seen


async def test_a_lease_that_never_ends_is_seen_and_what_it_advises_ends_it(target: Target, tmp_path: Path) -> None:
    """Somebody wrote the key with a tool that knows no lifetimes: no coordinator would ever act."""
    async with stack(target, tmp_path) as s:
        await s.coordinator("c1")
        await s.node("n1")
        s.kill("c1", signal.SIGTERM)
        key = f"$KV.{streams.LEASES}.{streams.LEASE_KEY}"
        await s.store.put(key, b'{"coordinator":"ghost","term":3}')
        s.start("c2", "coordinator", "--name", "c2")
        assert "nats kv del" in await Looks(s).until_wrong(("coordinator.lease", "ghost"), ("coordinator.answers", ""))
        await s.store.put(key, b"", headers=b"KV-Operation: DEL\r\n")
        await s.event("coordinator.elected", "c2")
        await Looks(s).until_wrong()


def test_without_a_broker_with_another_key_and_with_a_broker_that_is_none_of_ours(
    start_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    broker = start_broker()
    creds = tmp_path / "other.creds"
    write_creds(creds, Creds(broker.url, new_seed()))
    code, wrong = doctor("--creds", creds, home=tmp_path / "none")
    assert (code, list(wrong)) == (1, ["broker.reach"])
    assert "refused the credentials" in wrong["broker.reach"]["seen"] and "--creds" in wrong["broker.reach"]["advice"]
    broker.stop()
    code, wrong = doctor("--creds", creds, home=tmp_path / "none")
    assert (code, list(wrong)) == (1, ["broker.reach"])
    assert "no broker answers" in wrong["broker.reach"]["seen"] and "fog up" in wrong["broker.reach"]["advice"]
    port = any_free(LOOPBACK)
    plain = spawn([find_server(), "-a", LOOPBACK, "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port), 60.0, "the plain server listens")
        code, wrong = doctor("--nats", f"nats://{LOOPBACK}:{port}", home=tmp_path / "none")
    finally:
        plain.kill()
        plain.wait(60)
    assert (code, list(wrong)) == (1, ["broker.reach"])
    assert "JetStream" in wrong["broker.reach"]["seen"] and "-js" in wrong["broker.reach"]["advice"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def test_misuse_is_125_and_nothing_is_said_on_stdout(tmp_path: Path) -> None:
    """An option that names nothing is not the fleet's trouble."""
    argv = [sys.executable, "-P", "-m", "client.cli", "doctor", "--creds", str(tmp_path / "none")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (125, "")
    assert "No such file" in done.stderr


def test_what_a_killed_fog_up_leaves_is_seen_and_starting_it_again_mends_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home) as running:
        until((home / "instance.json").exists, 30.0, "the instance runs")
        port = int((home / "broker" / "port").read_text())
        running.process.kill()
        running.process.wait(60)
    until(lambda: not _listens(port), 60.0, "the broker dies with it")
    code, wrong = doctor(home=home)
    assert (code, list(wrong)) == (1, ["home.instance", "broker.reach"])
    assert "was killed" in wrong["home.instance"]["seen"]
    with socket.socket() as other:  # and somebody takes its port meanwhile
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((LOOPBACK, port))
        other.listen()
        facts = Facts(version(), read_folder(Home(home), chosen=True, now=time.time()))
        assert [f.check for f in examine(facts) if f.level is Level.PROBLEM] == ["home.instance", "home.port"]
    with up(home) as running:
        wait_for_nodes(running, 0)
        (home / "fog.creds").chmod(0o644)
        code, wrong = doctor(home=home)
        assert (code, list(wrong)) == (0, ["home.creds", "nodes.present"])
        assert wrong["home.creds"]["advice"].startswith("chmod 600")


async def test_the_doctor_changes_nothing(target: Target, tmp_path: Path) -> None:
    """On a broker that was never used it makes no stream, and says what is missing."""
    facts = Facts(version())
    await read_all(facts, target)
    wrong = {f.check for f in examine(facts) if f.level is not Level.OK}
    assert wrong == {"streams.present", "coordinator.lease"}
    again = Facts(version())
    await read_all(again, target)
    assert again.streams == {}
