"""How many tasks were given up, and is there room for the letters of more?"""

from __future__ import annotations

from collections.abc import Iterator

from client.doctor.facts import Facts, Stream
from client.doctor.finding import Finding, ok, warning
from client.show import size
from schemas import streams

NEARLY = 0.8  # share of a limit
LOOK = "`fog dead` lists them; `fog dead ID --retry` submits one again, `--drop` removes its letter"


def judge(facts: Facts) -> Iterator[Finding]:
    """Checks ``dead.*``. That tasks were given up is their submitters' matter, not a fault of the fleet."""
    stream = (facts.streams or {}).get(streams.DEAD)
    if stream is None:
        return
    count = facts.status.dead_letters if facts.status is not None else stream.messages
    if not count:
        yield ok("dead.letters", "no task was given up")
        return
    full = max(_used(stream))
    seen = f"{count} {'task was' if count == 1 else 'tasks were'} given up; {_room(stream)}"
    if full < NEARLY:
        yield ok("dead.letters", f"{seen}: {LOOK}")
    else:
        yield warning("dead.letters", f"{seen}: the oldest letters go as new ones come", LOOK, streams.DEAD)


def _used(stream: Stream) -> tuple[float, float]:
    """Its share of the messages and of the bytes that it may hold."""
    most, most_bytes = (int(stream.config.get(name) or -1) for name in ("max_msgs", "max_bytes"))
    return stream.messages / most if most > 0 else 0.0, stream.size / most_bytes if most_bytes > 0 else 0.0


def _room(stream: Stream) -> str:
    return f"their letters take {size(stream.size)}, {max(_used(stream)):.0%} of the room in {streams.DEAD}"
