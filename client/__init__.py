"""The Python client of a fleet.

>>> async with client.connect() as fleet:
...     digest = await fleet.submit("sha256", Path("photo.raw"))
...     async for item in fleet.map("wordcount", paths):
...         print(item.index, item.value or item.error)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.connecting import connect
    from client.fleet import Fleet
    from client.handle import Handle
    from client.mapping import MapItem
    from client.submit import TaskOptions
    from schemas.errors import BadInput, BrokerUnfit, FogError, Refused, StoreRefused, TaskFailed, Unreachable

__all__ = [
    "BadInput",
    "BrokerUnfit",
    "Fleet",
    "FogError",
    "Handle",
    "MapItem",
    "Refused",
    "StoreRefused",
    "TaskFailed",
    "TaskOptions",
    "Unreachable",
    "connect",
]

_HOMES = {
    "connect": "client.connecting",
    "Fleet": "client.fleet",
    "Handle": "client.handle",
    "MapItem": "client.mapping",
    "TaskOptions": "client.submit",
}


def __getattr__(name: str) -> Any:
    """Names are loaded when first used: the `fog` command imports this package and must start quickly."""
    if name not in __all__:
        raise AttributeError(f"module 'client' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "schemas.errors")), name)
