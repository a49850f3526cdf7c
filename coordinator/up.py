"""`fog up`: one machine's fleet under one command. The broker, the coordinator and each local node are its children."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from msgspec import structs

from coordinator.broker import LOOPBACK, Broker
from coordinator.relay_from import spelled
from coordinator.supervisor import ChildSpec, Supervisor
from schemas.errors import BadInput, FogError
from schemas.home import Home, Instance, write_instance
from schemas.lock import Held, Lock
from schemas.logs import device_failed
from schemas.names import check_id
from schemas.procs import spawn, start_mark
from schemas.usage import OWN_FAILURE, Parser

NODES_MAX = 1_000  # local nodes of one `fog up`
BROKER, COORDINATOR, NODE = range(3)  # ranks: stopped from the last to the first
# -P: a folder named `node` or `client` where the user happens to stand must not be taken for ours.
PYTHON = (sys.executable, "-P", "-m")


@dataclass(frozen=True)
class LocalNode:
    """A node to run here: its id, and what is set in its environment."""

    name: str
    env: Mapping[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run until interrupted. 0 after an orderly stop, 1 when the broker died, 125 when it could not start."""
    args = _parser().parse_args(argv)
    home = Home.find(args.home)
    try:
        nodes = local_nodes(args.nodes, args.node)
        lock = Lock(home.lock, str(home.root))
    except Held as held:
        return _refuse(FogError(f"`fog up` already runs in {home.root} (pid {held.pid})", hint=held.hint))
    except (FogError, OSError) as problem:
        return _refuse(problem)
    try:
        return _run(args, home, nodes)
    except (FogError, OSError) as problem:
        return _refuse(problem)
    finally:
        home.instance.unlink(missing_ok=True)
        lock.release()


def _run(args: argparse.Namespace, home: Home, nodes: Sequence[LocalNode]) -> int:
    if args.quiet:
        os.environ["FOG_LOG_LEVEL"] = "warning"
    up = Up(home, port=args.port, listen=args.listen)
    options = node_options(args.label, args.imports, args.allow)
    specs = [
        up.broker_spec(),
        coordinator_spec(home, args.heartbeat_relay),
        *(node_spec(home, node, options) for node in nodes),
    ]
    supervisor = Supervisor(specs, restart=args.restart, say=_say, changed=up.write)
    return supervisor.run(lambda: None if args.quiet else greet_when_ready(up, [node.name for node in nodes]))


class Up:
    """What runs in `home`, kept in its instance record. `broker` and `instance` are set once the broker runs."""

    broker: Broker
    instance: Instance

    def __init__(self, home: Home, *, port: int | None, listen: str) -> None:
        self.home = home
        self._port = port
        self._listen = listen
        self._started = time.time()

    def broker_spec(self) -> ChildSpec:
        """The broker, as a child."""
        return ChildSpec(
            "broker", self._start_broker, rank=BROKER, vital=True, then="stopping everything", ails=self._ails
        )

    def _ails(self) -> str:
        return self.broker.ails()

    def _start_broker(self) -> subprocess.Popen[bytes]:
        self.broker = Broker.start(self.home.root, port=self._port, listen=self._listen)
        self._port = None  # a restart keeps it
        pid = os.getpid()
        self.instance = Instance(self.broker.url, self.broker.port, pid, start_mark(pid), self._started)
        return self.broker.process

    def write(self, pids: dict[str, int]) -> None:
        """Record who runs."""
        self.instance = structs.replace(self.instance, pids=pids)
        write_instance(self.home, self.instance)


def coordinator_spec(home: Home, heartbeat_relay: str | None = None) -> ChildSpec:
    """The coordinator, as a child."""
    relay = ["--heartbeat-relay", heartbeat_relay] if heartbeat_relay else []
    argv = [*PYTHON, "coordinator", "--home", str(home.root), *relay]
    then = f"what is submitted is kept; `fog coordinator --home {home.root}` goes on with it"
    return ChildSpec("coordinator", lambda: start(argv), rank=COORDINATOR, then=then)


def node_options(labels: Sequence[str], imports: Sequence[str], allow: Sequence[str]) -> list[str]:
    """The options that every local node gets."""
    pairs = [("--label", labels), ("--import", imports), ("--allow", allow)]
    return [word for option, values in pairs for value in values for word in (option, value)]


def node_spec(home: Home, node: LocalNode, options: Sequence[str]) -> ChildSpec:
    """A local node, as a child."""
    argv = [*PYTHON, "node", "--name", node.name, "--home", str(home.root), *options]
    failed, then = device_failed(node.name), "not started again (--restart would)"
    return ChildSpec(node.name, lambda: start(argv, node.env), rank=NODE, failed=failed, then=then)


