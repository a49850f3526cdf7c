"""`fog up` as a process: what it starts, what it reports, and that it leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.up import LocalNode, local_nodes, parse_node
from schemas.creds import read_creds
from schemas.errors import BadInput, Unreachable
from schemas.home import Home, Instance, read_instance, resolve
from tests.until import gone, until

PROGRAM = Path(__file__).with_name("tiny_fleet.py")


class Running:
    """One `fog up` of tiny children in `home`; what it says to stderr is in `said`."""

    def __init__(
        self, home: Path, *options: str, env: dict[str, str] | None = None, ignore_sigint: bool = False
    ) -> None:
        self.home = Home(home)
        home.mkdir(exist_ok=True)
        self._stderr = home.with_suffix(".stderr")
        argv = [sys.executable, str(PROGRAM), "--home", str(home), "--port", "-1", *options]
        if ignore_sigint:
            argv = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *argv]
        with self._stderr.open("wb") as stderr, home.with_suffix(".stdout").open("wb") as stdout:
            self.process = subprocess.Popen(
                argv, stdout=stdout, stderr=stderr, env={**os.environ, "PYTHONPATH": os.getcwd(), **(env or {})}
            )

    @property
    def said(self) -> str:
        return self._stderr.read_text()

    @property
    def greeting(self) -> str:
        return self.home.root.with_suffix(".stdout").read_text()

    def instance(self) -> Instance:
        found = read_instance(self.home)
        assert found is not None, self.said
        return found

    def child(self, name: str) -> dict[str, Any]:
        """What the tiny child `name` was given, once it runs."""
        path = self.home.root / f"tiny-{name}.json"
        until(path.exists, what=f"{name} running")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def wait_children(self, *names: str) -> dict[str, int]:
        """The pids of all, once the named tiny children run."""
        for name in names:
            self.child(name)
        until(lambda: set(names) <= set(self.instance().pids), what="all recorded")
        return self.instance().pids

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


StartUp = Callable[..., Running]


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[StartUp]:
    started: list[Running] = []

    def start(*options: str, name: str = "home", **more: Any) -> Running:
        started.append(Running(tmp_path / name, *options, **more))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_nodes_then_coordinator_then_broker_and_nothing_is_left(
    start_up: StartUp, number: signal.Signals
) -> None:
    up = start_up("--nodes", "2")
    pids = up.wait_children("coordinator", "node-1", "node-2")
    assert set(pids) == {"broker", "coordinator", "node-1", "node-2"}
    assert up.end(number) == 0
    assert all(gone(pid) for pid in pids.values())
    assert not up.home.instance.exists()
    ended = (up.home.root / "ended").read_text().split()
    assert sorted(ended[:2]) == ["node-1", "node-2"]
    assert ended[2:] == ["coordinator"]


def test_sigint_works_where_a_shell_started_it_with_sigint_ignored(start_up: StartUp) -> None:
    up = start_up("--nodes", "1", ignore_sigint=True)
    pids = up.wait_children("coordinator", "node-1")
    assert up.end(signal.SIGINT) == 0
    assert all(gone(pid) for pid in pids.values())


def test_a_sigkill_leaves_no_process_and_the_home_starts_again_on_the_same_port(start_up: StartUp) -> None:
    first = start_up("--nodes", "1")
    pids = first.wait_children("coordinator", "node-1")
    port, seed = first.instance().port, read_creds(first.home.creds).seed
    first.end(signal.SIGKILL)
    until(lambda: all(gone(pid) for pid in pids.values()), what="all children gone")
    assert first.home.instance.exists()
    assert read_instance(first.home) is None
    second = start_up("--nodes", "1")
    until(lambda: read_instance(second.home))
    assert second.instance().port == port
    assert read_creds(second.home.creds).seed == seed


def test_a_second_one_on_the_same_home_is_refused_with_the_pid_of_the_first(start_up: StartUp) -> None:
    first = start_up()
    until(lambda: read_instance(first.home))
    options = [sys.executable, "-m", "coordinator.up", "--home", str(first.home.root)]
    second = subprocess.run(options, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 125
    assert f"already runs in {first.home.root} (pid {first.process.pid})" in second.stderr
    assert first.instance().alive


def test_a_node_that_dies_is_reported_and_the_rest_goes_on(start_up: StartUp) -> None:
    up = start_up("--nodes", "2")
    pids = up.wait_children("coordinator", "node-1", "node-2")
    os.kill(pids["node-1"], signal.SIGKILL)
    until(lambda: "Device node-1 failed: killed by SIGKILL" in up.said, what="the report")
    until(lambda: "node-1" not in up.instance().pids, what="the record")
    assert "not started again" in up.said
    assert not any(gone(pids[name]) for name in ("broker", "coordinator", "node-2"))


def test_a_coordinator_that_dies_is_reported_with_what_to_do(start_up: StartUp) -> None:
    up = start_up("--nodes", "1")
    pids = up.wait_children("coordinator", "node-1")
    os.kill(pids["coordinator"], signal.SIGKILL)
    until(lambda: "coordinator ended: killed by SIGKILL" in up.said, what="the report")
    assert f"fog coordinator --home {up.home.root}" in up.said
    assert not gone(pids["node-1"])


def test_an_exit_code_is_reported_as_it_is(start_up: StartUp) -> None:
    up = start_up("--node", "brief,TINY=dies")
    until(lambda: "Device brief failed: exit code 3" in up.said, what="the report")


def test_an_orderly_end_is_not_called_a_failure(start_up: StartUp) -> None:
    up = start_up("--nodes", "1")
    os.kill(up.wait_children("node-1")["node-1"], signal.SIGTERM)
    until(lambda: "node-1 ended: exit code 0" in up.said, what="the report")
    assert "Device node-1 failed" not in up.said


def test_the_brokers_death_ends_everything_with_exit_code_1(start_up: StartUp) -> None:
    up = start_up("--nodes", "1")
    pids = up.wait_children("coordinator", "node-1")
    os.kill(pids["broker"], signal.SIGKILL)
    assert up.process.wait(60) == 1
    assert "broker ended: killed by SIGKILL" in up.said
    assert all(gone(pid) for pid in pids.values())
    assert not up.home.instance.exists()


def test_with_restart_whatever_dies_comes_back_the_broker_on_its_port(start_up: StartUp) -> None:
    up = start_up("--nodes", "1", "--restart")
    pids, port = up.wait_children("coordinator", "node-1"), up.instance().port
    os.kill(pids["broker"], signal.SIGKILL)
    os.kill(pids["node-1"], signal.SIGKILL)
    until(lambda: "broker runs again" in up.said and "node-1 runs again" in up.said, what="both back")
    again = up.instance()
    assert again.port == port
    assert again.pids["coordinator"] == pids["coordinator"]
    assert again.pids["broker"] != pids["broker"]
    assert up.end(signal.SIGTERM) == 0
    assert all(gone(pid) for pid in again.pids.values())


def test_a_second_signal_kills_what_will_not_stop(start_up: StartUp) -> None:
    up = start_up("--node", "deaf,TINY=stubborn")
    pids = up.wait_children("coordinator", "deaf")
    up.process.send_signal(signal.SIGTERM)
    until(lambda: _signals_caught(up), what="the first signal taken")
    with pytest.raises(subprocess.TimeoutExpired):
        up.process.wait(0.5)
    assert up.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert all(gone(pid) for pid in pids.values())
    assert not up.home.instance.exists()


def _signals_caught(up: Running) -> bool:
    status = Path(f"/proc/{up.process.pid}/status").read_text()
    pending = [line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return all(int(mask, 16) == 0 for mask in pending)


def test_children_do_not_share_the_terminals_process_group(start_up: StartUp) -> None:
    up = start_up("--nodes", "1")
    pids = up.wait_children("coordinator", "node-1")
    assert {os.getsid(pid) for pid in pids.values()}.isdisjoint({os.getsid(up.process.pid)})


def test_options_and_environment_reach_the_local_nodes(start_up: StartUp) -> None:
    options = ("--label", "room=lab", "--import", "mine", "--allow", "command")
    up = start_up(*options, "--nodes", "1", "--node", "phone,TINY=plays")
    assert up.child("phone")["mode"] == "plays"
    for name in ("node-1", "phone"):
        given = up.child(name)["options"]
        assert given[:4] == ["--name", name, "--home", str(up.home.root)]
        assert given[4:] == list(options)


def test_the_greeting_says_where_it_listens_and_how_to_go_on(start_up: StartUp) -> None:
    up = start_up("--nodes", "1")
    until(lambda: "Next:" in up.greeting and "listen" in up.greeting, what="the greeting")
    assert up.instance().url in up.greeting
    assert f"--home {up.home.root}" in up.greeting


def test_other_commands_find_the_running_instance_and_say_so_when_there_is_none(start_up: StartUp) -> None:
    up = start_up()
    until(lambda: read_instance(up.home))
    target = resolve(home=up.home.root)
    assert target.url == up.instance().url
    assert target.seed == read_creds(up.home.creds).seed
    up.end(signal.SIGTERM)
    with pytest.raises(Unreachable, match="fog up"):
        resolve(home=up.home.root)


def test_a_comma_in_a_value_is_escaped() -> None:
    assert parse_node(r"phone,BATTERY=25,WORDS=a\,b=c") == LocalNode("phone", {"BATTERY": "25", "WORDS": "a,b=c"})


@pytest.mark.parametrize("text", ["", "Not An Id", "phone,BATTERY", "phone,=25", "phone,BAT TERY=1", "phone,"])
def test_a_node_of_the_wrong_form_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="node"):
        parse_node(text)


def test_two_local_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(BadInput, match="node-1 is named twice"):
        local_nodes(1, ["node-1"])
