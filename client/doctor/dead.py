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
    """Checks ``dead.*``. That tasks were given up is never a problem of the fleet: somebody should look why."""
    stream = (facts.streams or {}).get(streams.DEAD)
    if stream is None or facts.status is None:  # only the coordinator knows what else lies there
        return
    count = facts.status.dead_letters
    if not count:
        yield ok("dead.letters", "no task was given up")
        return
    seen = f"{count} {'task was' if count == 1 else 'tasks were'} given up; {_room(stream)}"
    more = ", and the oldest go as new ones come" if max(_used(stream)) >= NEARLY else ""
    yield warning("dead.letters", seen + more, LOOK, streams.DEAD)


def _used(stream: Stream) -> tuple[float, float]:
    """Its share of the messages and of the bytes that it may hold."""
    most, most_bytes = (int(stream.config.get(name) or -1) for name in ("max_msgs", "max_bytes"))
    return stream.messages / most if most > 0 else 0.0, stream.size / most_bytes if most_bytes > 0 else 0.0


def _room(stream: Stream) -> str:
    return f"their letters take {size(stream.size)}, {max(_used(stream)):.0%} of the room in {streams.DEAD}"
