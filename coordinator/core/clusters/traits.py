"""What a node is grouped and elected by, read from what it last said of itself."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UNSET

from coordinator.core.nodeview import NodeView
from coordinator.core.score import score
from schemas.cluster import Traits
from schemas.device import DeviceCapabilities, DeviceState, NetworkQuality
from schemas.membership import NodeState

HERE = frozenset({NodeState.ONLINE, NodeState.ASLEEP, NodeState.DRAINING})
GONE = frozenset({NodeState.LOST, NodeState.LEFT})
TIER_GHZ, TIER_CORES, TIER_RAM_MB = 3.0, 8, 8192  # a device with all of these is of the highest tier


@dataclass(frozen=True, slots=True)
class Facts:
    """A node as clusters see it. `here`: it gets a seat; `gone`: it loses it; neither (a beat is overdue): it keeps it.

    `may_lead`: it is online and not on its way out. `has` is what selectors ask for, `boot` tells its restarts apart.
    """

    node: str
    traits: Traits
    score: float
    has: dict[str, str]
    here: bool = True
    gone: bool = False
    may_lead: bool = True
    boot: int = 0
    cache_mb: int = 0


def site_of(d: DeviceState, was: Traits | None) -> str:
    """The mark of its gateway; "" while unknown. Before it said anything of it, as it was."""
    if d.network_gateway is UNSET and was is not None:
        return was.site
    return d.network_gateway if isinstance(d.network_gateway, str) else ""


def facts_of(node: NodeView, pattern: str, place: str = "", was: Traits | None = None) -> Facts:
    """What the coordinator knows of the node now; `pattern` is when it tends to be there (patterns.py), `place` where it is at
    its site (nearness.py). `was`: what it is seated by, which holds for what a new coordinator has not heard from it yet."""
    c, d = node.record.capabilities, node.device
    quality = d.network_quality
    tier = tier_of(c)
    link = quality.value if isinstance(quality, NetworkQuality) else ""
    traits = Traits(
        site_of(d, was),
        place,
        c.device_type.value if c.device_type else "",
        tier,
        was.latency if quality is UNSET and was is not None else link,
        pattern,
    )
    return Facts(
        node.id, traits, round(score(node)[0], 3), _has(node, tier), node.state in HERE, node.state in GONE,
        node.state is NodeState.ONLINE, node.boot, node.record.offer.cache_mb,
    )  # fmt: skip


def tier_of(c: DeviceCapabilities) -> int:
    """1 (low) to 4 (top): the mean of min(1, cores/8) · min(1, GHz/3) and min(1, RAM/8 GiB), in quarters.

    As the hardware part of SPEC 1.5's score, but by all of the memory, which does not change from beat to beat. An unknown
    clock counts as half of 3 GHz, unknown memory as none.
    """
    clock = TIER_GHZ / 2 if c.cpu_freq_ghz is None else c.cpu_freq_ghz
    compute = min(1.0, c.cpu_cores / TIER_CORES) * min(1.0, clock / TIER_GHZ)
    memory = min(1.0, (c.ram_total_mb or 0) / TIER_RAM_MB)
    return 1 + min(3, int(2 * (compute + memory)))


def _has(node: NodeView, tier: int) -> dict[str, str]:
    c = node.record.capabilities
    own = {
        "gpu": "" if c.has_gpu is None else str(c.has_gpu).lower(),
        "type": c.device_type.value if c.device_type else "",
        "arch": c.arch,
        "os": c.os,
        "tier": str(tier),
    }
    return {**own, **node.record.offer.labels}
