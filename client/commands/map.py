"""`fog map`: a function over files, or over the lines of standard input."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from client import show
from client.arguments import from_text
from client.commands import common
from client.mapping import MapItem
from schemas.device import Parameter
from schemas.errors import BadInput

READ = 1 << 16
BLOCKS_AHEAD = 4


def parser(name: str) -> argparse.ArgumentParser:
    """``fog map FUNCTION ITEM…`` or ``fog map FUNCTION -``."""
    made = common.parser(name, "Run a function over many items; the results come in the order of the items.")
    made.add_argument(
        "words",
        nargs="*",
        metavar="FUNCTION ITEM",
        help="the function, then files (or JSON values); - reads one item a line (with --job all of them first)",
    )
    made.add_argument("--job", metavar="ID", help="a name of your choice: the same command again goes on where it was")
    common.task_arguments(made)
    return made


async def run(name: str, args: argparse.Namespace) -> int:
    """Map, with a line for each item."""
    words = [*args.words, *args.after]
    if len(words) < 2:
        raise BadInput(
            "items", "nothing is given to map over", hint="fog map FUNCTION FILE… , or - for one item a line"
        )
    function, texts = words[0], words[1:]
    async with common.connected(args) as fleet:
        offer = await fleet.offer(function, needed=not args.wait_for_node)
        kind = offer.parameters[0] if offer is not None and offer.parameters else None
        source = Lines(kind) if texts == ["-"] else Words(texts, kind)
        if args.job and isinstance(source, Lines):
            # That they are those which the job was begun with is looked at first.
            source = Words(await source.rest(), kind)
        report = Report(None if isinstance(source, Lines) else len(source), as_json=args.json)
        items = fleet.map(function, source, job=args.job, **common.task_options(args))
        with report:
            async with aclosing(items):  # type: ignore[type-var]
                async for item in items:
                    report.add(source.text(item.index), item)
    return common.TASK_FAILED if report.failed else 0


class Words:
    """Items given on the command line."""

    def __init__(self, texts: list[str], kind: Parameter | None) -> None:
        self._texts, self._kind = texts, kind

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[Any]:
        return (from_text(text, self._kind) for text in self._texts)

    def text(self, index: int) -> str:
        """Item number `index` as it was given."""
        return self._texts[index]


class Lines:
    """Items from standard input, one a line, read no further ahead than needed. A daemon thread reads: a read that
    blocks could not be interrupted otherwise."""

    def __init__(self, kind: Parameter | None) -> None:
        self._kind = kind
        self._texts: deque[str] = deque()
        self._first = 0

    async def __aiter__(self) -> AsyncIterator[Any]:
        blocks: asyncio.Queue[bytes] = asyncio.Queue(BLOCKS_AHEAD)
        loop = asyncio.get_running_loop()

        def read() -> None:
            with contextlib.suppress(RuntimeError, OSError):  # the loop has ended; there is no standard input
                while True:
                    block = os.read(0, READ)
                    asyncio.run_coroutine_threadsafe(blocks.put(block), loop).result()
                    if not block:
                        return

        threading.Thread(target=read, name="stdin", daemon=True).start()
        rest = b""
        while block := await blocks.get():
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield self._item(line)
        if rest:
            yield self._item(rest)

    async def rest(self) -> list[str]:
        """All lines, as they are."""
        async for _ in self:
            pass
        return list(self._texts)

    def _item(self, line: bytes) -> Any:
        text = line.rstrip(b"\r").decode("utf-8", "surrogateescape")
        self._texts.append(text)
        return from_text(text, self._kind)

    def text(self, index: int) -> str:
        """Item number `index` as it was read. Ask in order, once: what lies before is forgotten."""
        while self._first < index:
            self._texts.popleft()
            self._first += 1
        self._first += 1
        return self._texts.popleft()


class Report:
    """A line an item on stdout (errors on stderr), progress on a terminal, and a sum at the end."""

    def __init__(self, total: int | None, *, as_json: bool) -> None:
        self._total, self._as_json = total, as_json
        self._began = time.monotonic()
        self._bar: Any = None
        self.done = self.failed = 0

    def __enter__(self) -> Report:
        if sys.stderr.isatty() and not sys.stdout.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.add_task("map", total=self._total)
            self._bar.start()
        return self

    def add(self, text: str, item: MapItem) -> None:
        """One more item is back."""
        self.done += 1
        self.failed += item.error is not None
        if self._as_json:
            show.print_json_line(_document(text, item))
        elif item.error is not None:
            print(f"{text}\t{item.error}", file=sys.stderr)
        else:
            sys.stdout.write(f"{text}\t{show.one_line(item.value)}\n")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done)

    def __exit__(self, kind: object, *_exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is not None:
            return
        sys.stdout.flush()
        if not self._as_json:
            took = time.monotonic() - self._began
            failed = f", {self.failed} failed" if self.failed else ""
            items = "1 item" if self.done == 1 else f"{self.done} items"
            print(f"fog: {items}{failed}, {show.span(took)}", file=sys.stderr)


def _document(text: str, item: MapItem) -> dict[str, Any]:
    found: dict[str, Any] = {"index": item.index, "item": text.encode("utf-8", "replace").decode()}
    if isinstance(item.value, bytes):
        found["value_base64"] = item.value
    else:
        found["value"] = item.value
    return {**found, "error": item.error, "node": item.node}
