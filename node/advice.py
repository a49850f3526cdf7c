"""What ``fog node --advise`` prints: what this device should do now, and why."""

from __future__ import annotations

import json
import time

from msgspec import Struct, to_builtins

from node.config import Settings
from node.core.advice import advise
from node.core.advice.profile import profile_of
from node.core.transport import LARGE_BYTES, NEVER_HELD, URGENT_PRIORITY, Message, Way, decide, way_of
from node.device import Device
from node.offer import offer_of
from node.policy import PolicyFile
from node.show import look
from schemas.advice import Advice, told
from schemas.transport import Routing, What


class Found(Struct, frozen=True):
    """An advice, and the way that messages would take by it."""

    advice: Advice
    way: Way


def advice_now(device: Device, settings: Settings, policy: PolicyFile) -> Found:
    """The advice for this device, as if its daemon had just begun. Takes up to some seconds: slow signals are waited for."""
    capabilities, state = look(device)
    profile = profile_of(capabilities, state, offer_of(settings, capabilities, ()))
    wanted = policy.policy()
    advice = advise(profile, wanted, None, time.monotonic())
    return Found(advice, way_of(advice, profile, wanted))


def as_text(found: Found, pretending: list[str]) -> str:
    """Lines to read."""
    played = f"PRETENDING, by the environment: {' '.join(pretending)}\n\n" if pretending else ""
    ways = (f"  {name:<14}{routing.transport}: {routing.reason}" for name, routing in _examples(found.way).items())
    return "\n".join([played + told(found.advice), "", "messages", *ways])


def as_json(found: Found, pretending: list[str]) -> str:
    """The same as one JSON document."""
    document = to_builtins(found.advice)
    del document["carried"]
    document["messages"] = {name: to_builtins(routing) for name, routing in _examples(found.way).items()}
    return json.dumps({"pretending": pretending, **document}, indent=2, ensure_ascii=False)


def _examples(way: Way) -> dict[str, Routing]:
    """The decision about a message of each kind."""
    of = {
        "small result": Message(What.RESULT, 1),
        "large result": Message(What.RESULT, LARGE_BYTES + 1),
        "urgent result": Message(What.RESULT, 1, URGENT_PRIORITY),
        "failure": Message(What.OUTCOME, 1),
        "ledger claim": Message(What.CLAIM, 1),
        **{what.value.replace("_", " "): Message(what) for what in NEVER_HELD},
    }
    return {name: decide(message, way) for name, message in of.items()}
