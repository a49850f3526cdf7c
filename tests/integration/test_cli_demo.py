"""`fog demo`: a device is killed in the middle, and every item is there and right all the same."""

from __future__ import annotations

import os
import random
import re
import subprocess
from pathlib import Path

from tests.integration.client_stack import FOG, ROOT

FILES = 200


def test_the_demo_survives_a_killed_node_and_checks_every_item(tmp_path: Path) -> None:
    folder, words = tmp_path / "in", ["fog", "mist", "haze", "cloud"]
    folder.mkdir()
    dice = random.Random(1)
    for number in range(FILES):
        (folder / f"f{number}").write_text(" ".join(dice.choices(words, k=8000)))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*FOG, "demo", "--input", str(folder)], env=env, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"right: all {FILES} items are there" in done.stdout
    killed = re.search(r"killed (\S+) \(SIGKILL", done.stdout)
    assert killed
    assert re.search(rf"^{killed[1]} .*killed in the middle$", done.stdout, re.MULTILINE)
    assert re.search(r"^phone-low .* 0 .*battery 25 %", done.stdout, re.MULTILINE)
    assert re.search(rf"^moved: .* from {killed[1]} to ", done.stdout, re.MULTILINE)
    assert not list(tmp_path.glob("fog-demo-*"))  # nothing is left behind


def test_an_input_without_files_is_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "absent"):
        done = subprocess.run(
            [*FOG, "demo", "--input", str(wrong)], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 125
        assert str(wrong) in done.stderr
