"""What the demo shows: live progress by node (a picture on a terminal, lines elsewhere), and the table at the end."""

from __future__ import annotations

import sys
import time
from typing import Any

from client import show
from client.demo.account import Account
from client.demo.stack import IDLE

LINE_S = 1.0  # between two lines where there is no terminal
BAR = 24


class Screen:
    """Shows an account while the job runs."""

    def __init__(self, account: Account, reason: str) -> None:
        self._account, self._reason = account, reason
        self._live: Any = None
        self._told = 0.0

    def __enter__(self) -> Screen:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.start()
        self.update()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.update(last=True)
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)

    def update(self, *, last: bool = False) -> None:
        """Show how far it is; without a terminal at most once in `LINE_S`."""
        now = time.monotonic()
        if self._live is not None:
            if last or now - self._told >= 0.1:
                self._live.update(self._picture(), refresh=True)
                self._told = now
        elif last or now - self._told >= LINE_S:
            parts = [f"{name} {share.items}" for name, share in self._account.nodes.items()]
            total = len(self._account.sizes)
            print(
                f"  {self._account.took_s:5.1f} s  {self._account.done:>5}/{total} items   {'   '.join(parts)}",
                flush=True,
            )
            self._told = now

    def _picture(self) -> Any:
        from rich.text import Text

        total = max(1, len(self._account.sizes))
        lines = [f"{self._account.done}/{total} items, {self._account.took_s:.1f} s"]
        for name, share in self._account.nodes.items():
            note = "  killed" if name == self._account.killed else f"  no work: {self._reason}" if name == IDLE else ""
            lines.append(f"  {name:<16}{'█' * round(BAR * share.items / total):<{BAR}}{share.items:>6} items{note}")
        return Text("\n".join(lines))


def print_end(account: Account, reason: str) -> None:
    """Items, bytes, share, speed and attempts of each node, and what was moved."""
    total = max(1, len(account.sizes))
    rows = []
    for name, share in account.nodes.items():
        note = "killed in the middle" if name == account.killed else reason if name == IDLE and not share.items else ""
        speed = f"{show.size(share.speed)}/s" if share.speed else ""
        rows.append((
            name, share.items, show.size(share.size), f"{share.items / total:.0%}", speed,
            share.chunks, share.attempts, share.lost, note,
        ))  # fmt: skip
    size = sum(account.sizes)
    rows.append((
        "all", account.done, show.size(size), f"{account.done / total:.0%}", f"{show.size(size / account.took_s)}/s",
        *(sum(getattr(share, name) for share in account.nodes.values()) for name in ("chunks", "attempts", "lost")), "",
    ))  # fmt: skip
    print()
    columns = ("NODE", "ITEMS", "BYTES", "SHARE", "SPEED", "CHUNKS", "ATTEMPTS", "LOST", "NOTE")
    show.print_table(columns, rows, empty="")
    for task, (source, target) in account.moved.items():
        first, count = task.split("-")[-3:-1]
        print(f"moved: items {first} to {int(first) + int(count) - 1}, from {source} to {target or 'nobody yet'}")
