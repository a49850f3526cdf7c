"""What ``fog node --show`` prints: every value of the device with its source, or why it is unknown."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from enum import Enum
from typing import Any

from msgspec import Struct, to_builtins

from node.core.ceilings import Ceilings
from node.core.eligible import Terms
from node.core.harvest import outlook
from node.device import Device
from node.enforce.enforcer import means
from node.sensors.overlay import CAPABILITIES, STATE
from schemas import limits
from schemas.device import DeviceCapabilities, DeviceState
from schemas.enforced import in_words
from schemas.harvest import HarvestReport

_SETTLE_S = 3.0  # how long a program or resolver that was just asked may take before we print without it
_BETWEEN_S = 0.15  # a processor's load needs two readings some ticks apart


class Kept(Struct, frozen=True):
    """What a node's outbox holds: so many results and outcomes of so many bytes, the oldest `since` (seconds since 1970)."""

    letters: int
    since: float | None
    bytes: int = 0


def show(device: Device, ceilings: Ceilings, kept: Kept, terms: Terms) -> str:
    """A table of name, value and source, and what the outbox holds. Takes up to some seconds: slow signals are waited for."""
    what, how = look(device)
    rows = [("WHAT IT IS", "", ""), *_rows(what, CAPABILITIES), ("", "", ""), ("HOW IT IS", "", ""), *_rows(how, STATE)]
    rows += [
        ("", "", ""),
        ("HOW WORK IS LIMITED", "", ""),
        *((name, text, "") for name, text in in_words(means(ceilings))),
        ("", "", ""),
        ("WHETHER IT WOULD HARVEST", "", ""),
        *_harvest(outlook(terms, how, time.time())),
    ]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:<{wide[0]}}  {value:<{wide[1]}}  {source}".rstrip() for name, value, source in rows]
    if kept.letters:
        old_s = time.time() - (kept.since or time.time())
        most = f"at most {limits.OUTBOX_LETTERS} and {limits.OUTBOX_BYTES >> 20} MiB are kept"
        lines += [
            "",
            f"OUTBOX: {kept.letters} results that the broker has not taken, {kept.bytes / (1 << 20):.1f} MiB,"
            f" the oldest {max(0.0, old_s):.0f} s old; {most}",
        ]
    if device.pretending:
        lines.insert(0, f"PRETENDING, by the environment: {' '.join(device.pretending)}\n")
    return "\n".join(lines)


def as_json(device: Device, ceilings: Ceilings, kept: Kept, terms: Terms) -> str:
    """The same as one JSON document: ``{pretending: […], capabilities: {name: {value, source | unknown}}, state: {…}, limits:
    {…}, outbox: {letters, since, bytes, letters_max, bytes_max}, harvest: {state, reasons, …}}``."""
    what, how = look(device)
    document = {
        "pretending": device.pretending,
        "capabilities": {name: _entry(what, name) for name in CAPABILITIES},
        "state": {name: _entry(how, name) for name in STATE},
        "limits": to_builtins(means(ceilings)),
        "outbox": {
            "letters": kept.letters,
            "since": kept.since,
            "bytes": kept.bytes,
            "letters_max": limits.OUTBOX_LETTERS,
            "bytes_max": limits.OUTBOX_BYTES,
        },
        "harvest": to_builtins(outlook(terms, how, time.time())),
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def _harvest(report: HarvestReport) -> Iterator[tuple[str, str, str]]:
    """The state, when it could change, and everything that stands against it."""
    yield "state", report.state.value, f"window {report.window} in {report.zone}"
    if report.resume_at:
        yield "not before", time.strftime("%Y-%m-%d %H:%M", time.localtime(report.resume_at)), ""
    for reason in report.reasons:
        yield "against it", reason.state.value, reason.text


def look(device: Device) -> tuple[DeviceCapabilities, DeviceState]:
    """What the device is and how, with what can be learnt within some seconds."""
    device.state(time.time())
    what, until = device.capabilities(), time.monotonic() + _SETTLE_S
    while True:
        time.sleep(_BETWEEN_S)
        how = device.state(time.time())
        if not device.waiting or time.monotonic() > until:
            return what, how


def _rows(message: DeviceCapabilities | DeviceState, fields: tuple[str, ...]) -> list[tuple[str, str, str]]:
    rows = []
    for name in fields:
        entry = _entry(message, name)
        if "unknown" in entry:
            rows.append((name, "unknown", entry["unknown"]))
        else:
            rows.append((name, _text(entry["value"]), entry["source"]))
    return rows


def _entry(message: DeviceCapabilities | DeviceState, name: str) -> dict[str, Any]:
    assert isinstance(message.sources, dict) and isinstance(message.unknown, dict)  # Device sets both
    if name in message.unknown:
        return {"value": None, "unknown": message.unknown[name]}
    value = getattr(message, name)
    return {"value": value.value if isinstance(value, Enum) else value, "source": message.sources[name]}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return str(value) or "none"
