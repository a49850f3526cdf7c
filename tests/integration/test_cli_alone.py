"""The `fog` command where there is no fleet: it starts quickly, and says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from client import cli
from schemas.procs import spawn
from tests.integration.client_stack import FOG, ROOT

READING = ["nodes", "tasks", "status", "functions", "events"]


def fog(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "FOG_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run([*FOG, *words], env=env, capture_output=True, text=True, timeout=30, check=False)


def test_help_names_every_command(tmp_path: Path) -> None:
    done = fog("--help", home=tmp_path)
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", sorted(set(cli.COMMANDS) - {"coordinator"}))
def test_every_command_has_help_of_its_own(name: str, tmp_path: Path) -> None:
    done = fog(name, "--help", home=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: fog {name}")


@pytest.mark.parametrize("options", [[], ["--json-logs"]])
def test_a_coordinator_that_cannot_start_says_why_once(options: list[str], tmp_path: Path) -> None:
    done = fog("coordinator", "--creds", str(tmp_path / "absent.creds"), *options, home=tmp_path)
    assert done.returncode == 125
    assert done.stderr.count("absent.creds") == 1, done.stderr
    if options:
        assert json.loads(done.stderr)["level"] == "error"


def test_an_unknown_command_is_125(tmp_path: Path) -> None:
    done = fog("nodez", home=tmp_path)
    assert (done.returncode, done.stdout) == (125, "")
    assert "no command 'nodez'" in done.stderr


@pytest.mark.parametrize(
    "words",
    [["up", "--nodes", "many"], ["node", "--allow", "all"], ["node", "--config", "/absent.toml"], ["node", "--name", "A B"],
     ["coordinator", "--replicas", "x"], ["up", "--node", "x,Y"]],
)  # fmt: skip
def test_misuse_of_what_runs_a_process_is_125_as_well(words: list[str], tmp_path: Path) -> None:
    done = fog(*words, home=tmp_path)
    assert done.returncode == 125
    assert f"fog {words[0]}: " in done.stderr
    assert "Errno" not in done.stderr


@pytest.mark.parametrize("words", [["submit", "echo", "1", "--detach"], ["map", "echo", "1"]])
def test_a_broker_where_no_coordinator_ever_ran_keeps_nothing_and_that_is_said(
    words: list[str], creds_file: Path, tmp_path: Path
) -> None:
    done = fog(*words, "--creds", str(creds_file), home=tmp_path)
    assert done.returncode == 125
    assert "no coordinator has run with this broker yet" in done.stderr


@pytest.mark.parametrize("name", READING)
def test_without_an_instance_it_says_how_to_get_one(name: str, tmp_path: Path) -> None:
    done = fog(name, home=tmp_path)
    assert done.returncode == 125
    assert "`fog up`" in done.stderr


def test_an_address_where_nobody_answers_is_named(tmp_path: Path) -> None:
    done = fog("nodes", "--nats", "nats://127.0.0.1:9", home=tmp_path)
    assert done.returncode == 125
    assert "nats://127.0.0.1:9" in done.stderr


def test_once_up_says_how_to_go_on_that_works(tmp_path: Path) -> None:
    env = {**os.environ, "FOG_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-P", "-m", "coordinator.up", "--port", "-1", "--nodes", "2"]
    process = spawn(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        said = iter(process.stdout.readline, b"")
        assert any(line.startswith(b"Next:") for line in said)
        done = fog("submit", "echo", "1", home=tmp_path)
        assert (done.returncode, done.stdout) == (0, "1\n")
    finally:
        process.terminate()
        process.wait(30)


def test_the_command_starts_without_the_heavy_libraries(tmp_path: Path) -> None:
    code = (
        "import sys; from client.cli import main; main(['--help']); import client.commands.common;"
        "sys.stderr.write(', '.join(m for m in ('nats', 'rich', 'psutil', 'uvloop') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_schema_writes_documents(tmp_path: Path) -> None:
    assert json.loads(fog("schema", "--asyncapi", home=tmp_path).stdout)["asyncapi"].startswith("3.")
    assert "Task" in json.loads(fog("schema", home=tmp_path).stdout)
    written = json.loads(fog("schema", str(tmp_path / "out"), "--json", home=tmp_path).stdout)
    assert str(tmp_path / "out" / "asyncapi.json") in written
    assert all(json.loads(Path(path).read_text()) for path in written)
    (tmp_path / "file").touch()
    assert fog("schema", str(tmp_path / "file"), home=tmp_path).returncode == 125


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    line = f"{' '.join(FOG)} schema | head -1; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0 where the pipe took all of it before it was closed
