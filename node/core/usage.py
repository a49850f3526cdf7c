"""What process trees used between two looks, although processes come and go in between. Pure."""

from __future__ import annotations

from msgspec import Struct

Process = tuple[int, str]  # pid, start mark


class Sample(Struct, frozen=True):
    """One process at a look: processor seconds of its own and of the children that it has waited for; resident bytes."""

    own_s: float
    waited_s: float
    rss: int = 0


Look = dict[Process, Sample]  # a runner's whole tree


def used_s(before: Look, after: Look) -> float:
    """Processor seconds that a tree used between two looks.

    A process that is gone has handed its time to the parent that waited for it, in its tree as well (runners adopt what
    loses its parent): the sum over the tree goes on without it, less what was counted while it lived. Where nobody waited
    for it, the time of the others is still what was used at least.
    """
    own_s = waited_s = 0.0
    for process, sample in after.items():
        old = before.get(process)
        own_s += sample.own_s - (old.own_s if old else 0.0)
        waited_s += sample.waited_s - (old.waited_s if old else 0.0)
    gone_s = sum(old.own_s + old.waited_s for process, old in before.items() if process not in after)
    return max(own_s, own_s + waited_s - gone_s)


def all_used_s(before: dict[int, Look], after: dict[int, Look]) -> float:
    """The same over several trees, by the pid at their roots. One that is new was not looked at before: it counts from now."""
    return sum(used_s(before[root], look) for root, look in after.items() if root in before)
