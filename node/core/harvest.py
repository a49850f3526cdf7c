"""The machine of a harvesting device (SPEC 6), as a table. Pure: readings and time come in, actions go out.

A session is one stretch of lending: it may be suspended and go on, and ends for good when its window closes, when it has
lasted long enough, or when a suspension does. The owner comes first: a single reading suspends the work; only when nothing
has stood against it for a while does it begin or go on.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

from node.core.eligible import Against, Facts, Terms, against, resume_at
from schemas.device import DeviceState
from schemas.harvest import HarvestReason, HarvestReport, HarvestState

SILENCE_S = 30.0  # without a look for so long (the device slept), what was seen before it says nothing any more
CPU_PERCENT, MEMORY_PERCENT, BANDWIDTH_MBPS = 50.0, 30.0, 10.0  # SPEC 6.2
BLIND_CPU_PERCENT = 30.0  # where its temperature cannot be read, and its owner lets it work all the same


class Now(Struct, frozen=True):
    """One moment on two clocks: `ticks` (seconds that only go forward) for durations, `at` (since 1970) for the window."""

    ticks: float
    at: float


# What comes in.


class Looked(Struct, frozen=True):
    """The device was read."""

    device: DeviceState


class Switched(Struct, frozen=True):
    """Harvesting was switched off, for the reason given, or on again (no reason)."""

    off: str = ""


# What goes out.


class OpenSession(Struct, frozen=True):
    """A session begins."""


class CloseSession(Struct, frozen=True):
    """The session is over."""

    why: str


class Suspend(Struct, frozen=True):
    """Stop what runs where it stands, now."""

    why: str


class Resume(Struct, frozen=True):
    """Let what was suspended go on. Nothing is suspended any more."""


class HandBack(Struct, frozen=True):
    """Give back all work, what runs and what waits."""

    why: str


class TakeNew(Struct, frozen=True):
    """New work is welcome."""


class TakeNoNew(Struct, frozen=True):
    """No new work."""

    why: str


class ApplyLimits(Struct, frozen=True):
    """The most that the work may use, of the whole device."""

    cpu_percent: float
    memory_percent: float
    bandwidth_mbps: float


Event = Looked | Switched
Action = OpenSession | CloseSession | Suspend | Resume | HandBack | TakeNew | TakeNoNew | ApplyLimits


class Phase(Enum):
    """Where the machine is. Work is under way in the middle two only."""

    REST = "no session"
    WORK = "working"
    HELD = "suspended, the work is kept"
    AWAY = "suspended, the work is handed back"


class Harvest:
    """One device's machine. `rest_until`: the end of the last rest that was begun, to be kept over a restart."""

    def __init__(self, terms: Terms, rest_until: float = 0.0) -> None:
        self.terms = terms
        self.rest_until = rest_until
        self.phase = Phase.REST
        self.against: list[Against] = []
        self.state = HarvestState.IDLE if terms.enabled else HarvestState.DISABLED
        self.session_since: float | None = None  # ticks
        self.takes = False
        self.why_not = "harvesting: the device has not been read yet"  # why no new work is taken, "" when it is
        self._device = DeviceState()
        self._off = ""
        self._since = 0.0  # ticks at which the phase began
        self._clear_since: float | None = None  # ticks since when nothing stands against it
        self._looked_at: float | None = None
        self._limits: ApplyLimits | None = None

    @property
    def off(self) -> str:
        """Why it is switched off, if it is."""
        return self._off

    # For the table.

    def clear_for(self, seconds: float, now: Now) -> bool:
        """Whether nothing has stood against work for so long."""
        return self._clear_since is not None and now.ticks - self._clear_since >= seconds

    def phase_lasted(self, seconds: float, now: Now) -> bool:
        """Whether the phase has lasted so long."""
        return now.ticks - self._since >= seconds

    def fails(self, _now: Now) -> bool:
        """Whether anything stands against work."""
        return bool(self.against)

    def ends(self, _now: Now) -> bool:
        """Whether something stands against it that ends the session."""
        return any(one.ends for one in self.against)

    @property
    def why(self) -> str:
        """What stands against it, in a line."""
        return "; ".join(one.reason.text for one in self.against) or "not sure yet that nothing stands against it"

    @property
    def reasons(self) -> tuple[HarvestReason, ...]:
        """Everything that stands against work now."""
        return tuple(one.reason for one in self.against)

    def resume_at(self, now: Now) -> float:
        """The earliest moment at which it could work (again), in seconds since 1970; 0: it works, or only its owner can."""
        if self.phase is Phase.WORK:
            return 0.0
        if self.against:
            return resume_at(self.against, self.terms, now.at)
        wait_s = self.terms.start_s if self.phase in (Phase.REST, Phase.AWAY) else self.terms.resume_s
        since = now.ticks if self._clear_since is None else self._clear_since
        return now.at + max(0.0, wait_s - (now.ticks - since))


def outlook(terms: Terms, device: DeviceState, at: float, rest_until: float = 0.0) -> HarvestReport:
    """How it would stand with a device that is in no session: for one that does not run the daemon, or not yet."""
    found = against(Facts(device, at, rest_until=rest_until), terms)
    return HarvestReport(
        state=found[0].state if found else HarvestState.IDLE,
        reasons=tuple(one.reason for one in found),
        resume_at=resume_at(found, terms, at),
        window=terms.window.text,
        zone=str(terms.window.zone),
        headless=terms.headless,
    )


