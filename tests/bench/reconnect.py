"""A broker that is killed and started again under 2,000 connected nodes: how soon all of them are back."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from itertools import pairwise

import client
from schemas import jetstream, streams
from schemas.errors import FogError
from tests.bench.figures import Figure
from tests.bench.processes import ROOT, cpu_seconds, environment
from tests.bench.stack import Stack

NODES = 2_000
CROWDS = 2  # processes that play them: one alone cannot beat for all in time where the machine is busy
JOIN_S = 300.0
BACK_S = 120.0
LOOK_S = 0.1
CALM_S = 20.0  # four rounds of beats, in which nobody may be called late or lost


async def reconnect_2000_s() -> Figure:
    """From the moment that the broker takes connections again until every node is a member, online, and has its queue."""
    count = int(os.environ.get("FOG_BENCH_NODES", NODES))
    async with Stack() as stack, client.connect(nats=stack.target.url, creds=stack.home / "fog.creds") as fleet:
        crowds = await start_crowds(stack, count)
        try:
            pids = [[stack.pid("coordinator")], [crowd.pid for crowd in crowds]]
            used = [cpu_seconds(each) for each in pids]
            elections = stack.events["coordinator.elected"]
            await stack.restart_broker()
            began, steps = time.perf_counter(), {}
            while "back_s" not in steps:
                await asyncio.sleep(LOOK_S)
                passed = round(time.perf_counter() - began, 2)
                there = dict(zip(("connected", "members"), await ask_all(crowds), strict=True))
                if there["members"] == count:
                    there |= {"online": await online(fleet), "queues": await queues(stack)}
                steps |= {f"{what}_s": passed for what, n in there.items() if n == count and f"{what}_s" not in steps}
                if len(there) == 4 and set(there.values()) == {count}:
                    steps["back_s"] = passed
                elif passed > BACK_S:
                    raise RuntimeError(f"of {count} nodes there are only {there} after {passed} s; {steps}")
            cpu = [round(cpu_seconds(each) - before, 1) for each, before in zip(pids, used, strict=True)]
            broker_cpu = round(cpu_seconds([stack.broker_pid]), 1)
            lost, late = stack.events["node.lost"], stack.events["node.late"]
            elections = stack.events["coordinator.elected"] - elections
            stack.events.clear()
            await asyncio.sleep(CALM_S)
            unhappy = stack.events["node.late"] + stack.events["node.lost"]
        finally:
            for crowd in crowds:
                crowd.kill()
                await crowd.wait()
    detail = {
        "nodes": count,
        **steps,
        "called_lost": lost,
        "called_late": late,
        "late_or_lost_after": unhappy,
        "elections": elections,
        "cpu_s_coordinator": cpu[0],
        "cpu_s_crowd": cpu[1],
        "cpu_s_broker": broker_cpu,
    }
    if lost or unhappy:
        raise RuntimeError(f"nodes were called lost or late: {detail}")
    what = f"{count} connected nodes in {CROWDS} processes, of a broker that was killed"
    return Figure("reconnect_2000_s", steps["back_s"], "s", 10.0, what, at_most=True, detail=detail)


async def online(fleet: client.Fleet) -> int:
    """Nodes that the coordinator counts as online; 0 while nobody answers."""
    try:
        return (await fleet.status()).nodes.get("online", 0)
    except FogError:
        return 0


async def queues(stack: Stack) -> int:
    """Nodes that pull their work, by the broker's count."""
    return int((await jetstream.stream_info(stack.bus, streams.WORK))["state"]["consumer_count"])


async def start_crowds(stack: Stack, count: int) -> list[Process]:
    """`count` nodes, once all are registered."""
    starts = [number * count // CROWDS for number in range(CROWDS + 1)]
    return await asyncio.gather(*(start_crowd(stack, first, end - first) for first, end in pairwise(starts)))


async def start_crowd(stack: Stack, first: int, count: int) -> Process:
    """One process's, once it is registered. Raises RuntimeError when it ends instead."""
    argv = (sys.executable, "-m", "tests.bench.crowd", stack.target.url, stack.target.seed, str(first), str(count))
    crowd = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, env=environment(), stdin=PIPE, stdout=PIPE)
    assert crowd.stdout is not None
    async with asyncio.timeout(JOIN_S):
        if await crowd.stdout.readline() != b"ready\n":
            raise RuntimeError("the crowd could not join")
    return crowd


async def ask_all(crowds: list[Process]) -> tuple[int, int]:
    """`ask`, of all together."""
    told = [await ask(crowd) for crowd in crowds]
    return sum(each[0] for each in told), sum(each[1] for each in told)


async def ask(crowd: Process) -> tuple[int, int]:
    """How many are connected, and how many registered since they were cut off."""
    assert crowd.stdin is not None and crowd.stdout is not None
    crowd.stdin.write(b"?\n")
    connected, registered = (await crowd.stdout.readline()).split()
    return int(connected), int(registered)
