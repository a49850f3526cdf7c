"""The shell of the harvesting machine: it reads the device, does what the machine says, and measures useful time.

While a session runs the device is looked at several times a second, so that its owner waits for it less than one; otherwise
now and then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from node.claims import Claims
from node.context import Context
from node.core.ceilings import Ceilings
from node.core.eligible import Terms
from node.core.harvest import (
    Action,
    ApplyLimits,
    CloseSession,
    HandBack,
    Harvest,
    Looked,
    Now,
    OpenSession,
    Phase,
    Resume,
    Suspend,
    Switched,
    TakeNew,
    TakeNoNew,
    step,
)
from node.core.useful import Busy, Session
from node.orders import Orders
from node.recorder import Recorder
from node.transports import Transports
from schemas.device import DeviceState
from schemas.event import HarvestEvent
from schemas.files import write_private
from schemas.harvest import HarvestReport, HarvestState
from schemas.logs import fields
from schemas.membership import NodeAnswer, NodeCommand
from schemas.names import new_id
from schemas.ticks import ticks

log = logging.getLogger("fog.node.harvest")

LOOK_S = 0.25  # between two looks in a session
IDLE_LOOK_S = 5.0  # and without one; several times within what has to pass before one begins
OUTSIDE_LOOK_S = 60.0  # outside the window
KEEP_S = 15.0  # the open claim is written to the disk this often
LEAVING = "the node is going down"
FULL = "too many claims wait for a broker that takes them"


class Holds(Protocol):
    """What holds running work to limits, as `enforce.enforcer.Enforcer` does."""

    def cap(self, by: str, ceilings: Ceilings | None) -> None:
        """The most that it may use."""

    def suspend(self) -> None:
        """Stop it where it stands."""

    def resume(self) -> None:
        """Let it go on."""


class Reads(Protocol):
    """What reads the device, as `device.Device` does."""

    def state(self, now: float) -> DeviceState:
        """How it is."""

    def watch_owner(self, on: bool) -> None:
        """Whether what its owner does is to be read afresh each time."""


class Harvester:
    """One node's, on a device with so much memory. `beat()` tells the coordinator."""

    def __init__(
        self,
        context: Context,
        orders: Orders,
        recorder: Recorder,
        holds: Holds,
        busy: Busy,
        terms: Terms,
        ram_mb: int | None,
        device: Reads,
        beat: Callable[[], None],
        folder: Path,
        transports: Transports,
    ) -> None:
        self._context, self._orders, self._recorder = context, orders, recorder
        self._holds, self._busy = holds, busy
        self._ram_mb, self._device, self._beat = ram_mb, device, beat
        self._claims = Claims(context, folder / "claims", transports)
        self._rest_file = folder / "harvest.json"
        self.machine = Harvest(terms, _rest_until(self._rest_file))
        self._session: Session | None = None
        self._suspended = False
        self._sessions, self._total_s = 0, 0.0
        self._kept_at = 0.0
        self._loop = asyncio.get_running_loop()
        orders.also("harvest", self._asked)
        self._rest(self.machine.why_not)
        context.harvest_state = self.machine.state

    async def run(self) -> None:
        """Look, and do what follows; returns never."""
        await self._claims.open()
        while True:
            self._look()
            await asyncio.sleep(self._wait_s())

    def _wait_s(self) -> float:
        machine = self.machine
        if machine.phase is not Phase.REST:
            return LOOK_S
        if machine.state is not HarvestState.OUTSIDE_WINDOW:
            return max(LOOK_S, min(IDLE_LOOK_S, machine.terms.start_s / 6))
        at = time.time()
        return min(OUTSIDE_LOOK_S, max(IDLE_LOOK_S, machine.terms.window.opens_at(at, machine.terms.tail_s) - at))

    def _look(self) -> None:
        at = time.time()
        if self._claims.full:
            self._step(Switched(FULL), at)
            return
        if self.machine.off:
            self._step(Switched(), at)
        try:
            device = self._device.state(at)
        except (OSError, ValueError):
            log.exception("the device cannot be read")
            device = _NOTHING_KNOWN
        self._step(Looked(device), at)

    def _step(self, event: Looked | Switched, at: float) -> None:
        now = Now(ticks(), at)
        self._measure(now)
        before = self._context.harvest_state, self.machine.takes
        for action in step(self.machine, event, now):
            self._do(action, now)
        if not self.machine.takes:
            self._context.resting = self.machine.why_not
        self._context.harvest_state = self.machine.state
        if before != (self.machine.state, self.machine.takes):
            self._beat()

    def _do(self, action: Action, now: Now) -> None:
        match action:
            case OpenSession():
                self._open(now)
            case CloseSession(why):
                self._close(why, now)
            case Suspend(why):
                self._holds.suspend()
                self._suspended = True
                self._tell("suspended", now, why)
            case Resume():
                self._holds.resume()
                self._suspended = False
                if self.machine.phase is Phase.WORK:  # else what was suspended is handed back
                    self._tell("resumed", now)
            case HandBack(why):
                self._orders.stop_all(f"harvesting: {why}")
                self._tell("handed-back", now, why)
            case TakeNew():
                self._context.resting = ""
            case TakeNoNew(why):
                self._rest(why)
            case ApplyLimits():
                memory_mb = None if self._ram_mb is None else max(1, int(self._ram_mb * action.memory_percent / 100))
                self._holds.cap("harvest", Ceilings(action.cpu_percent, memory_mb, action.bandwidth_mbps))

    def _rest(self, why: str) -> None:
        """Take nothing more; what waits is for others. What runs stays."""
        self._context.resting = why
        self._recorder.hand_back(why)

    # A session.

    def _open(self, now: Now) -> None:
        self._session = Session(new_id("h"), self._context.node, now.ticks, now.at, self._busy.read(self._loop.time()))
        self._sessions += 1
        self._device.watch_owner(True)
        self._tell("session-started", now)

    def _close(self, why: str, now: Now) -> None:
        if self._session is not None:
            self._claims.finished(self._session.end())
            self._total_s += self._session.useful_s
            self._tell("session-ended", now, why)
            self._session = None
        self._device.watch_owner(False)
        self._keep_rest()

    def _keep_rest(self) -> None:
        """The rest lasts also over a restart."""
        try:
            write_private(self._rest_file, json.dumps({"rest_until": self.machine.rest_until}).encode())
        except OSError as error:
            log.error("cannot keep when the rest ends", extra=fields(error=str(error)))

    def _measure(self, now: Now) -> None:
        session = self._session
        if session is None:
            return
        busy_s = self._busy.read(self._loop.time())
        for claim in session.look(now.ticks, now.at, busy_s, suspended=self._suspended):
            self._claims.finished(claim)
        if now.ticks - self._kept_at >= KEEP_S and (growing := session.claim) is not None:
            self._kept_at = now.ticks
            self._claims.keep_open(growing)

    def _tell(self, what: str, now: Now, why: str = "") -> None:
        session = self._session
        if session is None:
            return
        log.info(f"harvest {what}", extra=fields(session=session.id, why=why, useful_s=round(session.useful_s, 1)))
        key = f"{self._context.node}.{session.id}.{what}.{round(1000 * now.at)}"
        data = HarvestEvent(self._context.node, session.id, self.machine.state, why[:300], round(session.useful_s, 3))
        self._context.events.emit(f"harvest.{what}", self._context.node, key, data, now.at)

    # Being asked, and the end.

    def _asked(self, _command: NodeCommand) -> NodeAnswer:
        return NodeAnswer(self._context.node, self._context.boot, harvest=self.report())

    def report(self) -> HarvestReport:
        """How it stands."""
        machine, session = self.machine, self._session
        now = Now(ticks(), time.time())
        self._measure(now)
        return HarvestReport(
            state=machine.state,
            reasons=machine.reasons,
            resume_at=machine.resume_at(now),
            session="" if session is None else session.id,
            session_since=0.0 if session is None else session.since,
            suspended=self._suspended,
            useful_s=0.0 if session is None else round(session.useful_s, 3),
            sessions=self._sessions,
            total_s=round(self._total_s + (0.0 if session is None else session.useful_s), 3),
            window=machine.terms.window.text,
            zone=str(machine.terms.window.zone),
            headless=machine.terms.headless,
            claims=self._claims.count,
        )

    def leave(self) -> None:
        """The node goes down: the session is over."""
        self._step(Switched(LEAVING), time.time())

    async def close(self) -> None:
        """Return when what is claimed is on the disk."""
        await self._claims.close()


_NOTHING_KNOWN = DeviceState(
    **{name: None for name in DeviceState.__struct_fields__ if name not in ("sources", "unknown")}  # type: ignore[arg-type]
)


def _rest_until(path: Path) -> float:
    """When the last session's rest ends, in seconds since 1970; 0 when nothing is known of one."""
    try:
        said = json.loads(path.read_bytes()).get("rest_until", 0.0)
        return float(said)
    except (OSError, ValueError, AttributeError, TypeError):
        return 0.0
