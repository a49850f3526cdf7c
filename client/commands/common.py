"""What the commands share: options, connecting, and turning errors into words and exit codes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from schemas.errors import BadInput, FogError, TaskFailed
from schemas.usage import OWN_FAILURE as OWN_FAILURE
from schemas.usage import Parser as Parser

if TYPE_CHECKING:
    from client.fleet import Fleet

TASK_FAILED = 1
TERMINATED = 143


def parser(name: str, summary: str, *, reads: bool = True) -> Parser:
    """The parser of ``fog <name>``, with the options that say which fleet; with `reads` also ``--json``."""
    made = Parser(f"fog {name}", description=summary, allow_abbrev=False)
    where = made.add_argument_group("which fleet")
    where.add_argument(
        "--home", type=Path, metavar="DIR", help="the instance of this folder (default: FOG_HOME, else user data)"
    )
    where.add_argument("--nats", metavar="URL", help="the broker at this address")
    where.add_argument("--creds", type=Path, metavar="FILE", help="a fog.creds or NATS .creds file")
    if reads:
        made.add_argument("--json", action="store_true", help="print JSON")
    return made


def call(module: ModuleType, name: str, words: Sequence[str]) -> int:
    """Parse and run one command; errors of ours become words on stderr and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="fog: %(message)s")
    # What follows -- is never an option; argparse alone would lose that when options and words are mixed.
    cut = list(words).index("--") if "--" in words else len(words)
    args = module.parser(name).parse_intermixed_args(list(words[:cut]))
    args.after = list(words[cut + 1 :])
    try:
        return asyncio.run(_ending_on_sigterm(module.run(name, args)))
    except TaskFailed as error:
        print(f"fog {name}: {error}", file=sys.stderr)
        return TASK_FAILED
    except FogError as error:
        print(f"fog {name}: {error}", file=sys.stderr)
        return OWN_FAILURE


async def _ending_on_sigterm(command: Coroutine[Any, Any, int]) -> int:
    """Run `command`; SIGTERM ends it as an interrupt does, so that what it waits for is cancelled."""
    running = asyncio.ensure_future(command)
    terminated = False

    def end() -> None:
        nonlocal terminated
        terminated = True
        running.cancel()

    with contextlib.suppress(NotImplementedError):  # Windows has no such handlers
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    try:
        return await running
    except asyncio.CancelledError:
        if terminated:
            return TERMINATED
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        raise


@asynccontextmanager
async def connected(args: argparse.Namespace) -> AsyncIterator[Fleet]:
    """The fleet that the options name."""
    from client.connecting import connect

    async with connect(args.nats, args.creds, args.home) as fleet:
        yield fleet


def one_word(args: argparse.Namespace, what: str) -> str:
    """The single word of a command that takes one."""
    words = [*args.words, *args.after]
    if len(words) != 1:
        raise BadInput(what, f"one is wanted, {len(words)} are given")
    return str(words[0])


def labels_of(pairs: Sequence[str]) -> dict[str, str]:
    """``["room=b2"]`` as a dict. Raises BadInput."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadInput("label", f"{pair!r} is not KEY=VALUE")
        found[key] = value
    return found


def task_arguments(made: argparse.ArgumentParser) -> None:
    """The options that every task takes."""
    made.add_argument("--priority", help="low, normal (default), high or critical")
    made.add_argument("--cores", type=float, metavar="N", help="cores it needs (default 1)")
    made.add_argument("--memory-mb", type=int, metavar="N", help="memory it needs (default 64)")
    made.add_argument("--gpu", action="store_true", default=None, help="it needs a GPU")
    made.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="only on nodes with this label")
    made.add_argument("--node", metavar="ID", help="only on this node")
    made.add_argument("--cluster", metavar="ID", help="only on nodes of this cluster")
    made.add_argument("--timeout-s", type=float, metavar="S", help="limit of one attempt (default 3600)")
    made.add_argument("--deadline-s", type=float, metavar="S", help="give up when it is not done by then")
    made.add_argument(
        "--retries", type=int, metavar="N", help="how often a failed attempt is tried again (default 2; commands 0)"
    )
    made.add_argument(
        "--exclusive",
        action="store_true",
        default=None,
        help="never run it at two places at a time, cut-off nodes included",
    )
    made.add_argument(
        "--wait-for-node", action="store_true", default=None, help="keep it even if no known node offers it"
    )


def task_options(args: argparse.Namespace) -> Any:
    """What the user said of those, as `client.submit.TaskOptions`."""
    names = (
        "priority", "cores", "memory_mb", "gpu", "node", "cluster", "timeout_s", "deadline_s", "retries", "exclusive",
        "wait_for_node",
    )  # fmt: skip
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.label:
        options["labels"] = labels_of(args.label)
    return options
