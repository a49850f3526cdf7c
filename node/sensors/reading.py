"""A reading: a value and where it came from, or no value and why not. Nothing is ever guessed."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

from schemas.limits import REASON_MAX

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Reading(NamedTuple, Generic[T_co]):
    """`value` with its `source`; or `value` None with the `reason`."""

    value: T_co | None
    source: str = ""
    reason: str = ""


Look = dict[str, Reading[Any]]  # what one reader saw, by the field names of schemas.device


def known(value: T, source: str) -> Reading[T]:
    """A value that was read from `source`."""
    return Reading(value, clean(source))


def unknown(reason: str) -> Reading[Any]:
    """No value, and the reason in words that the device's owner understands."""
    return Reading(None, "", clean(reason))


def clean(text: str, longest: int = REASON_MAX) -> str:
    """`text` without control characters or what cannot be encoded, cut to `longest`: sysfs may hold any bytes."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if c.isprintable() else " " for c in text.encode("utf-8", "replace").decode())
    return text[:longest]