class Edge(Struct, frozen=True):
    """In phase `at`, when `when` holds, go to phase `to` and do these."""

    at: Phase
    when: Callable[[Harvest, Now], bool]
    to: Phase
    do: tuple[Callable[[str], Action], ...] = ()


def _of(kind: Callable[[], Action]) -> Callable[[str], Action]:
    return lambda _why: kind()


_OPEN, _RESUME = _of(OpenSession), _of(Resume)

# The first edge whose condition holds is taken. Whether new work is taken follows from the phase, see `_new_work`.
TABLE = (
    Edge(Phase.REST, lambda h, now: h.clear_for(h.terms.start_s, now), Phase.WORK, (_OPEN,)),
    Edge(Phase.WORK, Harvest.ends, Phase.REST, (HandBack, CloseSession)),
    Edge(Phase.WORK, Harvest.fails, Phase.HELD, (Suspend,)),
    Edge(Phase.HELD, Harvest.ends, Phase.REST, (HandBack, _RESUME, CloseSession)),
    Edge(Phase.HELD, lambda h, now: h.clear_for(h.terms.resume_s, now), Phase.WORK, (_RESUME,)),
    Edge(Phase.HELD, lambda h, now: h.phase_lasted(h.terms.hand_back_s, now), Phase.AWAY, (HandBack, _RESUME)),
    Edge(Phase.AWAY, Harvest.ends, Phase.REST, (CloseSession,)),
    Edge(Phase.AWAY, lambda h, now: h.clear_for(h.terms.start_s, now), Phase.WORK),
    Edge(Phase.AWAY, lambda h, now: h.phase_lasted(h.terms.end_s - h.terms.hand_back_s, now), Phase.REST, (CloseSession,)),
)  # fmt: skip


def step(h: Harvest, event: Event, now: Now) -> list[Action]:
    """Take an event in, and say what to do about it, in order. The same event twice changes nothing more."""
    if isinstance(event, Looked):
        h._device = event.device
        if h._looked_at is not None and now.ticks - h._looked_at > SILENCE_S:
            h._clear_since = None
        h._looked_at = now.ticks
    else:
        h._off = event.off
    actions: list[Action] = []
    _judge(h, now)
    for _ in Phase:  # a single look never leads through more phases than there are
        edge = next((e for e in TABLE if e.at is h.phase and e.when(h, now)), None)
        if edge is None:
            break
        _go(h, edge, now, actions)
        _judge(h, now)
    h.state = _state(h)
    _limits(h, actions)
    _new_work(h, now, actions)
    return actions


def _judge(h: Harvest, now: Now) -> None:
    """Look at every rule, by the thresholds of the phase."""
    session_s = None if h.session_since is None else now.ticks - h.session_since
    facts = Facts(h._device, now.at, session_s, h.phase is Phase.WORK, h.rest_until, h._off)
    h.against = against(facts, h.terms) if h._looked_at is not None else [_NOT_LOOKED]
    if h.against:
        h._clear_since = None
    elif h._clear_since is None:
        h._clear_since = now.ticks


_NOT_LOOKED = Against(HarvestReason(HarvestState.IDLE, "the device has not been read yet"))


def _go(h: Harvest, edge: Edge, now: Now, actions: list[Action]) -> None:
    actions += [make(h.why) for make in edge.do]
    if edge.to is Phase.REST:
        h.session_since = None
        h.rest_until = now.at + h.terms.rest_s
    elif edge.at is Phase.REST:
        h.session_since = now.ticks
    h.phase, h._since = edge.to, now.ticks
    h._clear_since = None if edge.to is not Phase.WORK else h._clear_since


def _state(h: Harvest) -> HarvestState:
    """The state's name: that of the first reason; a pause keeps the name of what it was made for until it is over."""
    if h.phase is Phase.WORK:
        return HarvestState.HARVESTING
    if h.against:
        return h.against[0].state
    held = h.phase in (Phase.HELD, Phase.AWAY) and h.state is not HarvestState.HARVESTING
    return h.state if held else HarvestState.IDLE


def _new_work(h: Harvest, now: Now, actions: list[Action]) -> None:
    """New work is taken while working, but not shortly before it has to end. `why_not` is always the latest."""
    why = ""
    if h.phase is not Phase.WORK:
        why = f"harvesting: {h.why}"
    elif (closes_at := h.terms.window.closes_at(now.at)) is not None and closes_at - now.at <= h.terms.tail_s:
        why = f"harvesting: its window, {h.terms.window.text}, ends soon"
    h.why_not = why
    if h.takes is bool(why):
        h.takes = not why
        actions.append(TakeNoNew(why) if why else TakeNew())


def _limits(h: Harvest, actions: list[Action]) -> None:
    """While it works, the limits in force, said when they change."""
    if h.phase is not Phase.WORK:
        return
    blind = h._device.thermal_state is None
    wanted = ApplyLimits(BLIND_CPU_PERCENT if blind else CPU_PERCENT, MEMORY_PERCENT, BANDWIDTH_MBPS)
    if wanted != h._limits:
        actions.insert(0, wanted)  # before anything begins
        h._limits = wanted
