"""`fog demo rollout`: a real model comes to devices and is used by them, and its two bad versions stop themselves."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.integration.client_stack import FOG, ROOT

KINDS = {
    "page": "<!DOCTYPE html><html><body><p>fog</p></body></html>\n" * 20,
    "run": "#!/bin/bash\nset -e\necho fog | wc -c\n" * 9,
}


@pytest.mark.skipif(find_spec("magika") is None, reason="the extra fogfleet[demo] is not installed: make demo-rollout")
def test_a_model_is_brought_to_devices_and_two_bad_versions_of_it_stop_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(10):
        for name, text in KINDS.items():
            (folder / f"{name}{number}").write_text(text)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    words = [*FOG, "demo", "rollout", "--nodes", "4", "--input", str(folder)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("20 files in 2 types") == 2
    assert done.stdout.count("now 4 have 1.0") == 2
    assert not list(tmp_path.glob("fog-demo-*")), "nothing is left behind"


@pytest.mark.skipif(find_spec("magika") is not None, reason="magika is there")
def test_without_the_model_it_says_how_to_get_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [*FOG, "demo", "rollout"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 125
    assert "fogfleet[demo]" in done.stderr
