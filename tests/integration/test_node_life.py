"""A node daemon's life on the real broker: joining, being told what to do, being killed, and leaving."""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from nacl.signing import VerifyKey

from coordinator.broker import Broker
from node.runners import tree
from schemas import subjects
from schemas.advice import Limits
from schemas.codec import encode
from schemas.creds import read_creds
from schemas.device import DeviceState, NetworkQuality
from schemas.limits import HEARTBEAT_S
from schemas.membership import AllReport
from schemas.procs import start_mark
from schemas.target import Target
from schemas.task import Blob, CommandRun, FileArg, FunctionRun, History, OutcomeKind, ResultState, Task
from tests.integration.node_fleet import Fleet, answer_of, until
from tests.integration.test_advised_node import Phone

GRANDCHILD = "(setsid sleep 600 & echo $! > grandchild); echo $$ > child; trap '' TERM; sleep 601; sleep 602"
LONG = FunctionRun("sleep", Raw(b"[600]"))


@pytest.fixture
async def fleet(target: Target, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = await Fleet.open(target, tmp_path)
    yield fleet
    await fleet.close()


def reached(state: DeviceState) -> bool:
    return isinstance(state.network_quality, NetworkQuality) and state.network_quality is not NetworkQuality.OFFLINE


def number_in(path: Path) -> int:
    return int(path.read_text()) if path.exists() and path.read_text().strip() else 0


async def stubborn(fleet: Fleet) -> tuple[Task, list[int]]:
    """A running command that ignores TERM, with a double-forked grandchild; the pids of both."""
    task = await fleet.place(CommandRun(("sh", "-c", GRANDCHILD)))
    files = [fleet.folder / "child", fleet.folder / "grandchild"]
    await until(lambda: all(number_in(file) for file in files), what="the command and its grandchild run")
    pids = [number_in(file) for file in files]
    assert all(start_mark(pid) for pid in pids)
    return task, pids


async def all_gone(pids: list[int], timeout_s: float = 1.0) -> None:
    await until(lambda: not any(start_mark(pid) for pid in pids), timeout_s, "the whole process tree is gone")


# Joining.


async def test_a_node_proves_its_key_and_tells_what_it_offers(fleet: Fleet) -> None:
    await fleet.node("n1", "--label", "room=kitchen", "--allow", "command", "--slots", "3")
    request = fleet.registers[0]
    assert (request.node, request.held, request.challenge) == ("n1", (), "prove it")
    assert (request.offer.cores, request.offer.memory_mb, request.offer.slots) == (2.0, 1000, 3)
    assert request.offer.labels == {"room": "kitchen"}
    assert request.offer.kinds == ("function", "map", "command")
    assert {"echo", "sleep", "sha256", "wordcount"} <= {offer.name for offer in request.offer.functions}
    public = base64.b32decode(request.key + "=" * (-len(request.key) % 8))[1:33]  # prefix, ed25519 key, checksum
    VerifyKey(public).verify(f"n1:{request.session}:prove it".encode(), base64.b64decode(request.signature))
    assert os.stat(fleet.folder / "nodes" / "n1" / "node.key").st_mode & 0o777 == 0o600


async def test_a_node_that_takes_nothing_says_so_when_it_registers(fleet: Fleet, tmp_path: Path) -> None:
    """What it is given between that and its first beat would only come back, and wait for longer than if nothing had come."""
    phone = Phone(tmp_path / "phone")
    phone.battery(8)
    harvesting = {"FOG_NODE_HARVEST": "enabled=true,window=always"}
    fleet.start_node("n1", "--sysroot", str(phone), env=harvesting)
    await until(lambda: len(fleet.registers) == 1, what=f"it registers; {fleet.log()}")
    request = fleet.registers[0]
    assert (request.draining, request.harvest_state, request.power_mode) == (True, "idle", "critical")
    assert request.limits == Limits(20.0, 256, 1)


async def test_the_identity_stays_and_the_session_is_new_at_each_start(fleet: Fleet) -> None:
    first = await fleet.node()
    first.send_signal(signal.SIGKILL)
    first.wait()
    await fleet.node()
    assert fleet.registers[0].key == fleet.registers[-1].key
    assert fleet.registers[0].session != fleet.registers[-1].session


async def test_a_refused_registration_ends_the_daemon_with_the_reason(fleet: Fleet) -> None:
    fleet.refusal = "n1 is registered with another key"
    node = fleet.start_node()
    await until(lambda: node.poll() is not None)
    assert node.returncode == 125
    assert "n1 is registered with another key" in fleet.log()
    assert "use another id" in fleet.log()


async def test_a_node_without_a_coordinator_waits_says_so_once_and_pulls_nothing(fleet: Fleet) -> None:
    fleet.answering = False
    fleet.start_node("n1", "--cores", "1", "--memory-mb", "100")
    await until(lambda: "waiting to be registered" in fleet.log(), 15)
    task = await fleet.place()
    fleet.answering = True
    await fleet.result(task, 15)
    assert fleet.log().count("waiting to be registered") == 1


async def test_a_second_daemon_on_the_same_home_is_turned_away(fleet: Fleet) -> None:
    await fleet.node()
    second = fleet.start_node()
    await until(lambda: second.poll() is not None)
    assert second.returncode == 125
    assert "node n1 is in use by process" in fleet.log()


async def test_modules_of_the_current_folder_can_be_offered_and_cannot_replace_ours(fleet: Fleet) -> None:
    (fleet.folder / "node.py").write_text("raise SystemExit('not this one')")
    (fleet.folder / "mine.py").write_text("from node import function\n@function\ndef mine() -> int:\n    return 7\n")
    fleet.python = ("-P",)
    await fleet.node("n1", "--import", "mine")
    assert bytes((await fleet.result(await fleet.place(FunctionRun("mine")))).value) == b"7"


async def test_a_module_that_cannot_be_imported_ends_the_daemon_with_the_reason(fleet: Fleet) -> None:
    (fleet.folder / "broken.py").write_text("import nosuchmodule")
    node = fleet.start_node("n1", "--import", "broken")
    await until(lambda: node.poll() is not None)
    assert node.returncode == 125
    assert "cannot import broken" in fleet.log() and "nosuchmodule" in fleet.log()


async def test_a_coordinator_of_a_newer_term_is_registered_with_as_the_same_session(fleet: Fleet) -> None:
    await fleet.node()
    fleet.term = 5
    fleet.bus.publish(subjects.ALL_REPORT, encode(AllReport(term=5, spread_s=0.05)))
    await until(lambda: len(fleet.registers) == 2)
    assert fleet.registers[0].session == fleet.registers[1].session
    fleet.bus.publish(subjects.ALL_REPORT, encode(AllReport(term=5, spread_s=0.0)))
    await fleet.command("report")  # answered after the call above was heard
    assert len(fleet.registers) == 2, "a term that was seen needs no new registration"


async def test_a_command_of_a_newer_term_is_followed_by_a_registration_with_its_coordinator(fleet: Fleet) -> None:
    await fleet.node()
    fleet.term = 5
    assert (await fleet.command("report")).ok
    await until(lambda: len(fleet.registers) == 2)
    fleet.bus.publish(subjects.ALL_REPORT, encode(AllReport(term=5, spread_s=0.0)))
    await fleet.command("report")
    assert len(fleet.registers) == 2


async def test_a_device_that_changes_registers_again(fleet: Fleet) -> None:
    programs = fleet.folder / "bin"
    programs.mkdir()
    env = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "FOG_NODE_LOOK_AGAIN_S": "0.2"}
    await fleet.node("n1", env=env)
    assert "wasmtime" not in fleet.registers[0].capabilities.runtimes
    (programs / "wasmtime").write_text("#!/bin/sh")
    (programs / "wasmtime").chmod(0o755)
    await until(lambda: any("wasmtime" in r.capabilities.runtimes for r in fleet.registers))


