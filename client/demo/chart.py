"""What the phone did in its evening, drawn: in the terminal, and as a PNG where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from client.demo.evening import Moment, clock
from schemas.harvest import HarvestState

BARS = " ▁▂▃▄▅▆▇█"
WIDE = 100
# A letter for the terminal, a colour for the picture.
STATES: dict[str, tuple[str, str]] = {
    HarvestState.IDLE: (".", "#c8c8c8"),
    HarvestState.HARVESTING: ("█", "#2f9e44"),
    HarvestState.CHARGING_LOW: ("b", "#f08c00"),
    HarvestState.THERMAL_THROTTLE: ("h", "#e03131"),
    HarvestState.USER_ACTIVE: ("u", "#1971c2"),
    HarvestState.NETWORK_METERED: ("m", "#9c36b5"),
    HarvestState.OUTSIDE_WINDOW: ("w", "#868e96"),
    HarvestState.COOLDOWN: ("r", "#66d9e8"),
    HarvestState.DISABLED: ("-", "#343a40"),
}


class Sample(NamedTuple):
    """One look, `at_s` seconds after the first: how the phone was played, what it said of itself, and how many tasks it had
    finished by then."""

    phone: Moment
    at_s: float
    state: str
    suspended: bool
    useful_s: float
    finished: int


def terminal(samples: Sequence[Sample], width: int = WIDE) -> str:
    """Some lines of text: battery, heat, charger, screen, state and work over the evening."""
    columns = _columns(samples, width)
    rows = [
        ("battery %", _bars(columns, lambda s: s.phone.battery, 0, 100)),
        ("heat °C", _bars(columns, lambda s: s.phone.celsius, 25, 65)),
        ("charging", "".join("▔" if s.phone.charging else " " for s in columns)),
        ("screen on", "".join("▔" if s.phone.screen else " " for s in columns)),
        ("state", "".join(STATES[s.state][0] for s in columns)),
        ("work done", _bars(columns, lambda s: float(s.finished), 0, max(1, samples[-1].finished))),
    ]
    seen = dict.fromkeys(s.state for s in columns)
    legend = "  ".join(f"{STATES[state][0]} {state}" for state in seen)
    lines = [f"{name:>10} {line}" for name, line in rows]
    return "\n".join([*lines, f"{'':>10} {_hours(columns)}", f"{'':>10} {legend}"])


def _columns(samples: Sequence[Sample], width: int) -> list[Sample]:
    """One sample a column, by the clock: a look that came late takes no room from others."""
    first, last = samples[0].phone.minute, samples[-1].phone.minute
    step, number, found = (last - first) / max(1, width - 1), 0, []
    for column in range(width):
        while number + 1 < len(samples) and samples[number + 1].phone.minute <= first + column * step:
            number += 1
        found.append(samples[number])
    return found


def _bars(columns: Sequence[Sample], value: Callable[[Sample], float], low: float, high: float) -> str:
    shares = (min(1.0, max(0.0, (value(sample) - low) / (high - low))) for sample in columns)
    return "".join(BARS[round(share * (len(BARS) - 1))] for share in shares)


def _hours(columns: Sequence[Sample]) -> str:
    """The hours under the columns in which they begin."""
    line = [" "] * len(columns)
    for number, (one, other) in enumerate(pairwise(columns), 1):
        label = clock(other.phone.minute)
        if int(one.phone.minute // 60) != int(other.phone.minute // 60) and number + len(label) <= len(line):
            line[number : number + len(label)] = f"{label[:3]}00"
    return "".join(line).rstrip()


def png(samples: Sequence[Sample], path: Path) -> None:
    """The same as a picture. Raises ImportError without matplotlib, OSError when it cannot be written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    minutes = [sample.phone.minute for sample in samples]
    figure, (levels, band, work) = pyplot.subplots(
        3, 1, figsize=(11, 6.5), sharex=True, height_ratios=(4, 1, 2), layout="constrained"
    )
    levels.plot(minutes, [sample.phone.battery for sample in samples], color="#1971c2", label="battery, %")
    levels.plot(minutes, [sample.phone.celsius for sample in samples], color="#e03131", label="heat, °C")
    levels.axhline(20, color="#1971c2", linestyle=":", linewidth=1)
    levels.axhline(55, color="#e03131", linestyle=":", linewidth=1)
    levels.set_ylim(0, 100)
    for played, colour, label in (
        ([s.phone.charging for s in samples], "#fff3bf", "charging"),
        ([s.phone.screen for s in samples], "#d0ebff", "screen on"),
    ):
        levels.fill_between(minutes, 0, 100, where=played, step="post", color=colour, alpha=0.6, label=label)
    levels.legend(loc="upper left", ncols=4, fontsize=8)
    levels.set_title("A phone's evening: it works for others only while nobody needs it")
    for one, other in pairwise(samples):
        band.axvspan(one.phone.minute, other.phone.minute, color=STATES[one.state][1], linewidth=0)
    seen = dict.fromkeys(sample.state for sample in samples)
    keys = [Patch(color=STATES[state][1], label=state) for state in seen]
    band.legend(handles=keys, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=len(keys), fontsize=8)
    band.set_yticks([])
    band.set_ylabel("state", rotation=0, ha="right", va="center")
    work.step(minutes, [sample.finished for sample in samples], where="post", color="#2f9e44")
    work.set_ylabel("tasks finished\non the phone")
    work.set_xticks(
        range(0, int(minutes[-1]) + 1, 60), [clock(minute) for minute in range(0, int(minutes[-1]) + 1, 60)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
