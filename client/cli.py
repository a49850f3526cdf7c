"""The `fog` command: which commands there are, and how each ends.

Exit codes: 0 done; the task's own code for `fog submit --command`; 1 a task, an item of a map, or a rollout that was watched
failed; 125 fog itself failed or was misused; 130 interrupted, 143 terminated; 141 the reader of our output went away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

# Only what is asked for is loaded: `fog` must start quickly.
PROCESSES = {"up": "coordinator.up", "coordinator": "coordinator", "node": "node"}
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "run a small fleet on this machine and a real job on it, with a device dying in the middle"),
    "up": ("", "run broker, coordinator and local nodes until interrupted"),
    "coordinator": ("", "run a coordinator for a broker elsewhere"),
    "node": ("", "make this machine a node; --show tells what it is"),
    "submit": ("submit", "run a function or a command on the fleet"),
    "map": ("map", "run a function over many files or lines"),
    "task": ("tasks", "one task: state, attempts, why this node or why none"),
    "tasks": ("tasks", "the tasks that have no result yet"),
    "cancel": ("tasks", "end tasks, queued or running"),
    "dead": ("dead", "tasks that were given up: what their attempts said; --retry submits them again"),
    "nodes": ("nodes", "the nodes"),
    "node-info": ("nodes", "one node: score with its parts, signals with their sources"),
    "clusters": ("clusters", "the clusters: leader, term, members, and why they belong together"),
    "cluster": ("clusters", "one cluster; or create, pin, grow, dissolve one"),
    "propose": ("clusters", "put something to the vote of a cluster"),
    "advise": ("policy", "what a device should do now, and why: this one, or a running node"),
    "policy": ("policy", "an operator's policy for a node: set, show, reset"),
    "drain": ("nodes", "take a node out of service, or back"),
    "sleep": ("nodes", "let a node be silent for a while, without work"),
    "wake": ("nodes", "let a node that sleeps take work again"),
    "rollout": ("rollout", "bring a version of an app to many devices, watch it, have it go back"),
    "harvest": ("harvest", "devices that work while nobody needs them: states, what stands against it, tokens"),
    "ledger": ("ledger", "tokens earned: balances, and the checking of every one from its events"),
    "functions": ("status", "what the fleet offers"),
    "status": ("status", "the fleet at a glance"),
    "doctor": ("doctor", "what is wrong with the fleet, and what to do about it"),
    "events": ("events", "what happened, and happens"),
    "schema": ("schema", "write JSON Schemas and the AsyncAPI document"),
}
OWN_FAILURE = 125
INTERRUPTED = 130
NO_READER = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else OWN_FAILURE
    if words[0] in ("-V", "--version"):
        print(f"fogfleet {version()}")
        return 0
    name, rest = words[0], words[1:]
    if name in PROCESSES:
        return become(PROCESSES[name], rest)
    if name not in COMMANDS:
        print(f"fog: there is no command {name!r}\n{usage()}", file=sys.stderr)
        return OWN_FAILURE
    return run(name, rest)


def run(name: str, words: Sequence[str]) -> int:
    """One command of our own, with every way it can end turned into an exit code."""
    from client.commands import common

    module = import_module(f"client.commands.{COMMANDS[name][0]}")
    try:
        code = common.call(module, name, words)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the buffer would raise again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def become(module: str, words: Sequence[str]) -> int:
    """Turn into another program of ours; on Windows, which cannot, run it and pass its exit code on."""
    # -P: a folder named `node` where the user happens to stand must not be taken for ours.
    argv = [sys.executable, "-P", "-m", module, *words]
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(sys.executable, argv)
    import subprocess

    return subprocess.run(argv, check=False).returncode


def usage() -> str:
    """What `fog` alone says."""
    lines = ["usage: fog COMMAND …   (fog COMMAND --help tells more)", ""]
    lines += [f"  {name:<12} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(lines)


def version() -> str:
    """The installed version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("fogfleet")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
