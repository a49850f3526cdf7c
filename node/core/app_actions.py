"""What the machine of one app keeps on the disk, and what it wants done (see `app.py`)."""

from __future__ import annotations

from msgspec import Struct

from schemas.rollout import AppVersion, Phase, Told


class Kept(Struct, omit_defaults=True):
    """What is on the disk of an app, written whole after each change: enough to start it again without a broker.

    `target` is what it is told to have; `versions` all that are installed, by name. `running`: what runs or is held, `warm`
    what runs beside it, `good` the last that was healthy, `key` whose versions are taken.
    """

    app: str
    order: int = 0
    told: Told = Told.RUN
    target: AppVersion | None = None
    before: str = ""
    running: str = ""
    warm: str = ""
    good: str = ""
    key: str = ""
    phase: Phase = Phase.REMOVED
    reason: str = ""
    versions: dict[str, AppVersion] = {}

    @property
    def wanted(self) -> str:
        """The name of `target`."""
        return self.target.version if self.target is not None else ""


class Fetch(Struct, frozen=True):
    """Download and install a version → `fetched` or `not_fetched`."""

    version: AppVersion


class EndFetch(Struct, frozen=True):
    """Download no more: what came stays, and the next download goes on with it."""


class Start(Struct, frozen=True):
    """Start a version's process → `ended` when it ends."""

    version: AppVersion


class Stop(Struct, frozen=True):
    """End a version's process."""

    version: str


class Point(Struct, frozen=True):
    """Tasks that ask for the app find this version from now on ("": none)."""

    version: str


class Drop(Struct, frozen=True):
    """Remove an installed version from the disk ("": the whole app)."""

    version: str


class Keep(Struct, frozen=True):
    """Write `Kept`."""


class Report(Struct, frozen=True):
    """Say how it is now."""


Action = Fetch | EndFetch | Start | Stop | Point | Drop | Keep | Report
Out = list[Action]
