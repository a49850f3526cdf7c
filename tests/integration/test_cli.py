"""The `fog` command against a real fleet: what it prints, and what scripts can trust in its exit codes."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.client_stack import FOG, Up, up, wait_for_nodes
from tests.until import until

MODULE = '''
import os, pathlib, signal
import node

@node.function
def halve(value: int) -> int:
    """Half of an even number."""
    print("halving")
    if value % 2:
        raise ValueError(f"{value} is odd")
    return value // 2

@node.function
def fragile(flag: str) -> str:
    """Kill its runner, unless the file is there."""
    if not pathlib.Path(flag).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return "whole"

@node.function
def reverse(content: bytes) -> bytes:
    return content[::-1]
'''


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Two nodes that allow commands and offer functions of their own."""
    home = tmp_path_factory.mktemp("home")
    (home / "cli_test_functions.py").write_text(MODULE)
    with up(home, "--nodes", "2", "--allow", "command", "--import", "cli_test_functions") as running:
        wait_for_nodes(running, 2)
        yield running


def test_submit_prints_the_value_as_it_is(fleet: Up, tmp_path: Path) -> None:
    path = tmp_path / "some.bin"
    path.write_bytes(b"\x00\xff" * 1000)
    done = fleet.fog("submit", "sha256", path)
    assert (done.returncode, done.stdout) == (0, hashlib.sha256(path.read_bytes()).hexdigest() + "\n")
    assert fleet.fog("submit", "echo", '{"a": [1]}').stdout == '{"a":[1]}\n'


def test_submit_json_is_one_document_with_the_value(fleet: Up) -> None:
    document = fleet.json("submit", "echo", "5", "--priority", "high")
    assert (document["value"], document["state"]) == (5, "succeeded")
    assert document["node"] in ("node-1", "node-2")