# Heartbeats.


async def test_heartbeats_come_at_the_given_interval_and_carry_only_what_changed(fleet: Fleet) -> None:
    fleet.interval_s = 0.2
    await fleet.node()
    await until(lambda: len(fleet.beats) >= 4)
    first, second = fleet.beats[0], fleet.beats[1]
    assert first.full and not second.full
    assert [beat.seq for beat in fleet.beats[:4]] == [1, 2, 3, 4]
    assert all(0.1 < b.sent_at - a.sent_at < 0.5 for a, b in zip(fleet.beats[:3], fleet.beats[1:4], strict=True))
    # The second tells of the link's first measuring as well, with the sources of all.
    assert len(encode(fleet.beats[3].state)) < len(encode(first.state)) / 2
    assert first.next_due_s < HEARTBEAT_S


async def test_a_heartbeat_lists_what_is_held_and_the_last_work_sequence_seen(fleet: Fleet) -> None:
    await fleet.node("n1", "--slots", "1")
    running = await fleet.place(LONG, history=History(placement=3))
    await until(lambda: fleet.events)
    queued = await fleet.place(LONG)
    while fleet.beats[-1].seen_seq < 2:
        await fleet.command("report")
    beat = fleet.beats[-1]
    assert {(h.task, h.placement, h.running) for h in beat.held} == {(running.id, 3, True), (queued.id, 1, False)}
    assert beat.full


