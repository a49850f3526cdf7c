"""`fog demo battery`: a phone's evening in two minutes, with a real node whose readings come from files of the real form.

Everything is real but the readings and their pace: the daemon, its decisions, the work that it runs, stops, hands back, and
what the ledger pays for it. The dwell times of its terms are shortened as the evening is.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
import time
from pathlib import Path

from client.commands.ledger import tokens
from client.demo import chart, crunch, evening
from client.demo.chart import Sample
from client.demo.stack import POLL_S, START_S, Stack, running
from client.fleet import Fleet
from schemas.errors import FogError
from schemas.ledger import AccountRow

PHONE, OTHER = "phone", "desktop"
SLOTS = 2
LOOK_S = 0.25
ITS_TIME_S = 1.5  # to be its owner's again: a second, and what our looks take
ROUNDS = 60  # of one task: about a quarter of a second of one core
SETTLE_S = 40.0  # for the last claim to be booked
PAID_AT_LEAST = 0.95  # of its useful time: no beat tells to the millisecond when a session began
# The guide's terms, in seconds of the phone's own evening.
TERMS = {
    "start_s": 30.0, "resume_s": 10.0, "hand_back_s": 120.0, "end_s": 900.0, "rest_s": 1800.0,
}  # fmt: skip


def config(pace: float) -> str:
    """The phone's configuration, when its evening passes `pace` times as fast."""
    terms = "\n".join(f"{name} = {seconds / pace:.3f}" for name, seconds in TERMS.items())
    return f'[harvest]\nenabled = true\nheadless = true\nwindow = "always"\n{terms}\n'


async def play(picture: Path | None, seconds: float, *, keep: bool) -> int:
    """Play the evening in so many seconds. Returns 0 when the phone worked, stood still and was paid as it should."""
    home = Path(tempfile.mkdtemp(prefix="fog-demo-"))
    root = home / "phone"
    evening.write(root, evening.at(0))
    settings = home / "phone.toml"
    settings.write_text(config(60 * evening.MINUTES / seconds), encoding="utf-8")
    usual = {"FOG_NODE_SLOTS": str(SLOTS), "FOG_NODE_CORES": str(SLOTS)}
    devices = {
        PHONE: {**usual, "FOG_NODE_SYSROOT": str(root), "FOG_NODE_CONFIG": str(settings), "DEVICE_TYPE": "smartphone"},
        OTHER: {**usual, "FOG_NODE_SLOTS": "1", "BATTERY": "none", "THERMAL": "normal"},
    }
    stack = Stack(home, devices, crunch.MODULE)
    print("starting a broker, a coordinator, a phone and a desktop, each a process of its own …", flush=True)
    async with running(stack, keep="ledger" if keep else "") as fleet:
        return await _play(fleet, stack, root, picture, seconds)


async def _play(fleet: Fleet, stack: Stack, root: Path, picture: Path | None, seconds: float) -> int:
    await _there(fleet)
    finished: dict[str, int] = {}
    working = [asyncio.create_task(_work(fleet, number, finished)) for number in range(2 * SLOTS)]
    try:
        samples = await _evening(fleet, root, seconds, finished)
    finally:
        for one in working:
            one.cancel()
        ended = await asyncio.gather(*working, return_exceptions=True)
    wrong = [f"work failed: {one}" for one in ended if isinstance(one, Exception)]
    await stack.kill(PHONE, signal.SIGTERM)  # in order: its last session ends, and is claimed
    print(f"\n{chart.terminal(samples)}\n")
    if picture is not None:
        await asyncio.to_thread(_draw, samples, picture)  # for seconds, while the last cancels are answered
    wrong += await _account(fleet, samples, finished)
    for problem in wrong:
        print(f"WRONG: {problem}")
    if not wrong:
        print("right: it never worked while its owner needed it, and is paid for just what it worked")
    return 1 if wrong else 0


async def _there(fleet: Fleet) -> None:
    try:
        async with asyncio.timeout(START_S):
            there = False
            while not there:
                there = len(await fleet.nodes()) == 2 and await fleet.offer("crunch", needed=False) is not None
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise FogError(f"the fleet was not there after {START_S:g} s") from None


async def _work(fleet: Fleet, number: int, finished: dict[str, int]) -> None:
    """Always one task under way, by whichever device takes it."""
    while True:
        handle = await fleet.start("crunch", ROUNDS, f"{number}-{time.time()}")
        try:
            node = (await handle.end()).node
        except asyncio.CancelledError:
            fleet.cancel_soon(handle.id)
            raise
        finished[node] = finished.get(node, 0) + 1


