"""The evening of a phone, as a story: what its battery, its charger, its heat and its screen do, minute by minute.

The phone is a real node; what plays it are files of the same form as those that a Linux phone's drivers write.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

BATTERY, SCREEN = "sys/class/power_supply/battery", "sys/class/drm/card0-DSI-1"
BEGINS_H = 19  # o'clock


class Moment(NamedTuple):
    """The phone at one minute after `BEGINS_H`. Battery in percent, heat in °C."""

    minute: float
    battery: float
    celsius: float
    charging: bool
    screen: bool
    told: str = ""


# Between two rows battery and heat go straight; the charger and the screen stay as they are.
STORY = (
    Moment(0, 46, 33, False, True, "in its user's hand, on battery"),
    Moment(45, 33, 39, False, True, "a film drains it"),
    Moment(80, 22, 36, False, False, "put aside"),
    Moment(100, 18, 31, True, False, "plugged in: more than 20 % are wanted"),
    Moment(165, 52, 40, True, False, "it charges, and warms up"),
    Moment(180, 58, 57, True, False, "under a pillow: over 55 °C"),
    Moment(200, 62, 43, True, False, "aired again"),
    Moment(235, 74, 38, True, True, "its user looks at something"),
    Moment(243, 76, 37, True, False, "and puts it aside again"),
    Moment(290, 90, 36, False, True, "unplugged, and taken along"),
    Moment(330, 80, 34, False, False, "put aside, on battery"),
    Moment(345, 76, 32, True, False, "plugged in for the night"),
    Moment(420, 97, 34, True, False),
)
MINUTES = STORY[-1].minute
_STARTS = [moment.minute for moment in STORY]


def at(minute: float) -> Moment:
    """The phone at that minute."""
    number = min(max(0, bisect_right(_STARTS, minute) - 1), len(STORY) - 2)
    one, other = STORY[number], STORY[number + 1]
    share = min(1.0, max(0.0, (minute - one.minute) / (other.minute - one.minute)))
    battery = one.battery + share * (other.battery - one.battery)
    celsius = one.celsius + share * (other.celsius - one.celsius)
    return Moment(minute, round(battery, 1), round(celsius, 1), one.charging, one.screen, one.told)


def clock(minute: float) -> str:
    """``21:40``."""
    hours, minutes = divmod(int(minute), 60)
    return f"{(BEGINS_H + hours) % 24:02d}:{minutes:02d}"


def files(moment: Moment) -> dict[str, str]:
    """What the phone's drivers would write."""
    return {
        f"{BATTERY}/type": "Battery",
        f"{BATTERY}/status": "Charging" if moment.charging else "Discharging",
        f"{BATTERY}/capacity": f"{moment.battery:.0f}",
        f"{BATTERY}/temp": f"{10 * moment.celsius:.0f}",  # tenths of a degree
        f"{SCREEN}/status": "connected",
        f"{SCREEN}/enabled": "enabled",
        f"{SCREEN}/dpms": "On" if moment.screen else "Off",
        "proc/meminfo": "MemTotal: 4194304 kB\nMemAvailable: 2621440 kB",
    }


def write(root: Path, moment: Moment) -> None:
    """Write them, each in one step: the phone never sees half a file."""
    for name, text in files(moment).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}")
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(path)
