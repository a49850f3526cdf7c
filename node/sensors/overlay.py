"""What is said about the device instead of read from it: by configuration or flag, checked by field name and type."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import get_args, get_type_hints

import msgspec

from node.core.heat import thermal_state
from node.sensors.reading import Look, known, unknown
from schemas.device import DeviceCapabilities, DeviceState, SensorKind, ThermalState
from schemas.errors import BadInput

CONFIG = "config"
_META = {"pretending", "sources", "unknown"}
CAPABILITIES = tuple(name for name in DeviceCapabilities.__struct_fields__ if name not in _META)
STATE = tuple(name for name in DeviceState.__struct_fields__ if name not in _META)
_LISTS = {"supports_ml_frameworks", "runtimes"}


def configured(overrides: Mapping[str, object]) -> Look:
    """The overrides as readings with the source "config", and what they imply. Text is taken for numbers and lists too.

    BadInput names a field that there is not, or whose value does not fit it.
    """
    look: Look = {name: known(check(name, value), CONFIG) for name, value in overrides.items()}
    return implied(look, CONFIG)


def check(name: str, value: object) -> object:
    """`value` as the field's own type, or BadInput that names the field."""
    kind: type[DeviceCapabilities | DeviceState]
    if name in CAPABILITIES:
        kind = DeviceCapabilities
    elif name in STATE:
        kind = DeviceState
    else:
        raise BadInput(name, "is no property of a device", hint=f"there are: {', '.join((*CAPABILITIES, *STATE))}")
    if name in _LISTS and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        found = getattr(msgspec.convert({name: value}, kind, strict=False), name)
    except msgspec.ValidationError as problem:
        words = _words(kind, name)
        wrong = f"is none of {', '.join(words)}" if words else str(problem).partition(" - at")[0]
        raise BadInput(name, f"{value!r:.60}{' ' if words else ': '}{wrong}") from None
    if found is None:
        raise BadInput(name, "needs a value", hint="leave it out to have it discovered")
    return found


def _words(kind: type[DeviceCapabilities | DeviceState], name: str) -> list[str]:
    """Those that the field takes, where it takes words."""
    types = get_args(get_type_hints(kind)[name])
    return [word.value for one in types if isinstance(one, type) and issubclass(one, Enum) for word in one]


def implied(look: Look, source: str) -> Look:
    """`look` with what must follow from it: a battery's charge means a battery, a temperature means a thermal state."""
    whole = dict(look)
    if "battery_percent" in look or "is_charging" in look:
        whole.setdefault("battery_powered", known(True, source))
    if "mains" in look:
        whole.setdefault("battery_powered", known(not look["mains"].value, source))
    if "battery_powered" in whole:
        without = not whole["battery_powered"].value
        whole.setdefault("mains", known(without, source))
        if without:
            whole.setdefault("battery_percent", unknown(f"the device has no battery ({source})"))
            whole.setdefault("is_charging", unknown(f"the device has no battery ({source})"))
    if "temperature_c" in look:
        kind = whole.setdefault("temperature_sensor", known(SensorKind.SKIN, source)).value or SensorKind.SKIN
        trip = whole.setdefault("temperature_critical_c", unknown(f"not said ({source})")).value
        state: ThermalState = thermal_state(float(look["temperature_c"].value or 0), kind, trip)
        whole.setdefault("thermal_state", known(state, source))
    return whole
