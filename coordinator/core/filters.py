"""The filters of SPEC 2.4 as one table of named tests. Placing uses it, and so does the explanation of why a node is not used.

A filter answers with what stands against the node in words, or with "" when nothing does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct

from coordinator.core import tune
from coordinator.core.nodeview import CRITICAL, NodeView, metered
from schemas.device import HOT, ThermalState
from schemas.harvest import IN_WORDS, HarvestState
from schemas.membership import NodeState

if TYPE_CHECKING:
    from coordinator.core.classes import NeedsClass

Test = Callable[["NeedsClass", NodeView], str]

STATE_WORDS = {
    NodeState.LATE: "its heartbeat is overdue",
    NodeState.LOST: "it is lost",
    NodeState.ASLEEP: "it sleeps",
    NodeState.DRAINING: "it is draining",
    NodeState.LEAVING: "it is leaving",
}


class Filter(Struct, frozen=True):
    """One test. `lasting`: about what the node is and offers, not about how it is just now."""

    name: str
    test: Test
    lasting: bool


def _pinned(c: NeedsClass, n: NodeView) -> str:
    return f"the task wants node {c.node}" if c.node and c.node != n.id else ""


def _avoid(c: NeedsClass, n: NodeView) -> str:
    return "this task failed here, or was refused or given back" if n.id in c.avoid else ""


def _kind(c: NeedsClass, n: NodeView) -> str:
    return "" if c.kind in n.kinds else f"its owner does not allow {c.kind} tasks"


def _function(c: NeedsClass, n: NodeView) -> str:
    return "" if c.kind == "command" or c.function in n.functions else f"it does not offer {c.function}"


def _cores(c: NeedsClass, n: NodeView) -> str:
    return f"it offers {n.cores:g} cores, {c.cores:g} are needed" if n.cores < c.cores else ""


def _memory(c: NeedsClass, n: NodeView) -> str:
    return f"it offers {n.memory_mb} MiB of memory, {c.memory_mb} are needed" if n.memory_mb < c.memory_mb else ""


def _gpu(c: NeedsClass, n: NodeView) -> str:
    if not c.gpu or n.record.capabilities.has_gpu:
        return ""
    return "it has no GPU" if n.record.capabilities.has_gpu is False else "whether it has a GPU is unknown"


def _arch(c: NeedsClass, n: NodeView) -> str:
    arch = n.record.capabilities.arch
    return f"its architecture is {arch or 'unknown'}, not {c.arch}" if c.arch and arch != c.arch else ""


def _frameworks(c: NeedsClass, n: NodeView) -> str:
    if not c.frameworks:
        return ""
    capabilities = n.record.capabilities
    missing = set(c.frameworks) - set(capabilities.supports_ml_frameworks) - set(capabilities.runtimes)
    return f"it lacks {', '.join(sorted(missing))}" if missing else ""


def _labels(c: NeedsClass, n: NodeView) -> str:
    has = n.record.offer.labels
    missing = [f"{k}={v}" for k, v in c.labels if has.get(k) != v]
    return f"it is not labelled {', '.join(missing)}" if missing else ""


def _cluster(c: NeedsClass, n: NodeView) -> str:
    return f"it is not in cluster {c.cluster}" if c.cluster and c.cluster not in n.clusters else ""


def _state(_: NeedsClass, n: NodeView) -> str:
    if n.state is NodeState.DRAINING and n.closed_for:
        return n.closed_for
    if n.state is NodeState.DRAINING and not n.drained and n.harvest_state in IN_WORDS:
        return f"harvesting: {IN_WORDS[HarvestState(n.harvest_state)]}"
    return STATE_WORDS.get(n.state, "")


def _battery(c: NeedsClass, n: NodeView) -> str:
    d = n.device
    if d.mains is True or d.is_charging is True:
        return ""
    percent = d.battery_percent
    if percent is None or percent is UNSET:
        return "its battery level is unknown" if n.record.capabilities.battery_powered else ""
    if percent < n.battery_min:
        return f"battery {percent:.0f} % and not charging; {n.battery_min:.0f} % are needed"
    if c.long and percent < tune.BATTERY_LONG_MIN:
        return f"battery {percent:.0f} % and not charging; a task over 5 minutes needs {tune.BATTERY_LONG_MIN:.0f} %"
    return ""


def _thermal(_: NeedsClass, n: NodeView) -> str:
    heat = n.device.thermal_state
    return f"it is {heat.value}" if isinstance(heat, ThermalState) and heat in HOT else ""


def _network(c: NeedsClass, n: NodeView) -> str:
    return "its network is metered, and the input is over 10 MB" if c.large and metered(n.device) else ""


def _power_mode(_: NeedsClass, n: NodeView) -> str:
    return "its power mode is critical: it takes nothing new" if n.power_mode == CRITICAL else ""


def _limits(c: NeedsClass, n: NodeView) -> str:
    if c.memory_mb <= n.memory_now:
        return ""
    return f"its limits allow {n.memory_now} MiB of memory now, {c.memory_mb} are needed"


def _storage(c: NeedsClass, n: NodeView) -> str:
    if not c.storage_mb:
        return ""
    free = n.device.storage_free_mb
    if free is None or free is UNSET:
        return "its free storage is unknown"
    return f"{free} MiB of storage are free, {c.storage_mb} are needed" if free < c.storage_mb else ""


FILTERS: tuple[Filter, ...] = (
    Filter("node", _pinned, True),
    Filter("avoid", _avoid, True),
    Filter("kind", _kind, True),
    Filter("function", _function, True),
    Filter("cores", _cores, True),
    Filter("memory", _memory, True),
    Filter("gpu", _gpu, True),
    Filter("arch", _arch, True),
    Filter("frameworks", _frameworks, True),
    Filter("labels", _labels, True),
    Filter("cluster", _cluster, True),
    Filter("state", _state, False),
    Filter("power mode", _power_mode, False),
    Filter("limits", _limits, False),
    Filter("battery", _battery, False),
    Filter("thermal", _thermal, False),
    Filter("network", _network, False),
    Filter("storage", _storage, False),
)
LASTING = tuple(f for f in FILTERS if f.lasting)
PASSING = tuple(f for f in FILTERS if not f.lasting)


def could_fit(c: NeedsClass, n: NodeView) -> bool:
    """Whether the node is a place for such tasks at all, however it is just now."""
    return n.state is not NodeState.LOST and not any(f.test(c, n) for f in LASTING)


def fits_now(c: NeedsClass, n: NodeView) -> bool:
    """Whether nothing but the room stands against it now; call only when `could_fit`."""
    return n.state is NodeState.ONLINE and not any(f.test(c, n) for f in PASSING)


def against(c: NeedsClass, n: NodeView) -> list[tuple[str, str]]:
    """Every filter that the node fails, with the reason in words."""
    return [(f.name, text) for f in FILTERS if (text := f.test(c, n))]
