"""What stands against harvesting now: each need of SPEC 6.1 as a rule, with one threshold to start by and one to go on by.

A rule looks at readings and never guesses: what is unknown stands against it, unless the owner said `headless` (nobody uses
this device, or nobody can tell). All rules are asked, so that an owner is told of everything at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct

from node.core.window import Window
from schemas.device import DeviceState, NetworkType, ThermalState
from schemas.harvest import HarvestReason, HarvestState

FREE_NETWORKS = (NetworkType.WIFI, NetworkType.ETHERNET, NetworkType.LOOPBACK)
TOO_HOT = (ThermalState.THROTTLED, ThermalState.CRITICAL)  # by the kind of sensor: 55 °C of a battery, 85 °C of a CPU
COOL = (ThermalState.NORMAL, ThermalState.WARM)

Seconds = Annotated[float, Meta(ge=0, le=86_400)]


class Terms(Struct, frozen=True):
    """On what terms the owner lends the device. Percent of the battery, times in seconds, the window by the device's zone.

    To start, the battery holds more than `battery_percent`, to go on, more than `battery_stop_percent`; the user has been
    idle for `idle_s`, and for `resume_idle_s` to go on after a pause. Nothing stands against it for `start_s` before work
    starts, `resume_s` before it goes on. After `hand_back_s` of suspension the work is handed back, after `end_s` the
    session ends. A session lasts `session_s` at most, then comes a rest of `rest_s`; nothing new is begun in the window's
    last `tail_s`.
    """

    window: Window
    enabled: bool = True
    headless: bool = False
    battery_percent: float = 20.0
    battery_stop_percent: float = 15.0
    idle_s: float = 300.0
    resume_idle_s: float = 60.0
    start_s: float = 30.0
    resume_s: float = 10.0
    hand_back_s: float = 120.0
    end_s: float = 900.0
    session_s: float = 8 * 3600.0
    rest_s: float = 1800.0
    tail_s: float = 1800.0


class Facts(Struct, frozen=True):
    """What the rules look at. `at` is in seconds since 1970; `session_s` how long the current session has lasted, None
    without one; `running`: work runs now, so that the thresholds to go on count; `rest_until`: the rest lasts until then.
    `idle_wanted_s`: how long the user must have been idle."""

    device: DeviceState
    at: float
    session_s: float | None = None
    running: bool = False
    rest_until: float = 0.0
    switched_off: str = ""

    def reading(self, name: str) -> Any:
        """The value of a signal, None when it is unknown."""
        value = getattr(self.device, name)
        return None if value is UNSET else value

    def why_unknown(self, name: str) -> str:
        """Why that signal is unknown."""
        reasons = self.device.unknown
        return reasons.get(name, "") if isinstance(reasons, dict) else ""


class Against(Struct, frozen=True):
    """One reason, and whether it ends the session rather than suspending it."""

    reason: HarvestReason
    ends: bool = False

    @property
    def state(self) -> HarvestState:
        """The state that it means."""
        return self.reason.state


def _no(state: HarvestState, text: str, until: float = 0.0, *, ends: bool = False) -> list[Against]:
    return [Against(HarvestReason(state, text, until), ends)]


def _unknown(state: HarvestState, facts: Facts, terms: Terms, names: dict[str, str]) -> list[Against]:
    """A reason for each of these signals that could not be read."""
    if terms.headless:
        return []
    missing = [name for name in names if facts.reading(name) is None]
    texts = [
        f"{names[name]} is unknown" + (f" ({why})" if (why := facts.why_unknown(name)) else "") for name in missing
    ]
    return [Against(HarvestReason(state, text[:300], unknown=True)) for text in texts]


def _enabled(facts: Facts, terms: Terms) -> list[Against]:
    if facts.switched_off:
        return _no(HarvestState.DISABLED, facts.switched_off, ends=True)
    return [] if terms.enabled else _no(HarvestState.DISABLED, "harvesting is off: start with --harvest", ends=True)


def _window(facts: Facts, terms: Terms) -> list[Against]:
    window, at = terms.window, facts.at
    closes_at = window.closes_at(at)
    opens_at = window.opens_at(at, terms.tail_s)
    if closes_at is None:
        return _no(HarvestState.OUTSIDE_WINDOW, f"outside its window, {window.text}", opens_at, ends=True)
    if facts.session_s is None and closes_at - at <= terms.tail_s:
        minutes = terms.tail_s / 60
        text = f"its window, {window.text}, ends soon: nothing is begun in its last {minutes:g} minutes"
        return _no(HarvestState.OUTSIDE_WINDOW, text, opens_at)
    return []


def _rest(facts: Facts, terms: Terms) -> list[Against]:
    if facts.session_s is not None:
        if facts.session_s < terms.session_s:
            return []
        text = f"a session lasts {terms.session_s / 3600:g} hours at most"
        return _no(HarvestState.COOLDOWN, text, facts.at + terms.rest_s, ends=True)
    left_s = min(facts.rest_until - facts.at, terms.rest_s)  # a clock that was set back does not lengthen it
    return _no(HarvestState.COOLDOWN, "it rests between two sessions", facts.at + left_s) if left_s > 0 else []


def _user(facts: Facts, terms: Terms) -> list[Against]:
    state, found = HarvestState.USER_ACTIVE, []
    if facts.reading("screen_on"):
        found += _no(state, "the screen is on")
    idle_s = facts.reading("user_idle_s")
    wanted_s = terms.idle_s if facts.session_s is None else terms.resume_idle_s
    if idle_s is not None and idle_s < wanted_s:
        text = f"its user was there {idle_s:.0f} s ago: {wanted_s:g} s without are wanted"
        found += _no(state, text, facts.at + wanted_s - idle_s)
    names = {"screen_on": "whether the screen is on", "user_idle_s": "when its user was last there"}
    return found + _unknown(state, facts, terms, names)


def _power(facts: Facts, terms: Terms) -> list[Against]:
    if facts.reading("mains"):
        return []
    state, found = HarvestState.CHARGING_LOW, []
    if facts.reading("is_charging") is False:
        found += _no(state, "it is not charging")
    percent = facts.reading("battery_percent")
    limit = terms.battery_stop_percent if facts.running else terms.battery_percent
    if percent is not None and percent <= limit:
        found += _no(state, f"the battery is at {percent:g} %: more than {limit:g} % is wanted")
    names = {"battery_percent": "the battery's level", "is_charging": "whether it charges"}
    return found + _unknown(state, facts, terms, names)


def _heat(facts: Facts, terms: Terms) -> list[Against]:
    state, thermal = HarvestState.THERMAL_THROTTLE, facts.reading("thermal_state")
    if thermal is None:
        return _unknown(state, facts, terms, {"thermal_state": "its temperature"})
    if thermal in COOL or (facts.running and thermal not in TOO_HOT):
        return []
    celsius = facts.reading("temperature_c")
    text = f"it is {thermal.value}" + (f", {celsius:.0f} °C" if celsius is not None else "")
    return _no(state, text, ends=thermal is ThermalState.CRITICAL)


def _network(facts: Facts, terms: Terms) -> list[Against]:
    state, kind = HarvestState.NETWORK_METERED, facts.reading("network_type")
    if kind is NetworkType.LOOPBACK:
        return []  # nothing leaves this device
    found = []
    if facts.reading("network_metered"):
        found += _no(state, "its network is metered")
    if kind is NetworkType.CELLULAR:
        found += _no(state, "it is on a cellular network")
    if kind is NetworkType.OTHER and not terms.headless:
        found += [Against(HarvestReason(state, "its network is neither Wi-Fi nor Ethernet, as far as it tells"))]
    names = {"network_type": "what network it is on", "network_metered": "whether its network is metered"}
    return found + _unknown(state, facts, terms, names)


RULES: tuple[Callable[[Facts, Terms], list[Against]], ...] = (
    _enabled,
    _window,
    _rest,
    _user,
    _power,
    _heat,
    _network,
)


def against(facts: Facts, terms: Terms) -> list[Against]:
    """Everything that stands against work now. The first names the device's state."""
    return [found for rule in RULES for found in rule(facts, terms)]


def resume_at(found: list[Against], terms: Terms, at: float) -> float:
    """The earliest moment at which nothing of this need stand any more; 0 when only the owner can end it, or there is none.

    What no clock can tell (a charger, a user) may end at any time, so it bounds nothing.
    """
    if not found or any(one.state is HarvestState.DISABLED for one in found):
        return 0.0
    return terms.window.opens_at(max([at, *(one.reason.until for one in found)]), terms.tail_s)