def test_bytes_come_back_as_bytes(fleet: Up, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("abc")
    assert fleet.fog("submit", "reverse", path).stdout == "cba"
    assert fleet.json("submit", "reverse", path)["value_base64"] == "Y2Jh"


def test_a_command_streams_its_output_and_ends_with_its_own_code(fleet: Up) -> None:
    done = fleet.fog("submit", "--command", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_options_after_two_dashes_belong_to_the_command(fleet: Up) -> None:
    done = fleet.fog("submit", "--json", "--command", "--", "echo", "--json", "--", "-n")
    assert json.loads(done.stdout)["stdout"] == "--json -- -n\n"


def test_what_a_function_prints_goes_to_stderr_and_only_its_value_to_stdout(fleet: Up) -> None:
    done = fleet.fog("submit", "halve", "4")
    assert (done.stdout, done.stderr) == ("2\n", "halving\n")


def test_a_failed_function_ends_with_1_and_says_why_once(fleet: Up) -> None:
    done = fleet.fog("submit", "halve", "3", "--retries", "0")
    assert done.returncode == 1
    assert done.stderr.count("ValueError: 3 is odd") == 1
    assert "--retry submits it again" in done.stderr


def test_a_program_that_is_not_there_is_127_and_named(fleet: Up) -> None:
    done = fleet.fog("submit", "--command", "--", "no-such-program-here")
    assert (done.returncode, done.stderr) == (127, "cannot run no-such-program-here: No such file or directory\n")


def test_the_failed_attempt_and_the_end_of_its_task_are_two_events(fleet: Up) -> None:
    task = json.loads(fleet.fog("submit", "halve", "5", "--retries", "0", "--json").stdout)["task"]

    def kinds() -> list[str]:
        lines = fleet.fog("events", "task", "--json").stdout.splitlines()
        return [event["type"] for event in map(json.loads, lines) if event["subject"] == task]

    until(lambda: "fog.task.failed" in kinds(), what="the end of the task as an event")
    words = ["assigned", "started", "attempt-failed", "dead-lettered", "failed"]
    assert kinds() == [f"fog.task.{word}" for word in words]


def test_an_unknown_function_is_fogs_own_failure_and_names_what_is_offered(fleet: Up) -> None:
    done = fleet.fog("submit", "half", "2")
    assert done.returncode == 125
    assert "halve" in done.stderr
    assert "--wait-for-node" in done.stderr


def given_up(fleet: Up, flag: Path) -> str:
    """A task that was given up after two attempts."""
    done = fleet.fog("submit", "fragile", flag, "--retries", "1", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["attempts"], result["dead_letter"]) == (1, 2, True)
    return str(result["task"])


def test_what_was_given_up_is_listed_and_shown_with_every_error_and_submitted_again(fleet: Up, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    task = given_up(fleet, flag)
    [row] = [row for row in fleet.json("dead") if row["task"] == task]
    assert (row["what"], row["attempts"]) == ("fragile", 2)
    assert row["reason"].startswith("failed after 2 attempts")
    assert task in fleet.fog("dead").stdout
    assert "fog dead" in fleet.fog("status").stdout
    assert "given up; their letters take" in fleet.fog("doctor").stdout
    assert f"fog dead {task}" in fleet.fog("task", task).stdout
    told = fleet.json("dead", task)
    assert [(e["attempt"], e["kind"]) for e in told["errors"]] == [(1, "died"), (2, "died")]
    assert {e["node"] for e in told["errors"]} <= {"node-1", "node-2"}
    assert told["submitted"]["run"] == {"kind": "function", "name": "fragile", "args": [str(flag)]}
    shown = fleet.fog("dead", task).stdout
    assert shown.count("SIGKILL") >= 2
    assert f"fog dead {task} --retry" in shown

    flag.touch()
    [said] = fleet.json("dead", task, "--retry")
    assert (said["task"], said["error"]) == (task, None)
    until(lambda: fleet.ended(said["resubmitted_as"]), what="the end of the new task")
    assert fleet.json("task", said["resubmitted_as"])["result"]["value"] == "whole"
    assert task not in fleet.fog("dead").stdout
    again = fleet.fog("dead", task, "--retry")
    assert (again.returncode, again.stdout) == (125, "")
    assert f"no dead letter of {task}" in again.stderr


def test_all_letters_are_dropped_or_submitted_again_at_once(fleet: Up, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    tasks = {given_up(fleet, flag), given_up(fleet, flag)}
    said = fleet.json("dead", "--all", "--retry")
    assert {one["task"] for one in said} >= tasks
    for one in said:
        until(lambda task=one["resubmitted_as"]: fleet.ended(task), what="the end of the new task")
    again = {row["task"]: row["resubmitted_from"] for row in fleet.json("dead")}
    assert set(again.values()) >= tasks, "nothing has changed: each is given up once more"
    assert fleet.fog("dead", "--all", "--drop").stdout.count("dropped") == len(again)
    assert fleet.fog("dead").stdout == "no task was given up\n"


def test_a_command_that_answers_with_an_exit_code_leaves_no_letter(fleet: Up) -> None:
    done = fleet.fog("submit", "--json", "--command", "--", "sh", "-c", "exit 3")
    result = json.loads(done.stdout)
    assert (done.returncode, result["dead_letter"], result["exit_code"]) == (3, False, 3)
    assert result["task"] not in fleet.fog("dead").stdout


@pytest.mark.parametrize(
    "words",
    [["dead", "--all"], ["dead", "--retry"], ["dead", "x", "--all", "--drop"], ["dead", "A*"], ["dead", "nothing"],
     ["dead", "--retry", "--drop", "x"], ["dead", "--limit", "0"], ["submit"],
     ["submit", "echo", "1", "--cores", "many"], ["nodes", "--nothing"], ["submit", "echo", "1", "--priority", "x"],
     ["submit", "sha256", "/absent/file"], ["task"], ["task", "A*"], ["cancel", "nothing"], ["map", "echo"],
     ["nodes", "--state", "happy"], ["nodes", "--label", "room"], ["submit", "--command", "ls", "-l"],
     ["events", "nothing.at.all"], ["events", "--since", "tomorrow"],
     ["events", "--after", "-1"], ["events", "--after", "1", "--since", "1h"]],
)  # fmt: skip
def test_misuse_is_125_and_says_what_is_wrong(fleet: Up, words: list[str]) -> None:
    done = fleet.fog(*words)
    assert done.returncode == 125
    assert done.stderr.startswith(("fog", "usage: fog"))
    assert "Traceback" not in done.stderr


def test_a_detached_task_is_looked_at_and_cancelled_by_its_id(fleet: Up) -> None:
    task = fleet.fog("submit", "--detach", "sleep", "60", "--node", "node-1").stdout.strip()
    until(lambda: fleet.json("task", task).get("running"), what="the task runs")
    shown = fleet.fog("task", task)
    assert "node-1" in shown.stdout
    assert task in [row["task"] for row in fleet.json("tasks")]
    assert fleet.fog("cancel", task).returncode == 0
    until(lambda: fleet.ended(task), what="the task has ended")
    assert fleet.json("task", task)["state"] == "cancelled"


def test_one_task_that_cannot_be_cancelled_does_not_keep_the_others(fleet: Up) -> None:
    task = fleet.json("submit", "--detach", "sleep", "60", "--gpu")["task"]
    done = fleet.fog("cancel", "nothing", task, "--json")
    assert done.returncode == 125
    absent, cancelled = json.loads(done.stdout)
    assert "no task nothing" in absent["error"]
    assert (cancelled["task"], cancelled["error"]) == (task, None)
    until(lambda: fleet.ended(task), what="the task has ended")


def test_documents_hold_every_field_also_those_with_nothing_to_say(fleet: Up) -> None:
    assert {"tasks", "slots_used", "notes", "bad"} <= set(fleet.json("status"))
    assert fleet.json("nodes")[0]["battery_percent"] is None


def test_why_none_is_told_for_what_fits_nowhere(fleet: Up) -> None:
    task = fleet.json("submit", "--detach", "echo", "1", "--label", "room=cellar")["task"]
    until(lambda: "why" in fleet.json("task", task), what="the reason is there")
    assert "label" in fleet.fog("task", task).stdout
    fleet.fog("cancel", task)


def test_an_interrupt_cancels_the_task_and_ends_with_130(fleet: Up) -> None:
    running = fleet.start("submit", "sleep", "60", "--node", "node-2")
    until(
        lambda: any(row["what"] == "sleep" for row in fleet.json("tasks", "--node", "node-2")), what="the task is there"
    )
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "cancelling task" in said
    assert "Traceback" not in said
    until(lambda: not fleet.json("tasks", "--node", "node-2"), what="the task is gone")


def test_sigterm_does_the_same_and_ends_with_143(fleet: Up) -> None:
    running = fleet.start("submit", "sleep", "60", "--node", "node-2")
    until(
        lambda: any(row["what"] == "sleep" for row in fleet.json("tasks", "--node", "node-2")), what="the task is there"
    )
    running.terminate()
    running.communicate(timeout=60)
    assert running.returncode == 143
    until(lambda: not fleet.json("tasks", "--node", "node-2"), what="the task is gone")


def test_map_keeps_the_order_of_its_files(fleet: Up, tmp_path: Path) -> None:
    paths = [tmp_path / f"f{number}" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_text("word " * number)
    done = fleet.fog("map", "wordcount", *paths)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"{path}\t{number}" for number, path in enumerate(paths)]


def test_map_reads_items_from_lines_and_reports_errors_by_item(fleet: Up) -> None:
    done = fleet.fog("map", "halve", "-", "--json", "--retries", "0", stdin="2\n3\n10\n")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["index"], row["item"], row["value"]) for row in rows] == [(0, "2", 1), (1, "3", None), (2, "10", 5)]
    assert "3 is odd" in rows[1]["error"]
    assert done.returncode == 1


def test_a_map_job_goes_on_under_its_id(fleet: Up) -> None:
    first = fleet.fog("map", "echo", "-", "--job", "again", stdin="1\n2\n3\n")
    ended = {event["id"] for event in _events(fleet, "task.succeeded")}
    assert fleet.fog("map", "echo", "-", "--job", "again", stdin="1\n2\n3\n").stdout == first.stdout
    assert {event["id"] for event in _events(fleet, "task.succeeded")} == ended
    other = fleet.fog("map", "echo", "-", "--job", "again", stdin="1\n2\n4\n")
    assert (other.returncode, other.stdout) == (125, ""), "what 3 came to is no answer for 4"
    assert "begun with other items" in other.stderr and "another job id" in other.stderr


def _events(fleet: Up, *words: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in fleet.fog("events", "--json", *words).stdout.splitlines()]


def test_events_are_cloud_events_one_a_line(fleet: Up) -> None:
    registered = _events(fleet, "node.registered")
    assert {event["subject"] for event in registered} == {"node-1", "node-2"}
    assert {event["type"] for event in registered} == {"fog.node.registered"}
    assert _events(fleet, "--since", "0s") == []
    from_the_first, from_the_third = _events(fleet, "--after", "0"), _events(fleet, "--after", "2")
    assert from_the_first[2 : 2 + len(from_the_third)] == from_the_third[: len(from_the_first) - 2]
    assert from_the_third


def test_followed_events_go_on_from_the_stored_ones_to_what_happens_next(fleet: Up) -> None:
    before = fleet.json("submit", "echo", "1")["task"]
    following = fleet.start("events", "task.succeeded", "--follow", "--json", "--since", "1h")
    assert following.stdout is not None
    lines = (json.loads(line)["subject"] for line in following.stdout)
    assert before in lines
    after = fleet.json("submit", "echo", "2")["task"]
    assert after in lines
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=60)
    assert following.returncode == 130


def test_a_reader_that_goes_away_is_no_error(fleet: Up) -> None:
    line = f"{' '.join(FOG)} events --follow --since 1h | head -1; exit ${{PIPESTATUS[0]}}"
    # A follower notices with the next event; keep them coming.
    running = subprocess.Popen(
        ["bash", "-c", line], env=fleet.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: fleet.fog("submit", "echo", "1").returncode == 0 and running.poll() is not None, 30, "it has ended")
    out, err = running.communicate()
    assert (running.returncode, err) == (141, "")
    assert len(out.splitlines()) == 1


def test_nodes_and_their_details(fleet: Up) -> None:
    assert [row["node"] for row in fleet.json("nodes")] == ["node-1", "node-2"]
    info = fleet.json("node-info", "node-1")
    assert sum(part["weight"] for part in info["parts"]) == pytest.approx(1)
    assert info["capabilities"]["sources"]["arch"]
    plain = fleet.fog("node-info", "node-1").stdout
    assert "score" in plain
    assert "cpu_cores" in plain
    assert fleet.fog("node-info", "node-9").returncode == 125


def test_tables_are_full_width_plain_rows_in_a_pipe(fleet: Up) -> None:
    head, *rows = fleet.fog("nodes").stdout.splitlines()
    assert head.split()[:2] == ["NODE", "STATE"]
    assert [row.split()[0] for row in rows] == ["node-1", "node-2"]


def test_status_and_functions(fleet: Up) -> None:
    status = fleet.json("status")
    assert status["nodes"] == {"online": 2}
    assert status["term"] >= 1
    assert {"echo", "halve", "reverse", "sha256", "sleep", "wordcount"} <= {
        row["offer"]["name"] for row in fleet.json("functions")
    }
    assert "halve(value: int)" in fleet.fog("functions").stdout


def test_a_drained_node_gets_nothing_until_it_is_taken_back(fleet: Up) -> None:
    assert fleet.fog("drain", "node-1", "--deadline-s", "5").returncode == 0
    assert {fleet.json("submit", "echo", "1")["node"] for _ in range(4)} == {"node-2"}
    assert fleet.fog("drain", "node-1", "--resume").returncode == 0
    until(lambda: {row["state"] for row in fleet.json("nodes")} == {"online"}, what="it is back")


def test_a_node_that_is_let_sleep_gets_nothing_until_it_is_woken(fleet: Up) -> None:
    def states() -> dict[str, str]:
        return {row["node"]: row["state"] for row in fleet.json("nodes")}

    assert "for 2 h" in fleet.fog("sleep", "node-1", "--for", "2h").stdout
    until(lambda: states() == {"node-1": "asleep", "node-2": "online"}, what="it sleeps")
    assert "back in 2 h" in fleet.fog("nodes").stdout
    assert {fleet.json("submit", "echo", "1")["node"] for _ in range(3)} == {"node-2"}
    refused = fleet.fog("sleep", "node-1", "--for", "2 fortnights")
    assert refused.returncode == 125 and "write 90s, 45m or 2h" in refused.stderr
    assert fleet.fog("wake", "node-1").returncode == 0
    until(lambda: set(states().values()) == {"online"}, what="both are awake")
