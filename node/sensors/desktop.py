"""What the services of a Linux desktop tell: UPower, NetworkManager, logind, and who keeps the time since the last input.

Each answer is the latest that came, a moment old: nothing here waits. None of these services has to be there.
"""

from __future__ import annotations

from collections.abc import Mapping

from node.sensors.dbus import MessageBus, Question, prop, session_address, system_address
from node.sensors.reading import Look, Reading, known, unknown
from node.sensors.tree import Tree

POWER_S, METERED_S, SLOW_KEEP_S = 5.0, 30.0, 90.0
IDLE_S, IDLE_KEEP_S = 0.2, 8.0  # somebody who comes back is to be noticed within a second, and at any heartbeat

_NM, _NM_PATH = "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager"
_METERED = {1: True, 2: False, 3: True, 4: False}  # NM_METERED_*: 3 and 4 are its guesses; a guessed yes counts as yes
_UPOWER, _DISPLAY = "org.freedesktop.UPower", "/org/freedesktop/UPower/devices/DisplayDevice"
_ON_POWER = {1: True, 2: False, 3: False, 4: True, 5: True, 6: False}  # charging, discharging, empty, full, pending ×2
_LOGIND, _LOGIND_PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
_MUTTER = Question(
    "org.gnome.Mutter.IdleMonitor", "/org/gnome/Mutter/IdleMonitor/Core", "org.gnome.Mutter.IdleMonitor", "GetIdletime"
)
_SAVER, _SAVER_PATH = "org.freedesktop.ScreenSaver", "/org/freedesktop/ScreenSaver"
_SAVER_IDLE = Question(_SAVER, _SAVER_PATH, _SAVER, "GetSessionIdleTime")
_SAVER_ACTIVE = Question(_SAVER, _SAVER_PATH, _SAVER, "GetActive")


