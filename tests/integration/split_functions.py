"""Functions of which some items take long, or end the process that runs them."""

from __future__ import annotations

import os
import time

import node

ITEM_S = float(os.environ.get("SPLIT_ITEM_S", "0"))


@node.function
def crawl(number: int) -> int:
    """Twice the number, after what an item takes on this node."""
    time.sleep(ITEM_S)
    return 2 * number


@node.function
def mine(number: int) -> int:
    """Twice the number; the process does not survive 37."""
    if number == 37:
        os._exit(3)
    return 2 * number


@node.function
def mine_bytes(content: bytes) -> int:
    """The length of it; the process does not survive ``boom``."""
    if content == b"boom":
        os._exit(4)
    return len(content)
