"""What ``fog node --advise`` prints: what this device should do now, and why."""

from __future__ import annotations

import json
import time

from msgspec import to_builtins

from node.config import Settings
from node.core.advice import advise
from node.core.advice.profile import profile_of
from node.device import Device
from node.offer import offer_of
from node.policy import PolicyFile
from node.show import look
from schemas.advice import Advice, told


def advice_now(device: Device, settings: Settings, policy: PolicyFile) -> Advice:
    """The advice for this device, as if its daemon had just begun. Takes up to some seconds: slow signals are waited for."""
    capabilities, state = look(device)
    profile = profile_of(capabilities, state, offer_of(settings, capabilities, ()))
    return advise(profile, policy.policy(), None, time.monotonic())


def as_text(advice: Advice, pretending: list[str]) -> str:
    """Lines to read."""
    played = f"PRETENDING, by the environment: {' '.join(pretending)}\n\n" if pretending else ""
    return played + told(advice)


def as_json(advice: Advice, pretending: list[str]) -> str:
    """The same as one JSON document."""
    document = to_builtins(advice)
    del document["carried"]
    return json.dumps({"pretending": pretending, **document}, indent=2, ensure_ascii=False)