class Desktop:
    """Asks both buses of this machine."""

    def __init__(self, tree: Tree, env: Mapping[str, str]) -> None:
        self._tree = tree
        self._system = MessageBus(system_address(env, tree))
        self._session = MessageBus(session_address(env, tree))
        self._saver_unit = IdleUnit()

    @property
    def waiting(self) -> bool:
        """Whether an answer is under way."""
        return self._system.waiting or self._session.waiting

    def close(self) -> None:
        """Ask no more."""
        self._system.close()
        self._session.close()

    def power(self, now: float) -> Look:
        """`battery_percent` and `is_charging` by UPower, for machines whose sysfs does not tell."""
        percent = self._number(prop(_UPOWER, _DISPLAY, f"{_UPOWER}.Device", "Percentage"), now, 0, 100)
        state = self._slow(prop(_UPOWER, _DISPLAY, f"{_UPOWER}.Device", "State"), now, POWER_S)
        there = self._slow(prop(_UPOWER, _DISPLAY, f"{_UPOWER}.Device", "IsPresent"), now, POWER_S)
        if there.value is not True:
            why = unknown(there.reason or "UPower knows of no battery")
            return {"battery_percent": why, "is_charging": why}
        charging = _ON_POWER.get(state.value) if isinstance(state.value, int) else None
        why_not = unknown(state.reason or f"UPower does not know: state {state.value}")
        return {
            "battery_percent": percent,
            "is_charging": why_not if charging is None else known(charging, f"{_UPOWER} State {state.value}"),
        }

    def metered(self, interface: str, now: float) -> Reading[bool]:
        """Whether this interface's traffic is paid for, by NetworkManager; its guess of *yes* counts as yes."""
        path = self._slow(Question(_NM, _NM_PATH, _NM, "GetDeviceByIpIface", "s", (interface,)), now, METERED_S)
        if not isinstance(path.value, str):
            return unknown(path.reason or "NetworkManager does not know this interface")
        said = self._slow(prop(_NM, path.value, f"{_NM}.Device", "Metered"), now, METERED_S)
        if said.value not in _METERED:
            return unknown(said.reason or f"NetworkManager does not know: {said.value}")
        return known(_METERED[said.value], f"{_NM} Metered {said.value}")

    def user_idle(self, now: float) -> Reading[float]:
        """Seconds since the last input: by Mutter (GNOME), else the screen saver (KDE, others), else logind."""
        mutter = self._session.read(_MUTTER, now, IDLE_S, IDLE_KEEP_S)
        if (idle_ms := _count(mutter.value)) is not None:
            return known(idle_ms / 1000, str(_MUTTER))
        saver = self._session.read(_SAVER_IDLE, now, IDLE_S, IDLE_KEEP_S)
        if (idle := _count(saver.value)) is not None:
            return known(self._saver_unit.seconds(idle, now), str(_SAVER_IDLE))
        logind = self._by_logind(now)
        return (
            logind
            if logind.value is not None
            else unknown("; ".join(dict.fromkeys((mutter.reason, saver.reason, logind.reason))))
        )

    def _by_logind(self, now: float) -> Reading[float]:
        sessions = self._system.read(
            Question(_LOGIND, _LOGIND_PATH, f"{_LOGIND}.Manager", "ListSessions"), now, IDLE_S, IDLE_KEEP_S
        )
        if sessions.value == []:
            uptime = self._uptime()
            return uptime if uptime.value is None else known(uptime.value, f"{_LOGIND}: nobody is logged in")
        idle = self._system.read(
            prop(_LOGIND, _LOGIND_PATH, f"{_LOGIND}.Manager", "IdleHint"), now, IDLE_S, IDLE_KEEP_S
        )
        if idle.value is False:
            return known(0.0, f"{_LOGIND} IdleHint (some desktops never set it)")
        since = self._system.read(
            prop(_LOGIND, _LOGIND_PATH, f"{_LOGIND}.Manager", "IdleSinceHint"), now, IDLE_S, IDLE_KEEP_S
        )
        since_us = _count(since.value)
        if idle.value is not True or since_us is None:
            return unknown(idle.reason or since.reason or "logind does not tell")
        return known(max(0.0, now - since_us / 1e6), f"{_LOGIND} IdleSinceHint")

    def _uptime(self) -> Reading[float]:
        read = self._tree.text("/proc/uptime", 64)
        try:
            return known(float((read.value or "").split()[0]), read.source)
        except (ValueError, IndexError):
            return unknown(read.reason or "/proc/uptime holds no number")

    def screen(self, now: float) -> Reading[bool]:
        """Whether the screen is on, where its driver does not tell: a closed lid or an active screen saver is off."""
        lid = self._system.read(
            prop(_LOGIND, _LOGIND_PATH, f"{_LOGIND}.Manager", "LidClosed"), now, IDLE_S, IDLE_KEEP_S
        )
        if lid.value is True:
            return known(False, f"{_LOGIND} LidClosed")
        saver = self._session.read(_SAVER_ACTIVE, now, IDLE_S, IDLE_KEEP_S)
        if isinstance(saver.value, bool):
            return known(not saver.value, str(_SAVER_ACTIVE))
        return unknown(saver.reason)

    def _slow(self, question: Question, now: float, every_s: float) -> Reading[object]:
        return self._system.read(question, now, every_s, SLOW_KEEP_S)

    def _number(self, question: Question, now: float, low: float, high: float) -> Reading[float]:
        said = self._slow(question, now, POWER_S)
        if said.value is None:
            return unknown(said.reason)
        if isinstance(said.value, bool) or not isinstance(said.value, int | float) or not low <= said.value <= high:
            return unknown(f"{said.source}: {said.value!r:.40} cannot be")
        return known(float(said.value), said.source)


class IdleUnit:
    """GetSessionIdleTime is in seconds on some desktops and in milliseconds on others. It grows with the clock, so two
    answers tell; until they do, it is taken for milliseconds, which never makes anybody look more idle than they are."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._is_seconds = False

    def seconds(self, value: float, now: float) -> float:
        """The answer in seconds."""
        if self._last is not None:
            before, at = self._last
            grown, passed_s = value - before, now - at
            if passed_s >= 3.0 and grown > 0:
                self._is_seconds = grown < 10 * passed_s
            if passed_s >= 3.0 or grown < 0:
                self._last = value, now
        else:
            self._last = value, now
        return value if self._is_seconds else value / 1000


def _count(value: object) -> float | None:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