def start(argv: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a child that logs to our stderr, with `env` on top of our environment."""
    return spawn(argv, env={**os.environ, **(env or {})}, stdout=sys.stderr.fileno())


def local_nodes(count: int, given: Sequence[str]) -> list[LocalNode]:
    """``node-1`` … ``node-<count>``, then those that were given as ``ID[,ENV=VALUE…]``. Raises BadInput."""
    if not 0 <= count <= NODES_MAX:
        raise BadInput("nodes", f"{count} is not between 0 and {NODES_MAX}")
    nodes = [LocalNode(f"node-{i}", {}) for i in range(1, count + 1)] + [parse_node(text) for text in given]
    names = [node.name for node in nodes]
    for name in names:
        if names.count(name) > 1:
            raise BadInput("node", f"{name} is named twice")
    return nodes


def parse_node(text: str) -> LocalNode:
    r"""``phone,BATTERY=25,NETWORK_TYPE=wifi``: an id and its environment; a comma in a value is written ``\,``."""
    name, *settings = (part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text))
    env = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise BadInput("node", f"{setting!r:.80} is not ENV=VALUE", hint=r"a comma in a value is written \,")
        env[key] = value
    return LocalNode(check_id("node", name), env)


def greet_when_ready(up: Up, names: Sequence[str]) -> None:
    """Say how to go on once that works: a script that waits for the greeting can submit at once."""

    def wait() -> None:
        argv = [*PYTHON, "coordinator.ready", "--home", str(up.home.root), *names]
        subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        print_greeting(up)

    threading.Thread(target=wait, name="greeting", daemon=True).start()


def print_greeting(up: Up) -> None:
    """Where it listens, and how to go on."""
    broker, instance, root = up.broker, up.instance, up.home.root
    here = "" if root == Home.find().root else f" --home {root}"
    _say(f"fogfleet runs in {root}", file=sys.stdout)
    _say(f"  broker       {broker.url} (nats-server {broker.version}, pid {broker.pid})", file=sys.stdout)
    for name, pid in instance.pids.items():
        if name != "broker":
            _say(f"  {name:<12} pid {pid}", file=sys.stdout)
    if not any(name not in ("broker", "coordinator") for name in instance.pids):
        _say(f"No node runs here: add one with `fog node{here}`, or start with --nodes N.", file=sys.stdout)
    _say(f"Next: `fog nodes{here}`, `fog submit{here} sha256 FILE`. Ctrl-C stops everything.", file=sys.stdout)
    _say(_elsewhere(up), file=sys.stdout)


def _elsewhere(up: Up) -> str:
    if up.broker.host in (LOOPBACK, "localhost", "::1"):
        return "Only this machine can connect: --listen ADDRESS lets others in."
    return f"On another machine: copy {up.home.creds} there, then `fog node --creds fog.creds`."


def _say(line: str, file: TextIO | None = None) -> None:
    with contextlib.suppress(OSError, ValueError):  # whoever read it has gone: no reason to stop the fleet
        print(line, file=file or sys.stderr, flush=True)


def _refuse(problem: Exception) -> int:
    _say(f"fog up: {problem}")
    return OWN_FAILURE


def _parser() -> argparse.ArgumentParser:
    parser = Parser("fog up", description="Run broker, coordinator and local nodes until interrupted.")
    add = parser.add_argument
    add(
        "--home",
        type=Path,
        metavar="DIR",
        help="the folder that names this instance (default: FOG_HOME, else user data)",
    )
    add("--nodes", type=int, default=0, metavar="N", help="local nodes to run, node-1 to node-N (default: none)")
    add(
        "--node",
        action="append",
        default=[],
        metavar="ID[,ENV=VALUE…]",
        help="one more local node, with its environment",
    )
    add("--port", type=int, metavar="P", help="the broker's port, kept over restarts (default: 4222 if free; -1: any)")
    add("--listen", default=LOOPBACK, metavar="ADDRESS", help="listen there; others need this home's fog.creds")
    add("--allow", action="append", default=[], choices=["command", "app"], help="a kind that local nodes may run")
    add("--import", action="append", default=[], dest="imports", metavar="MODULE", help="functions for local nodes")
    add("--label", action="append", default=[], metavar="KEY=VALUE", help="a label of the local nodes")
    add(
        "--heartbeat-relay",
        type=spelled,
        metavar="off|on|N",
        help="nodes beat by way of their clusters' leaders: as for `fog coordinator` (default: off)",
    )
    add("--restart", action="store_true", help="start a child again that dies")
    add("--quiet", action="store_true", help="say only what goes wrong")
    return parser


if __name__ == "__main__":
    sys.exit(main())
