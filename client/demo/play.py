"""The demo's course: start the fleet, run the job, kill a node in the middle, check every item."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from client import show
from client.demo import job
from client.demo.account import Account, Share, differences
from client.demo.inputs import choose
from client.demo.screen import Screen, print_end
from client.demo.stack import ABOUT, DEVICES, IDLE, POLL_S, START_S, Stack, running
from client.fleet import Fleet
from client.mapping import Ended
from schemas.errors import FogError
from schemas.membership import NodeState

FUNCTION = job.describe.__name__
KILL_AT = 0.3  # share of the items that are back when a node is killed
EVENTS_S = 5.0  # how long the last events may take to be stored
STALL_S = 90.0  # without any progress for so long the demo gives up; a silent node is found lost well within it
TOLD = 10  # differences that are printed


async def play(given: Path | None, *, keep: bool) -> int:
    """Run the demo. Returns 0 when every item is there and right, else 1."""
    folder, paths = choose(given)
    stack = Stack(Path(tempfile.mkdtemp(prefix="fog-demo-")))
    print("starting a broker, a coordinator and four nodes, each a process of its own …", flush=True)
    async with running(stack, keep="events --since 1h" if keep else "") as fleet:
        return await _play(fleet, stack, folder, paths)


async def _play(fleet: Fleet, stack: Stack, folder: Path, paths: list[Path]) -> int:
    reason = await _all_online(fleet)
    sizes = [path.stat().st_size for path in paths]
    print(f"job: {FUNCTION}() over {len(paths)} files of {folder}, {show.size(sum(sizes))}", flush=True)
    account = Account(sizes, {name: Share() for name in DEVICES})
    began = time.time()
    with Screen(account, reason) as screen:
        screen.say(f"{IDLE} gets no work: {reason}")
        found = await _run(fleet, stack, account, screen, paths)
    took_s = account.took_s
    await _read_events(fleet, account, began)
    account.began = time.monotonic() - took_s
    print_end(account, reason)
    if not account.killed:
        print("no node was killed: the job was over too soon for that")
    return await _check(found, paths)


async def _all_online(fleet: Fleet) -> str:
    """Wait until every device is in and offers the job; returns why the idle one gets no work."""
    missing = set(DEVICES)
    try:
        async with asyncio.timeout(START_S):
            while missing:
                nodes = {row.node for row in await fleet.nodes() if row.state is NodeState.ONLINE}
                offers = {row.offer.name: row.nodes for row in await fleet.functions()}
                missing = set(DEVICES) - nodes or (set() if offers.get(FUNCTION, 0) else {"functions"})
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise FogError(f"not there after {START_S:g} s: {', '.join(sorted(missing))}") from None
    for row in await fleet.nodes():
        print(f"  {row.node:<16}{ABOUT.get(row.node, ''):<28}score {row.score:.2f}", flush=True)
    return "; ".join((await fleet.node(IDLE)).fit_reasons) or "nothing stands against it"


async def _run(fleet: Fleet, stack: Stack, account: Account, screen: Screen, paths: list[Path]) -> dict[int, object]:
    """The job itself. The kill comes once enough is back, and hits a node that holds work then."""
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()
    patience = asyncio.timeout(STALL_S)

    def on_chunk(ended: Ended) -> None:
        patience.reschedule(loop.time() + STALL_S)
        account.chunk(ended)
        if account.done >= KILL_AT * len(paths):
            enough.set()

    killing = asyncio.create_task(_kill_one(fleet, stack, account, screen, enough))
    ticking = asyncio.create_task(_tick(screen))
    found: dict[int, object] = {}
    try:
        async with patience, aclosing(fleet.map(FUNCTION, paths, on_chunk=on_chunk)) as items:  # type: ignore[type-var]
            async for item in items:
                if item.error is None:
                    found[item.index] = item.value
                else:
                    screen.say(f"{paths[item.index]}: {item.error}")
    except TimeoutError:
        screen.say(f"nothing came back for {STALL_S:g} s; what is still with the fleet:")
        for row in await fleet.tasks():
            screen.say(f"  {row.task}: {row.state} {row.node} {row.reason}")
    finally:
        killing.cancel()
        ticking.cancel()
        await asyncio.gather(killing, ticking, return_exceptions=True)
    return found


async def _tick(screen: Screen) -> None:
    while True:
        await asyncio.sleep(0.1)
        screen.update()


async def _kill_one(fleet: Fleet, stack: Stack, account: Account, screen: Screen, enough: asyncio.Event) -> None:
    await enough.wait()
    while True:
        holding = {row.node: row.held for row in await fleet.nodes() if row.held and row.node in DEVICES}
        if holding:
            break
        await asyncio.sleep(0.01)
    victim = max(holding, key=lambda name: holding[name])
    pid = await stack.kill(victim)
    account.killed = victim
    screen.say(
        f"  {account.took_s:5.1f} s  killed {victim} (SIGKILL, pid {pid}) while it held {holding[victim]} of the chunks"
    )


async def _read_events(fleet: Fleet, account: Account, began: float) -> None:
    """Count attempts and moves from the events: the same that any outside tool can read."""
    async with asyncio.timeout(EVENTS_S), aclosing(fleet.events(since=began - 1, kind="task")) as events:  # type: ignore[type-var]
        async for event in events:
            account.event(event)


async def _check(found: dict[int, object], paths: list[Path]) -> int:
    print("\nchecking: the same job on this machine alone …", flush=True)
    expected = await asyncio.to_thread(job.do_locally, paths)
    problems = differences(found, expected, paths)
    for problem in problems[:TOLD]:
        print(f"  {problem}")
    if problems:
        print(f"WRONG: {len(problems)} of {len(paths)} items are missing or differ")
        return 1
    print(f"right: all {len(paths)} items are there, each once, and as they are here")
    return 0
