"""What tests share: the real broker, one a session, and for each test an account of its own on it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from coordinator.broker import LOOPBACK, Broker, any_free
from coordinator.broker_config import Account
from schemas.creds import Creds, new_seed, public_key, write_creds
from schemas.target import Target

# The same examples each time, so that what fails is what was changed. FOG_EXAMPLES=2000 draws so many new ones of each test.
# The machine may be shared: how long an example takes says nothing about us.
EXAMPLES = int(os.environ.get("FOG_EXAMPLES", "0"))
settings.register_profile(
    "fog", max_examples=EXAMPLES or 50, derandomize=not EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("fog")

# Processes start as they do for users: from compiled files, where the machine forbids to write those (as many a container
# does, which makes each start twice as dear), and open to interrupts, where we run in the background of a shell.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Which files begin first, in the order of their folders: those that wait for processes, so that short ones fill the end.
TESTS = Path(__file__).parent
FOLDERS = ("sim", "chaos", "integration", "core")
STORE_BYTES = 1 << 50  # streams *reserve* their greatest size: a hundred accounts' worth exceeds many a disk
ACCOUNTS = 100  # of one server; when they are used up, the next one starts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first."""
    items.sort(key=lambda item: FOLDERS.index(item.path.relative_to(TESTS).parts[0]))


class BrokerPool:
    """Hands out accounts: empty, with JetStream, sharing nothing but the server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._targets: list[Target] = []
        self.brokers: list[Broker] = []

    def take(self) -> Target:
        """The next unused account."""
        if not self._targets:
            self._start()
        return self._targets.pop()

    def _start(self) -> None:
        seeds = {f"T{i:03d}": new_seed() for i in range(ACCOUNTS)}
        accounts = [Account(name, public_key(seed)) for name, seed in seeds.items()]
        folder = self._folder / str(len(self.brokers))
        broker = Broker.serve(folder, accounts, host=LOOPBACK, port=any_free(LOOPBACK), store_bytes=STORE_BYTES)
        self.brokers.append(broker)
        self._targets = [Target(broker.url, seed=seed) for seed in seeds.values()]


@pytest.fixture(scope="session")
def broker_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerPool]:
    """The session's brokers; the first starts with the first test that asks."""
    pool = BrokerPool(tmp_path_factory.mktemp("broker"))
    yield pool
    for broker in pool.brokers:
        broker.stop()


@pytest.fixture
def target(broker_pool: BrokerPool) -> Target:
    """An account of the session's broker that no other test has seen."""
    return broker_pool.take()


@pytest.fixture
def creds_file(target: Target, tmp_path: Path) -> Path:
    """A `fog.creds` for `target`: what a daemon of our own takes as --creds."""
    path = tmp_path / "fog.creds"
    write_creds(path, Creds(target.url, target.seed))
    return path


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts a private broker, for a test that stops or kills it. Again with the same `name`: the same home and port."""
    started: list[Broker] = []

    def start(name: str = "private", *, port: int = -1, listen: str = LOOPBACK) -> Broker:
        started.append(Broker.start(tmp_path / name, port=port, listen=listen))
        return started[-1]

    yield start
    for broker in started:
        broker.stop()
