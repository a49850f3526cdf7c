"""What the demo rolls out: magika's file-type model, with the code that asks it and checks it; and two bad versions of it.

Needs the package `magika` (the extra ``fogfleet[demo]``), which ships the model as ONNX.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

from client.demo.module import Module
from schemas.errors import FogError

APP = "filetype"
GOOD, BROKEN, BROKEN_ON_PHONES = "1.0", "2.0", "3.0"
MODEL_FILES = ("model.onnx", "config.min.json")

# In every version, beside its model. It runs on the devices.
ASK = '''"""The model: `load()` gives it; run as a program this checks it on the device that it is on."""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent


def load():
    from magika import Magika

    settings = json.loads((HERE / "settings.json").read_text())
    return Magika(model_dir=HERE / settings.get(os.environ.get("DEVICE_TYPE", ""), settings["default"]))


if __name__ == "__main__":
    found = load().identify_bytes(b"#!/bin/sh\\nset -e\\necho hello\\nexit 0\\n").output.label
    sys.exit(0 if found == "shell" else f"a shell script is taken for {found}")
'''

# What the nodes offer: a function that uses whichever version is on its device.
MODULE = Module(
    "fog_demo_filetype",
    f'''import importlib.util

from node import app_path, function

loaded = {{}}


@function
def filetype(content: bytes) -> dict:
    """What kind of file this is, and which version of the model says so."""
    folder = app_path("{APP}")
    if folder not in loaded:
        spec = importlib.util.spec_from_file_location("ask", folder / "ask.py")
        ask = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(ask)
        loaded.clear()
        loaded[folder] = ask.load()
    return {{"label": loaded[folder].identify_bytes(content).output.label, "model": folder.name.split("-")[0]}}
''',
)

APP_TOML = """# Made by `fog demo rollout`.
app = "{app}"
version = "{version}"
artifact = "files"

[run]
type = "data"

[health]
interval_s = 15.0
timeout_s = 15.0
min_healthy_s = 0.0
healthy_deadline_s = 20.0
progress_deadline_s = 300.0

[health.check]
type = "command"
argv = [{python}, "{{dir}}/ask.py"]

[strategy]
{strategy}
"""
CANARY = 'kind = "canary"\ncanary_share = 0.1'
ROLLING = 'kind = "rolling"\nmax_concurrent = 3\nbetween_s = 0.5\nmin_sample = 3'


def write_version(folder: Path, version: str) -> Path:
    """An APP.toml with its files, of one of the three versions."""
    files = folder / version / "files"
    (files / "model").mkdir(parents=True)
    for name in MODEL_FILES:
        shutil.copyfile(model_folder() / name, files / "model" / name)
    settings = {"default": "model"}
    if version == BROKEN:  # a copy that stopped half way
        model = (files / "model" / "model.onnx").read_bytes()
        (files / "model" / "model.onnx").write_bytes(model[: len(model) // 2])
    elif version == BROKEN_ON_PHONES:  # a smaller model for phones, that was forgotten
        settings["smartphone"] = "model-small"
    (files / "settings.json").write_text(json.dumps(settings))
    (files / "ask.py").write_text(ASK, "utf-8")
    strategy = ROLLING if version == BROKEN_ON_PHONES else CANARY
    text = APP_TOML.format(app=APP, version=version, python=json.dumps(sys.executable), strategy=strategy)
    path = folder / version / "APP.toml"
    path.write_text(text, "utf-8")
    return path


def model_folder() -> Path:
    """Where the package keeps its model. Raises FogError without the package."""
    spec = importlib.util.find_spec("magika")
    found = sorted(Path(str(spec.origin)).parent.glob("models/*/model.onnx")) if spec is not None else []
    if not found:
        raise FogError("the package magika is not there", hint="pip install 'fogfleet[demo]', or make demo-rollout")
    return found[-1].parent


def ask_locally(paths: list[Path]) -> list[str]:
    """What the package itself says on this machine, without any fleet."""
    from magika import Magika

    model = Magika()
    return [str(model.identify_bytes(path.read_bytes()).output.label) for path in paths]
