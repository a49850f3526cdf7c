"""What a node's owner lets the fleet use."""

from __future__ import annotations

from node.config import Settings
from schemas.device import DeviceCapabilities, FunctionOffer
from schemas.limits import NODE_QUEUE_MAX
from schemas.membership import Offer


def offer_of(settings: Settings, capabilities: DeviceCapabilities, functions: tuple[FunctionOffer, ...]) -> Offer:
    """What was said, else all cores, half of the memory, and a slot a core."""
    cores = settings.cores or float(capabilities.cpu_cores)
    memory_mb = settings.memory_mb if settings.memory_mb is not None else (capabilities.ram_total_mb or 0) // 2
    slots = settings.slots or min(NODE_QUEUE_MAX, max(1, int(cores)))
    kinds = ("function", "map", *settings.allow)
    return Offer(cores, memory_mb, slots, settings.labels, functions, kinds, settings.cache_mb)
