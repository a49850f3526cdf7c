"""The device under this node: what it is and how it is, each value with its source, or unknown with the reason.

All reading goes through `Device`. What is said beats what is played, and that beats what is read: overrides from flag or
configuration (source "config"), then the environment (SPEC 5.9, source "environment (pretending)"), then discovery.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from node.core.link import Goodput, Trips, quality
from node.sensors import memory, temperature
from node.sensors.ask import Ask, find
from node.sensors.cgroup import Cgroup
from node.sensors.desktop import Desktop
from node.sensors.gateway import gateway
from node.sensors.network import Broker, Metered, network
from node.sensors.overlay import CAPABILITIES, STATE, configured
from node.sensors.power import Supplies, power, supplies
from node.sensors.pretend import played
from node.sensors.processor import Utilization, processor
from node.sensors.reading import Look, Reading, known, unknown
from node.sensors.screen import screen
from node.sensors.termux import Termux
from node.sensors.tree import Tree
from schemas.device import DeviceCapabilities, DeviceState

# How old a slow signal may be, in seconds, before it is read again.
POWER_AGE_S = 1.0  # and of heat
NETWORK_AGE_S = 5.0
OWNER_AGE_S = 0.2  # of both while somebody waits for the owner to come
STORAGE_AGE_S = 10.0
_NO_ANSWER = "no answer from the broker"
_OF_LINK = ("network_quality", "network_latency_ms", "network_goodput_mbps", "network_encrypted")
SENSORS_AGE_S = 60.0  # of the list of sensors, not of what they read


class Device:
    """One device. `root` stands for ``/`` of a Linux system, so that a test can bring its own sysfs and proc.

    `overrides` map fields of the two messages to values; BadInput names one that is unknown or does not fit, or a
    variable of `env` that plays nonsense. `broker_host` is a name or an address (best: that of the connected peer).
    `storage_path` lies on the disk whose space counts. Not for use by several threads at once.
    """

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        env: Mapping[str, str] = os.environ,
        overrides: Mapping[str, object] = {},
        broker_host: str = "",
        storage_path: Path | None = None,
        platform: str = sys.platform,
    ) -> None:
        self._tree, self._env = Tree(root), env
        self._android = platform == "android" or (platform == "linux" and "ANDROID_ROOT" in env)
        self._platform = "android" if self._android else platform
        self._storage_path = str(storage_path or root)
        self._configured, play = configured(overrides), played(env)
        self._played = play.look
        self.pretending: list[str] = list(play.said)  # the settings that play; empty when everything is real
        self._cgroup = Cgroup(self._tree)
        self._utilization = Utilization(self._tree)
        self._desktop = Desktop(self._tree, env) if self._platform == "linux" else None
        self._broker, self._metered = Broker(broker_host), Metered(env, self._desktop)
        pi = self._platform == "linux" and find("vcgencmd", env)
        self._firmware = Ask(("vcgencmd", "get_throttled"), env, every_s=10.0, keep_s=30.0) if pi else None
        self._termux = Termux(env) if self._android else None
        self._trips, self._goodput = Trips(), Goodput()
        self._link: Look = dict.fromkeys(_OF_LINK, unknown("the link to the broker has not been measured yet"))
        self._link["network_peers"] = unknown("the way to no device of its site has been measured yet")
        self._kept: dict[str, tuple[float, Any]] = {}
        self._power_age_s = POWER_AGE_S

    @property
    def waiting(self) -> bool:
        """Whether an answer is under way (a program, a resolver), so that a state looked at soon will know more."""
        asked = (self._metered, self._broker, self._termux, self._desktop, self._firmware)
        return any(one is not None and one.waiting for one in asked)

    def set_broker(self, host: str) -> None:
        """From now on, the network is the one towards this host."""
        if host != self._broker.host:
            self._broker = Broker(host)
            self._kept.pop("network", None)

    def set_latency(self, round_trip_ms: float | None) -> None:
        """The newest round trip to the broker; None: it does not answer, which is called offline."""
        trip = self._trips.add(round_trip_ms)
        source = _NO_ANSWER if trip is None else "round trip to the broker"
        self._link["network_latency_ms"] = unknown(source) if trip is None else known(trip, source)

    def set_peers(self, round_trips_ms: dict[str, int]) -> None:
        """The round trips to other devices of its site."""
        self._link["network_peers"] = known(round_trips_ms, "round trips in ms, rounded")

    def set_encrypted(self, encrypted: bool) -> None:
        """Whether the link to the broker is TLS, as its socket says."""
        self._link["network_encrypted"] = known(encrypted, "the connection to the broker")

    @property
    def goodput(self) -> Goodput:
        """Tell it of transfers over the broker link, by the clock of `state`."""
        return self._goodput

    def _of_link(self, now: float) -> Look:
        """The link by what was measured on it: the worse of its round trip and its goodput names it."""
        trip, mbps = self._link["network_latency_ms"], self._goodput.mbps(now)
        if mbps is not None:
            self._link["network_goodput_mbps"] = known(mbps, "transfers over the link to the broker")
        else:
            self._link["network_goodput_mbps"] = unknown("nothing large was transferred of late")
        if trip.value is not None or trip.reason == _NO_ANSWER:
            source = trip.source or _NO_ANSWER
            self._link["network_quality"] = known(quality(trip.value, mbps), source + (" and goodput" if mbps else ""))
        return self._link

    def watch_owner(self, on: bool) -> None:
        """Whether power and heat are read afresh nearly each time: work must stop at once when the charger goes."""
        self._power_age_s = OWNER_AGE_S if on else POWER_AGE_S

    def capabilities(self) -> DeviceCapabilities:
        """Discover what the device is. May take some 100 ms: it may run programs, each with a timeout."""
        look = {**self._discover(), **self._played, **self._configured}
        values, sources, why = _split(look, CAPABILITIES)
        known_values = {name: value for name, value in values.items() if value is not None}
        return DeviceCapabilities(**known_values, pretending=bool(self.pretending), sources=sources, unknown=why)

    def state(self, now: float) -> DeviceState:
        """How the device is at `now` (seconds since 1970). Cheap: slow signals are kept for a while, nothing waits."""
        look = {**self._read(now), **self._played, **self._configured}
        _cap(look)
        values, sources, why = _split(look, STATE)
        return DeviceState(**values, sources=sources, unknown=why)

    def close(self) -> None:
        """End what still runs for us."""
        for one in (self._metered, self._termux, self._desktop, self._firmware):
            if one is not None:
                one.close()

    def _discover(self) -> Look:
        # Imported here: they are needed once, and some of what they import is large.
        from node.sensors.identity import identity
        from node.sensors.software import software

        common = {**identity(self._tree, self._env, self._platform), **software(self._env), **self._storage()}
        if not self._linux:
            from node.sensors import elsewhere

            return {**common, **elsewhere.capabilities()}
        from node.sensors.chassis import device_type
        from node.sensors.graphics import graphics
        from node.sensors.security import security

        found = supplies(self._tree)
        return {
            **common,
            **processor(self._tree, self._cgroup),
            **graphics(self._tree, self._env),
            **security(self._tree),
            **power(self._tree, found),
            **({"battery_powered": known(True, "Android")} if self._android else {}),
            "device_type": device_type(self._tree, self._env, found, android=self._android),
            "ram_total_mb": memory.ram_total(self._tree, self._cgroup),
        }

    def _read(self, now: float) -> Look:
        storage = self._keep("storage", now, STORAGE_AGE_S, self._storage)
        if not self._linux:
            from node.sensors import elsewhere

            return {**storage, **elsewhere.state(), **self._of_link(now)}
        look = {
            **storage,
            **self._power_and_heat(now),
            **self._network(now),
            **self._of_link(now),
            **self._presence(now),
            "network_gateway": self._keep("gateway", now, NETWORK_AGE_S, lambda: gateway(self._tree)),
            "cpu_utilization": self._utilization.look(),
            "ram_available_mb": memory.ram_available(self._tree, self._cgroup),
        }
        return look | (self._by_termux(now, look) if self._termux else {})

    @property
    def _linux(self) -> bool:
        return self._platform in ("linux", "android")

    def _power_and_heat(self, now: float) -> Look:
        found: Supplies = self._keep("supplies", now, self._power_age_s, lambda: supplies(self._tree))
        sensors = self._keep("sensors", now, SENSORS_AGE_S, lambda: temperature.sensors(self._tree, found))
        firmware = self._firmware.answer(now) if self._firmware else temperature.NOT_ASKED
        heat = self._keep(
            "heat", now, self._power_age_s, lambda: temperature.temperature(self._tree, sensors, firmware)
        )
        supply: Look = self._keep("power", now, self._power_age_s, lambda: power(self._tree, found))
        return {**supply, **self._by_upower(supply, now), **heat}

    def _by_upower(self, supply: Look, now: float) -> Look:
        """What sysfs leaves open of a battery."""
        open_yet = [name for name in ("battery_percent", "is_charging") if supply[name].value is None]
        if self._desktop is None or supply["mains"].value is True or not open_yet:
            return {}
        told = self._desktop.power(now)
        return {name: told[name] for name in open_yet if told[name].value is not None}

    def _presence(self, now: float) -> Look:
        """`screen_on` and `user_idle_s`: whether somebody is at this device."""
        on: Reading[bool] = self._keep(
            "screen", now, self._power_age_s, lambda: screen(self._tree, has_one=self._android)
        )
        if self._desktop is None:
            return {"screen_on": on, "user_idle_s": unknown("nothing on Android tells")}
        if on.value is None and (by_desktop := self._desktop.screen(now)).value is not None:
            on = by_desktop
        return {"screen_on": on, "user_idle_s": self._desktop.user_idle(now)}

    def _network(self, now: float) -> Look:
        look: Look = self._keep(
            "network", now, NETWORK_AGE_S, lambda: network(self._tree, self._broker, self._metered, now)
        )
        if self._metered.waiting or self._broker.waiting:
            del self._kept["network"]  # look again as soon as somebody asks: the answer may be there by then
        return look

    def _by_termux(self, now: float, read: Look) -> Look:
        """What only Termux tells on Android: /sys is closed there, and its heat is the battery's."""
        assert self._termux is not None
        told = {name: value for name, value in self._termux.look(now).items() if read[name].value is None}
        return {**told, "mains": known(False, "Android")}

    def _storage(self) -> Look:
        if hasattr(os, "statvfs"):
            return memory.storage(self._storage_path)
        from node.sensors import elsewhere

        return elsewhere.storage(self._storage_path)

    def _keep(self, name: str, now: float, age_s: float, read: Callable[[], Any]) -> Any:
        """The kept answer under `name` while it is younger than `age_s`, else a fresh one."""
        at, kept = self._kept.get(name, (float("-inf"), None))
        if not 0 <= now - at < age_s:  # a clock that was set back makes it stale as well
            kept = read()
            self._kept[name] = now, kept
        return kept


def _split(look: Look, fields: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Values, sources and reasons of these fields; a field that nobody read is unknown too."""
    missing: Reading[Any] = unknown("nothing on this system tells")
    readings = {name: look.get(name, missing) for name in fields}
    values = {name: reading.value for name, reading in readings.items()}
    sources = {name: reading.source for name, reading in readings.items() if reading.value is not None}
    return values, sources, {name: reading.reason for name, reading in readings.items() if reading.value is None}


def _cap(look: Look) -> None:
    """Where the total memory is said to be less than there is, no more than that can be free."""
    total, free = look.get("ram_total_mb"), look["ram_available_mb"]
    if total and total.value is not None and free.value is not None and free.value > total.value:
        look["ram_available_mb"] = total
