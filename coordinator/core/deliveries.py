"""Which nodes still have to be told something that is kept for them: after each change, and after each of their starts."""

from __future__ import annotations

from msgspec import Struct

AGAIN_S = (1.0, 60.0)  # before a node that did not answer is told again; the wait doubles from the first to the last


class Delivery(Struct):
    """One node. `version` counts changes, `told` is the version and the boot that the node has confirmed."""

    version: int = 1
    told: tuple[int, int] = (0, 0)
    boot: int = 0  # 0: not heard of
    away: bool = True
    not_before: float = 0.0
    wait_s: float = AGAIN_S[0]


class Deliveries:
    """All nodes for which something is kept; of others it remembers nothing."""

    def __init__(self) -> None:
        self._of: dict[str, Delivery] = {}

    def want(self, node: str) -> None:
        """What is kept for the node has changed. Of a new one, `seen` has to tell next whether it is there."""
        found = self._of.get(node)
        if found is None:
            self._of[node] = Delivery()
        else:
            found.version += 1
            found.not_before, found.wait_s = 0.0, AGAIN_S[0]

    def seen(self, node: str, boot: int, *, away: bool) -> None:
        """The node is at that boot, and there, or `away`."""
        found = self._of.get(node)
        if found is None:
            return
        if boot != found.boot or (found.away and not away):
            found.not_before, found.wait_s = 0.0, AGAIN_S[0]
        found.boot, found.away = boot, away

    def due(self, now: float, most: int) -> list[str]:
        """Up to `most` nodes that are to be told now."""
        if most <= 0:
            return []
        found = (n for n, d in self._of.items() if not d.away and now >= d.not_before and not _is_told(d))
        return [node for node, _ in zip(found, range(most), strict=False)]

    def begin(self, node: str, now: float) -> int:
        """The node is being told; it is due again later, unless `done` comes first. Returns what `done` is to be given."""
        found = self._of[node]
        found.not_before = now + found.wait_s
        found.wait_s = min(AGAIN_S[1], 2 * found.wait_s)
        return found.version

    def done(self, node: str, version: int, boot: int) -> None:
        """The node, at that boot, has confirmed what it was told."""
        found = self._of[node]
        found.told = max(found.told, (version, boot))
        found.wait_s = AGAIN_S[0]

    def delivered(self, node: str) -> bool:
        """Whether the node has confirmed the latest; true also when nothing is kept for it."""
        found = self._of.get(node)
        return found is None or _is_told(found)


def _is_told(d: Delivery) -> bool:
    return d.told == (d.version, d.boot)
