"""How a node holds its running work to limits: which mechanism is in force, at what, and what was measured."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from schemas.device import Count


class Enforced(Struct, frozen=True, omit_defaults=True):
    """The mechanisms by name (empty: there is no limit), their limits, and what running work uses (None: nothing runs).

    Percent are of all the device's cores together; MiB; `bandwidth_mbps` in millions of bits a second.
    """

    cpu: Annotated[str, Meta(max_length=100)] = ""
    cpu_percent: Annotated[float, Meta(ge=0, le=100)] = 100.0
    cpu_measured: Annotated[float, Meta(ge=0, le=100)] | None = None
    processes: Count = 0
    memory: Annotated[str, Meta(max_length=100)] = ""
    memory_mb: Count | None = None
    memory_measured_mb: Count | None = None
    bandwidth_mbps: Annotated[float, Meta(gt=0)] | None = None
    suspended: bool = False


def in_words(enforced: Enforced) -> list[tuple[str, str]]:
    """What it says, as (what is limited, how)."""
    cpu = ["no limit"]
    if enforced.cpu:
        over = f" over {enforced.processes} processes" if enforced.processes else ""
        cpu = [enforced.cpu + over, f"limit {enforced.cpu_percent:g} %"]
        cpu += [f"measured {enforced.cpu_measured:g} %"] if enforced.cpu_measured is not None else []
    memory = ["no limit"]
    if enforced.memory:
        memory = [enforced.memory, f"limit {enforced.memory_mb} MB"]
        memory += [f"measured {enforced.memory_measured_mb} MB"] if enforced.memory_measured_mb is not None else []
    mbps = enforced.bandwidth_mbps
    bandwidth = "no limit" if mbps is None else f"token bucket over what the daemon transfers, limit {mbps:g} Mbps"
    rows = [("cpu", ", ".join(cpu)), ("memory", ", ".join(memory)), ("bandwidth", bandwidth)]
    return [("work", "suspended"), *rows] if enforced.suspended else rows
