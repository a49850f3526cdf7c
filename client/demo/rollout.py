"""`fog demo rollout`: a real model is brought to ten devices and used; two bad versions of it stop themselves.

What must be true is checked: every file's type is what the model says on this machine alone, and after each bad version
every device holds the good one.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path

from client import app_file, show
from client.commands import rollout_show as shown
from client.demo import filetype
from client.demo.inputs import choose
from client.demo.stack import POLL_S, START_S, Stack, running
from client.fleet import Fleet
from schemas.errors import FogError
from schemas.membership import NodeState
from schemas.rollout_api import RolloutInfo
from schemas.rollout_state import RolloutPhase

KINDS = (
    "smartphone",
    "desktop",
    "laptop",
    "smartphone",
    "tablet",
    "desktop",
    "smartphone",
    "laptop",
    "edge_server",
    "tablet",
)
FILES = 300  # of the machine's documentation, unless a folder is named
PLAYED = {"BATTERY": "80", "CHARGING": "1", "THERMAL": "normal", "NETWORK_TYPE": "wifi"}


async def play(given: Path | None, *, nodes: int, keep: bool) -> int:
    """Run it. Returns 0 when everything was as it must be, else 1."""
    filetype.model_folder()
    _, paths = choose(given)
    home = Path(tempfile.mkdtemp(prefix="fog-demo-"))
    devices = {f"{KINDS[n % len(KINDS)].replace('_', '-')}-{n}": _played(KINDS[n % len(KINDS)]) for n in range(nodes)}
    stack = Stack(home, devices, filetype.MODULE, ("--allow", "app"))
    print(f"starting a broker, a coordinator and {nodes} nodes that play devices …", flush=True)
    async with running(stack, keep="rollout history" if keep else "") as fleet:
        await _all_online(fleet, nodes)
        problems = await _story(fleet, home / "apps", paths if given else paths[:FILES])
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


def _played(kind: str) -> dict[str, str]:
    return {"DEVICE_TYPE": kind, **PLAYED}


async def _all_online(fleet: Fleet, count: int) -> None:
    ends = time.monotonic() + START_S
    while sum(row.state is NodeState.ONLINE for row in await fleet.nodes()) < count:
        if time.monotonic() > ends:
            raise FogError(f"not all of the {count} nodes are there after {START_S:g} s")
        await asyncio.sleep(POLL_S)


async def _story(fleet: Fleet, folder: Path, paths: list[Path]) -> list[str]:
    problems: list[str] = []
    print(f"\n1. magika's model, version {filetype.GOOD}: a canary first, then all")
    first = await _bring(fleet, folder, filetype.GOOD)
    if first.row.phase is not RolloutPhase.SUCCEEDED:
        return [f"version {filetype.GOOD} ended as {first.row.phase.value}: {first.row.reason}"]
    problems += await _use(fleet, paths)
    print(f"\n2. version {filetype.BROKEN}, whose model is cut short: the canary finds it")
    problems += await _bad(fleet, folder, filetype.BROKEN, "INVALID_PROTOBUF")
    print(f"\n3. version {filetype.BROKEN_ON_PHONES}, which lacks a file that only phones use: three devices at a time")
    problems += await _bad(fleet, folder, filetype.BROKEN_ON_PHONES, "smartphone")
    print("\nafter all that, the same files again")
    return problems + await _use(fleet, paths)


async def _bring(fleet: Fleet, folder: Path, version: str) -> RolloutInfo:
    app = app_file.read(await asyncio.to_thread(filetype.write_version, folder, version))
    if version == filetype.GOOD:
        shown.plan(await fleet.rollouts.plan(app))
    row, sent = await fleet.rollouts.apply(app)
    shown.applied(row, sent)
    async for info in fleet.rollouts.watch(row.id):
        shown.line(info)
    return await fleet.rollouts.status(row.id)


async def _bad(fleet: Fleet, folder: Path, version: str, why: str) -> list[str]:
    """It must stop, say why, and leave the good version on every device."""
    ended = await _bring(fleet, folder, version)
    shown.ended(ended)
    problems = []
    if ended.row.phase is not RolloutPhase.FAILED:
        problems.append(f"version {version} ended as {ended.row.phase.value}")
    if why not in ended.row.reason:
        problems.append(f"the reason says nothing of {why}: {ended.row.reason}")
    plan = await fleet.rollouts.plan(app_file.read(folder / filetype.GOOD / "APP.toml"))
    other = {row.node: row.running for row in plan.rows if row.running != filetype.GOOD}
    problems += [f"{node} has {has or 'nothing'}" for node, has in other.items()]
    attempted = sum(device.batch >= 0 for device in ended.devices)
    has = Counter(row.running or "nothing" for row in plan.rows)
    print(
        f"{attempted} of {len(plan.rows)} devices had tried it; now "
        + ", ".join(f"{n} have {v}" for v, n in has.items())
    )
    return problems


async def _use(fleet: Fleet, paths: list[Path]) -> list[str]:
    """Map the function that uses the model over the files; hold its answers against the package's own."""
    labels: dict[int, str] = {}
    nodes: Counter[str] = Counter()
    problems: list[str] = []
    async with aclosing(fleet.map("filetype", paths)) as items:  # type: ignore[type-var]
        async for item in items:
            if item.error is not None:
                problems.append(f"{paths[item.index]}: {item.error}")
                continue
            labels[item.index] = item.value["label"]
            nodes[item.node] += 1
            if item.value["model"] != filetype.GOOD:
                problems.append(f"{item.node} used version {item.value['model']}")
    expected = await asyncio.to_thread(filetype.ask_locally, paths)
    for index, (path, want) in enumerate(zip(paths, expected, strict=True)):
        if labels.get(index, want) != want:
            problems.append(f"{path} is {want} here and {labels[index]} there")
    kinds = Counter(labels.values())
    show.print_table(("TYPE", "FILES"), kinds.most_common(8), empty="nothing came back")
    same = "" if problems else ": as on this machine alone"
    print(f"{len(labels)} files in {len(kinds)} types, by {len(nodes)} devices{same}")
    return problems
