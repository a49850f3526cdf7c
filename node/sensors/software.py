"""ML frameworks that could be imported, and runtimes on PATH. Nothing is imported or run to find out."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from node.sensors.ask import find
from node.sensors.reading import Look, known

_FRAMEWORKS = {
    "onnxruntime": ("onnxruntime",),
    "tflite": ("tflite_runtime", "ai_edge_litert"),
    "torch": ("torch",),
    "tensorflow": ("tensorflow",),
}
_RUNTIME_MODULES = {"wasmtime": ("wasmtime",)}
_PROGRAMS = ("docker", "podman", "wasmtime", "nvidia-smi")


def software(env: Mapping[str, str]) -> Look:
    """`supports_ml_frameworks` and `runtimes`."""
    frameworks = [name for name, modules in _FRAMEWORKS.items() if any(map(_importable, modules))]
    runtimes = {name for name in _PROGRAMS if find(name, env)}
    runtimes |= {name for name, modules in _RUNTIME_MODULES.items() if any(map(_importable, modules))}
    return {
        "supports_ml_frameworks": known(tuple(frameworks), "importlib.util.find_spec"),
        "runtimes": known(tuple(sorted(runtimes)), "PATH and importlib.util.find_spec"),
    }


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):  # a broken installation is not one that works
        return False