# Being told.


async def test_cancel_ends_a_running_command_with_its_whole_tree_within_a_second(fleet: Fleet) -> None:
    await fleet.node("n1", "--allow", "command")
    task, pids = await stubborn(fleet)
    answer = await fleet.command("cancel", task=task.id)
    assert answer.ok and answer.tasks == (task.id,)
    await all_gone(pids)
    await fleet.until_acked()
    assert (await fleet.result(await fleet.place())).state is ResultState.SUCCEEDED
    assert task.id not in fleet.results and fleet.outcomes == [], "the node itself says nothing of a cancelled task"


async def test_a_task_that_was_cancelled_here_runs_when_it_is_placed_here_again(fleet: Fleet) -> None:
    """The coordinator cancels what it moved away; later the task may come back under a higher number."""
    await fleet.node()
    task = await fleet.place(LONG)
    await until(lambda: fleet.events)
    await fleet.command("cancel", task=task.id)
    await fleet.until_acked()
    await fleet.place(task=task.id, history=History(placement=3))
    assert (await fleet.result(task)).placement == 3


async def test_a_task_that_comes_again_while_it_is_being_cancelled_runs_after_all(fleet: Fleet) -> None:
    """Moved away and back within the time that its process tree is given to end: the cancel meant the older placement."""
    await fleet.node("n1", "--allow", "command")
    script = "if mkdir first; then trap '' TERM; touch ready; sleep 600; sleep 600; else echo again; fi"
    run = CommandRun(("sh", "-c", script))
    task = await fleet.place(run)
    await until((fleet.folder / "ready").exists)
    await fleet.command("cancel", task=task.id)
    await fleet.place(run, task=task.id, history=History(placement=3, attempts=1))
    result = await fleet.result(task, 5.0)
    assert (result.placement, result.attempts, result.stdout) == (3, 2, "again\n")
    await fleet.until_acked()


async def test_a_cancel_of_an_older_placement_leaves_the_newer_one_that_came_before_it(fleet: Fleet) -> None:
    """Simulator, seed 100: moved away, and placed here again before the cancel of what was here arrived. The node removed
    the only message that held the task."""
    await fleet.node("n1", "--slots", "1")
    await fleet.place(LONG)
    task = await fleet.place(history=History(placement=5))
    while fleet.beats[-1].seen_seq < 2:
        await fleet.command("report")
    assert (await fleet.command("cancel", tasks=(task.id, "t1"), placements=(4, 1))).tasks == ("t1",)
    assert (await fleet.result(task)).placement == 5


async def test_cancel_of_a_queued_task_is_done_at_once(fleet: Fleet) -> None:
    await fleet.node("n1", "--slots", "1")
    await fleet.place(LONG)
    queued = await fleet.place()
    while fleet.beats[-1].seen_seq < 2:
        await fleet.command("report")
    assert (await fleet.command("cancel", task=queued.id)).tasks == (queued.id,)
    await fleet.until_acked(left=1)
    assert (await fleet.command("cancel", task=queued.id)).tasks == ()
    assert queued.id not in fleet.results