async def _evening(fleet: Fleet, root: Path, seconds: float, finished: dict[str, int]) -> list[Sample]:
    """Play, and look at what the phone says of itself."""
    samples: list[Sample] = []
    began, told, state = time.monotonic(), "", ""
    print(f"the evening begins: {evening.MINUTES / 60:g} hours in {seconds:g} s\n", flush=True)
    while (passed_s := time.monotonic() - began) <= seconds:
        moment = evening.at(evening.MINUTES * passed_s / seconds)
        await asyncio.to_thread(evening.write, root, moment)
        sample = await _look(fleet, moment, passed_s, finished)
        if sample is not None:
            samples.append(sample)
            if (moment.told, sample.state) != (told, state):
                told, state = moment.told, sample.state
                _say(sample)
        await asyncio.sleep(LOOK_S)
    if not samples:
        raise FogError("the phone never told how it stands")
    return samples


async def _look(fleet: Fleet, moment: evening.Moment, at_s: float, finished: dict[str, int]) -> Sample | None:
    with contextlib.suppress(FogError):  # just being taken in, or out of breath: the next look tells
        report = (await fleet.harvest.device(PHONE)).report
        if report is not None:
            return Sample(moment, at_s, report.state.value, report.suspended, report.total_s, finished.get(PHONE, 0))
    return None


def _say(sample: Sample) -> None:
    phone = sample.phone
    print(
        f"  {evening.clock(phone.minute)}  {phone.battery:3.0f} %  {phone.celsius:2.0f} °C  {phone.told:<40} {sample.state}"
        + (", its work stands still" if sample.suspended else ""),
        flush=True,
    )


def _draw(samples: list[Sample], picture: Path) -> None:
    try:
        chart.png(samples, picture)
    except ImportError:
        print("no picture: it needs matplotlib (pip install 'fogfleet[chart]')")
    except OSError as error:
        print(f"no picture: {picture}: {error.strerror}")
    else:
        print(f"the same as a picture: {picture}")


async def _account(fleet: Fleet, samples: list[Sample], finished: dict[str, int]) -> list[str]:
    """Tell what the phone has done and earned; returns what of it is not as it should be."""
    useful_s = samples[-1].useful_s
    row = await _paid(fleet, useful_s)
    verdict = await fleet.ledger.verify()
    worked = sum(sample.state == "harvesting" for sample in samples) / len(samples)
    print(f"the phone worked in {worked:.0%} of the evening: {finished.get(PHONE, 0)} tasks, {useful_s:.1f} s useful")
    print(f"the desktop did {finished.get(OTHER, 0)} tasks, among them what the phone handed back")
    print(
        f"paid by the ledger: {tokens(row.micro)} tokens for {row.paid_ms / 1000:.1f} s,"
        f" of {row.claimed_ms / 1000:.1f} s claimed and {row.observed_ms / 1000:.1f} s seen, in {row.sessions} sessions"
    )
    wrong = list(verdict.problems)
    if not finished.get(PHONE) or not row.paid_ms:
        wrong.append("the phone did nothing")
    if row.paid_ms > 1000 * useful_s + 1000:
        wrong.append("more was paid than it worked")
    if row.paid_ms < PAID_AT_LEAST * 1000 * useful_s:
        wrong.append("less was paid than it worked")
    return wrong + overstayed(samples)


def overstayed(samples: list[Sample]) -> list[str]:
    """When it worked for longer than `ITS_TIME_S` although its owner needed it."""
    found, since = [], None
    for sample in samples:
        needed = sample.phone.screen or not sample.phone.charging
        if not (needed and sample.state == "harvesting"):
            since = None
        elif since is None:
            since = sample
        elif sample.at_s - since.at_s > ITS_TIME_S:
            found.append(f"it worked at {evening.clock(sample.phone.minute)}, when its owner needed it")
    return found[:5]


async def _paid(fleet: Fleet, useful_s: float) -> AccountRow:
    """Its account, once nothing more is to come: what is claimed when a session ends, and what was seen till then."""
    row: AccountRow | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while row is None or row.paid_ms < PAID_AT_LEAST * 1000 * useful_s:
                with contextlib.suppress(FogError):
                    row, _ = await fleet.ledger.account(PHONE)
                await asyncio.sleep(1.0)
    if row is None:
        raise FogError("the phone has claimed nothing")
    return row
