"""The functions that every node offers."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from node import function


@function
def echo(value: Any = None) -> Any:
    """Give back what was given."""
    return value


@function
def sleep(seconds: float) -> float:
    """Wait, then give back how long."""
    time.sleep(max(0.0, seconds))
    return seconds


@function
def sha256(content: bytes) -> str:
    """The SHA-256 of the content, in hex."""
    return hashlib.sha256(content).hexdigest()


@function
def wordcount(content: bytes) -> int:
    """How many words, parted by white space, the content has."""
    return len(content.split())