async def test_a_function_that_is_cancelled_may_clean_up(fleet: Fleet) -> None:
    source = "import node, time, pathlib\n@node.function\ndef hold() -> None:\n    try:\n        time.sleep(600)\n"
    (fleet.folder / "own.py").write_text(source + "    finally:\n        pathlib.Path('cleaned').write_text('yes')\n")
    await fleet.node("n1", "--import", "own")
    task = await fleet.place(FunctionRun("hold"))
    await until(lambda: fleet.events)
    await fleet.command("cancel", task=task.id)
    await until((fleet.folder / "cleaned").exists, 1.0)


async def test_a_command_that_is_cancelled_may_clean_up(fleet: Fleet) -> None:
    await fleet.node("n1", "--allow", "command")
    script = "trap 'sleep 0.2; echo yes > cleaned; exit' TERM; touch ready; while :; do sleep 0.05; done"
    task = await fleet.place(CommandRun(("sh", "-c", script)))
    await until((fleet.folder / "ready").exists)
    await fleet.command("cancel", task=task.id)
    await until((fleet.folder / "cleaned").exists, 1.0)


async def test_a_timeout_is_a_failed_attempt_and_leaves_nothing_running(fleet: Fleet) -> None:
    await fleet.node("n1", "--allow", "command")
    files = [fleet.folder / "child", fleet.folder / "grandchild"]
    task = await fleet.place(CommandRun(("sh", "-c", GRANDCHILD)), timeout_s=1.0)
    outcome = await fleet.outcome(task)
    assert (outcome.kind, outcome.history.errors[-1].kind, outcome.started) == (OutcomeKind.FAILED, "timeout", True)
    assert 1000 <= outcome.duration_ms < 2500
    await all_gone([number_in(file) for file in files])


async def test_quick_tasks_behind_one_that_hangs_are_run_elsewhere(fleet: Fleet) -> None:
    source = "import node, time\n@node.function\ndef maybe(seconds: float) -> float:\n    time.sleep(seconds)\n"
    (fleet.folder / "own.py").write_text(source + "    return seconds\n")
    await fleet.node("n1", "--import", "own")
    await fleet.result(await fleet.place(FunctionRun("maybe", Raw(b"[0]"))))
    tasks = [await fleet.place(FunctionRun("maybe", Raw(b"[0]"))) for _ in range(30)]
    hanging = await fleet.place(FunctionRun("maybe", Raw(b"[600]")))
    tasks += [await fleet.place(FunctionRun("maybe", Raw(b"[0]"))) for _ in range(30)]
    for task in tasks:
        await fleet.result(task, 5.0)
    assert hanging.id not in fleet.results


async def test_drain_hands_back_what_waits_at_once_and_what_runs_at_the_deadline(fleet: Fleet) -> None:
    await fleet.node("n1", "--slots", "1")
    running = await fleet.place(LONG)
    await until(lambda: fleet.events)
    queued = await fleet.place(LONG, history=History(placement=2, attempts=1))
    answer = await fleet.command("drain", deadline_s=1.0, reason="moving house")
    begun = time.monotonic()
    assert answer.ok
    back = await fleet.outcome(queued)
    assert (back.kind, back.started, back.history.attempts, back.error) == (
        OutcomeKind.RETURNED, False, 1, "moving house",
    )  # fmt: skip
    assert time.monotonic() - begun < 0.9
    back = await fleet.outcome(running)
    assert (back.kind, back.started, back.history.failed_on) == (OutcomeKind.RETURNED, True, ())
    assert time.monotonic() - begun >= 0.9
    assert fleet.beats[-1].draining
    later = await fleet.place()
    assert (await fleet.outcome(later)).kind is OutcomeKind.RETURNED
    await fleet.command("resume")
    await fleet.result(await fleet.place())
    assert not fleet.beats[-1].draining


async def test_who_missed_that_it_is_back_in_service_is_told_when_it_registers(fleet: Fleet) -> None:
    """The coordinator that was to tell it is gone; its successor has the record."""
    await fleet.node()
    await fleet.command("drain", deadline_s=600.0)
    fleet.drained = True
    await registered_anew(fleet)
    assert (await fleet.outcome(await fleet.place())).kind is OutcomeKind.RETURNED
    assert fleet.beats[-1].draining
    fleet.drained = False
    await registered_anew(fleet)
    await fleet.result(await fleet.place())
    assert not fleet.beats[-1].draining


