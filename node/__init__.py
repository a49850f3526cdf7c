"""For authors of functions: ``@node.function`` offers a typed one to the fleet, ``node.progress`` says how far it is.

Nothing else is imported here: this package is loaded by every runner and by the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

_F = TypeVar("_F", bound=Callable[..., Any])

_registry: dict[str, Callable[..., Any]] = {}
_hooks: dict[str, Callable[[float, str], None]] = {}


@overload
def function(fn: _F, /) -> _F: ...
@overload
def function(*, name: str) -> Callable[[_F], _F]: ...
def function(fn: _F | None = None, /, *, name: str = "") -> _F | Callable[[_F], _F]:
    """Offer a function to the fleet, under its own name or `name`.

    Arguments and result are JSON values, checked against the annotations; a parameter annotated ``bytes`` takes a file's
    content, and a result annotated ``bytes`` is given back as bytes. It runs in a process of its own, one call at a time.
    """

    def offer(fn: _F) -> _F:
        _registry[name or fn.__name__] = fn
        return fn

    return offer if fn is None else offer(fn)


def app_path(name: str) -> Path:
    """The folder of the version of an app (a model, say) that a rollout brought to this device and that is in use now.

    Raises LookupError where there is none. Look again for each call: a rollout may replace it between two.
    """
    root = Path(os.environ.get("FOG_APPS", "")) / name
    try:
        return root / (root / "current").read_text("utf-8")
    except OSError:
        raise LookupError(f"no rollout has brought {name} to this device") from None


def progress(fraction: float, text: str = "") -> None:
    """Say how far the running call is (0..1), with a word about it. Outside a runner this does nothing."""
    hook = _hooks.get("progress")
    if hook is not None:
        hook(min(1.0, max(0.0, float(fraction))), text)
