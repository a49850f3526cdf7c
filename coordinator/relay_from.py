"""The option ``--heartbeat-relay``, as `fog coordinator` and `fog up` read it."""

from __future__ import annotations

from argparse import ArgumentTypeError
from math import inf


def relay_from(text: str) -> float:
    """The size of the fleet from which on heartbeats are relayed, by ``off``, ``on`` or a number of nodes."""
    named = {"off": inf, "on": 0.0}
    if text in named:
        return named[text]
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r:.40} is none of off, on, and a number of nodes")
    return float(text)


def spelled(text: str) -> str:
    """The option as it was written, once it can be read."""
    relay_from(text)
    return text
