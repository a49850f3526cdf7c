"""A phone's whole evening, as `fog demo battery` plays it: too long for every run of the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.client_stack import FOG, ROOT

pytestmark = pytest.mark.chaos


def test_a_phones_evening_is_played_drawn_and_paid(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*FOG, "demo", "battery", "--seconds", "60"], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for state in ("harvesting", "thermal_throttle", "user_active", "charging_low", "cooldown"):
        assert state in done.stdout
    assert "paid by the ledger" in done.stdout and "right:" in done.stdout
    assert not list(tmp_path.glob("fog-demo-*"))
