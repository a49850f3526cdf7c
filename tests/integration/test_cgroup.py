"""The control group of running work, over files of the form that the kernel gives: no machine of ours delegates a real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.core.ceilings import Ceilings
from node.enforce.cgroup import Group, Leaf
from schemas.advice import Limits
from tests.integration.limited import device
from tests.integration.node_fleet import until


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    (tmp_path / "fog.service").mkdir()
    (tmp_path / "fog.service" / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "self").write_text("1:name=systemd:/old\n0::/fog.service\n")
    return tmp_path / "self"


def test_the_daemon_moves_aside_and_work_gets_a_group_with_limits(tmp_path: Path, membership: Path) -> None:
    leaf, own = Leaf(tmp_path, membership), tmp_path / "fog.service"
    assert (own / "fog-daemon" / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+cpu +memory"
    work = own / f"fog-work-{os.getpid()}"
    leaf.limit(0.7, 512)
    leaf.add(4711)
    assert (work / "cpu.max").read_text() == "70000 100000"
    assert 512 << 20 < int((work / "memory.max").read_text()) < 600 << 20
    assert (work / "cgroup.procs").read_text() == "4711"
    leaf.limit(None, None)
    assert (work / "cpu.max").read_text() == "max 100000" and (work / "memory.max").read_text() == "max"
    assert leaf.killed() == 0
    (work / "memory.events").write_text("low 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert leaf.killed() == 2


def test_where_others_are_in_the_group_everything_is_put_back(tmp_path: Path, membership: Path) -> None:
    """The kernel refuses to hand controllers on then (EBUSY); a folder in the file's place refuses as well."""
    own = tmp_path / "fog.service"
    (own / "cgroup.subtree_control").mkdir()
    with pytest.raises(OSError, match="subtree_control"):
        Leaf(tmp_path, membership)
    assert not (own / f"fog-work-{os.getpid()}").exists()
    assert (own / "cgroup.procs").read_text() == str(os.getpid()), "it is not back"


@pytest.mark.parametrize(
    ("said", "controllers", "why"),
    [("4:memory:/x\n", "cpu memory", "version 2"), ("0::/fog.service\n", "memory pids", "no controller for cpu")],
)
def test_what_cannot_be_says_why(tmp_path: Path, membership: Path, said: str, controllers: str, why: str) -> None:
    membership.write_text(said)
    (tmp_path / "fog.service" / "cgroup.controllers").write_text(controllers)
    with pytest.raises(ValueError, match=why):
        Leaf(tmp_path, membership)


def test_without_any_such_files_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Leaf(tmp_path, tmp_path / "self")


async def test_work_is_in_the_group_and_not_stopped_besides(tmp_path: Path, membership: Path) -> None:
    work = tmp_path / "fog.service" / f"fog-work-{os.getpid()}"
    async with device(Ceilings(cpu_percent=40), group=Group(lambda: Leaf(tmp_path, membership))) as d:
        task = d.call("sleep", "[600]")
        await until(lambda: task in d.sink.began)
        (runner,) = d.executor.pool.all
        assert (work / "cgroup.procs").read_text() == str(runner.pid)
        assert d.enforcer.report().cpu == "cgroup cpu.max"
        d.enforcer.apply(Limits(1.0, 300, 1))
        assert (work / "cpu.max").read_text().endswith(" 100000") and d.enforcer.report().memory.startswith(
            "polled, cgroup"
        )
        (work / "memory.events").write_text("oom_kill 1\n")
        os.kill(runner.pid, 9)
        how, why = await until(lambda: d.sink.ends.get(task), what="its end")
        assert how == "died" and why.startswith("Memory allocation exceeded") and "300 MiB" in why