async def registered_anew(fleet: Fleet) -> None:
    """A coordinator of the next term has taken over, and the node's full beat follows its answer."""
    fleet.term, before = fleet.term + 1, len(fleet.beats)
    fleet.bus.publish(subjects.ALL_REPORT, encode(AllReport(fleet.term, 0.0)))
    await until(lambda: any(beat.full for beat in fleet.beats[before:]))


async def test_a_giveback_returns_only_the_named_ones_that_wait(fleet: Fleet) -> None:
    await fleet.node("n1", "--slots", "1")
    running = await fleet.place(LONG)
    await until(lambda: fleet.events)
    waiting, kept = await fleet.place(LONG), await fleet.place(LONG)
    while fleet.beats[-1].seen_seq < 3:
        await fleet.command("report")
    answer = await fleet.command("giveback", tasks=(running.id, waiting.id))
    assert answer.tasks == (waiting.id,)
    assert (await fleet.outcome(waiting)).kind is OutcomeKind.RETURNED
    await fleet.command("report")
    await until(lambda: {held.task for held in fleet.beats[-1].held} == {running.id, kept.id})


async def test_a_command_of_an_older_term_is_refused(fleet: Fleet) -> None:
    fleet.term = 7
    await fleet.node()
    answer = await fleet.command("drain", term=6)
    assert not answer.ok and "term 6 is older than 7" in answer.error
    await fleet.result(await fleet.place())


# Bad input.


@pytest.mark.parametrize("junk", [b"", b"\xff\x00", b"[]", b'{"task":5}', b'{"task":{},"history":{}}', b"{" * 5000])
async def test_junk_in_its_work_queue_is_counted_and_removed_and_stops_nothing(fleet: Fleet, junk: bytes) -> None:
    await fleet.node()
    await fleet.store.put(subjects.work("n1", "junk"), junk)
    await fleet.result(await fleet.place())
    await fleet.until_acked()
    answer = await fleet.command("report")
    assert answer.ok and answer.error.startswith("work at ")
    await until(lambda: fleet.beats[-1].bad_messages == 1)


async def test_a_task_whose_content_cannot_be_read_fails_by_the_usual_rules(fleet: Fleet) -> None:
    await fleet.node()
    task = await fleet.place(FunctionRun("echo", files=(FileArg(999, Blob()),)))
    outcome = await fleet.outcome(task)
    assert (outcome.kind, outcome.started) == (OutcomeKind.FAILED, False)
    assert "run.files[0].index" in outcome.error
    await fleet.until_acked()


@pytest.mark.parametrize(("verb", "says"), [("cancel", "term"), ("nonsense", "none of"), ("probe", "malformed")])
async def test_a_bad_command_is_answered_by_what_is_wrong(fleet: Fleet, verb: str, says: str) -> None:
    await fleet.node()
    data = b'{"term":"x"}' if verb == "cancel" else b"\x00"
    answer = answer_of(await fleet.bus.request(subjects.command("n1", verb), data))
    assert not answer.ok and says in answer.error
    fleet.bus.publish(subjects.ALL_REPORT, b"\x00")
    await fleet.command("report")
    assert fleet.beats[-1].bad_messages == 2


# Dying and leaving.


async def test_a_killed_daemon_leaves_no_runner_and_no_grandchild(fleet: Fleet) -> None:
    node = await fleet.node("n1", "--allow", "command")
    _task, pids = await stubborn(fleet)
    pids += [pid for pid, _ in tree.below(node.pid)]
    assert len(pids) >= 4
    node.send_signal(signal.SIGKILL)
    node.wait()
    await all_gone(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_daemon_that_is_told_to_go_hands_back_and_leaves_nothing(fleet: Fleet, number: int) -> None:
    node = await fleet.node("n1", "--slots", "1", "--allow", "command", "--leave-grace-s", "0.2")
    running, pids = await stubborn(fleet)
    queued = await fleet.place(LONG)
    while fleet.beats[-1].seen_seq < 2:
        await fleet.command("report")
    node.send_signal(number)
    assert (await fleet.outcome(queued)).kind is OutcomeKind.RETURNED
    assert (await fleet.outcome(running)).kind is OutcomeKind.RETURNED
    await until(lambda: node.poll() is not None)
    assert node.returncode == 0
    assert fleet.beats[-1].leaving and fleet.beats[-1].held == ()
    await all_gone(pids)
    await fleet.until_acked()


async def test_a_daemon_that_is_told_to_go_lets_short_work_finish(fleet: Fleet) -> None:
    node = await fleet.node()
    task = await fleet.place(FunctionRun("sleep", Raw(b"[0.5]")))
    await until(lambda: fleet.events)
    node.send_signal(signal.SIGTERM)
    assert (await fleet.result(task)).state is ResultState.SUCCEEDED
    await until(lambda: node.poll() is not None)
    await fleet.until_acked()


async def test_a_daemon_that_is_told_to_go_stores_a_large_result_first(fleet: Fleet) -> None:
    source = (
        "import node, time\n@node.function\ndef large() -> bytes:\n    time.sleep(0.5)\n    return b'x' * (64 << 20)\n"
    )
    (fleet.folder / "own.py").write_text(source)
    node = await fleet.node("n1", "--import", "own", "--leave-grace-s", "60")
    task = await fleet.place(FunctionRun("large"))
    await until(lambda: fleet.events)
    node.send_signal(signal.SIGTERM)
    result = await fleet.result(task, 60.0)
    assert result.blob is not None and result.blob.size == 64 << 20
    await until(lambda: node.poll() is not None, 60.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_daemon_whose_modules_are_still_being_imported_can_be_told_to_go(fleet: Fleet, number: int) -> None:
    source = "import time, pathlib\npathlib.Path('importing').touch()\ntime.sleep(600)\n"
    (fleet.folder / "endless.py").write_text(source)
    node = fleet.start_node("n1", "--import", "endless")
    await until((fleet.folder / "importing").exists)
    pids = [pid for pid, _ in tree.below(node.pid)]
    node.send_signal(number)
    await until(lambda: node.poll() is not None, 3.0)
    assert node.returncode == 0
    await all_gone(pids)


async def test_a_daemon_without_a_broker_waits_and_can_be_told_to_go(fleet: Fleet) -> None:
    fleet.target = Target("nats://127.0.0.1:9", seed=fleet.target.seed)
    node = fleet.start_node()
    await until(lambda: "waiting for the broker" in fleet.log())
    node.send_signal(signal.SIGTERM)
    await until(lambda: node.poll() is not None)
    assert node.returncode == 0


async def test_work_goes_on_while_the_broker_restarts_and_its_result_is_stored_after(
    start_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    broker = start_broker("b")
    creds: Any = read_creds(tmp_path / "b" / "fog.creds")
    fleet = await Fleet.open(Target(broker.url, seed=creds.seed), tmp_path)
    try:
        await fleet.node()
        task = await fleet.place(FunctionRun("sleep", Raw(b"[2]")))
        await until(lambda: fleet.events)
        port = int(broker.url.rpartition(":")[2])
        broker.kill()
        start_broker("b", port=port)
        await until(lambda: len(fleet.registers) == 2, 60.0, "registered again")
        assert fleet.registers[0].session == fleet.registers[1].session
        assert [held.task for held in fleet.registers[1].held] in ([task.id], [])
        result = await fleet.result(task, 15)
        assert (result.attempts, result.placement) == (1, 1)
        await fleet.until_acked(15)
        assert (await fleet.result(await fleet.place(), 15)).state is ResultState.SUCCEEDED
    finally:
        await fleet.close()


async def test_a_node_whose_link_is_back_does_not_take_itself_for_offline_until_its_next_round(
    start_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    """It would hold its results back for heartbeats, and the next of those is an hour away."""
    broker = start_broker("b")
    creds: Any = read_creds(tmp_path / "b" / "fog.creds")
    fleet = await Fleet.open(Target(broker.url, seed=creds.seed), tmp_path)
    fleet.interval_s = 3600.0
    try:
        await fleet.node()
        broker.kill()
        beats = len(fleet.beats)
        start_broker("b", port=int(broker.url.rpartition(":")[2]))
        await until(lambda: any(reached(beat.state) for beat in fleet.beats[beats:]), what="the link is measured")
        assert (await fleet.result(await fleet.place())).state is ResultState.SUCCEEDED
    finally:
        await fleet.close()
