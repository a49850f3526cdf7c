"""GPU: whether there is one that can compute, its model and memory where the kernel or its driver tells."""

from __future__ import annotations

import re
from collections.abc import Mapping

from node.sensors.ask import find, once
from node.sensors.reading import Look, Reading, clean, known, unknown
from node.sensors.tree import Tree

_DRM, _PCI, _NVIDIA = "/sys/class/drm", "/sys/bus/pci/devices", "/proc/driver/nvidia/gpus"
_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_ON_CHIP = {"v3d", "panfrost", "panthor", "lima", "msm", "msm_dpu", "etnaviv", "asahi", "tegra", "nouveau", "pvr"}
_MIB = 1 / 2**20
_HUGE_MB = 2**32
_FIELDS = ("has_gpu", "gpu_model", "gpu_memory_mb")


def graphics(tree: Tree, env: Mapping[str, str]) -> Look:
    """`has_gpu`, `gpu_model`, `gpu_memory_mb`. A display adapter without an engine (virtual, server board) is none."""
    nvidia = _nvidia(tree, env)
    if nvidia:
        return nvidia
    cards = tree.names(_DRM)
    for card in (name for name in cards.value or () if re.fullmatch(r"card[0-9]{1,3}", name)):
        if look := _card(tree, f"{_DRM}/{card}/device"):
            return look
    if tree.names("/sys/class").value is None:
        return dict.fromkeys(_FIELDS, unknown(tree.names("/sys/class").reason))
    if cards.value is None and tree.exists(_DRM):
        return dict.fromkeys(_FIELDS, unknown(cards.reason))
    if idle := _without_driver(tree):
        return dict.fromkeys(_FIELDS, unknown(f"{idle} is a display controller, but no driver serves it"))
    source = f"{_DRM}, {_PCI} (none)"
    return {"has_gpu": known(False, source), "gpu_model": known("", source), "gpu_memory_mb": known(0, source)}


def _nvidia(tree: Tree, env: Mapping[str, str]) -> Look:
    gpus = tree.names(_NVIDIA).value or ()
    if not gpus:
        return {}
    path = f"{_NVIDIA}/{gpus[0]}/information"
    match = re.search(r"^Model:\s*(\S.*)$", tree.text(path).value or "", re.MULTILINE)
    model: Reading[str] = known(clean(match[1].strip(), 128), path) if match else unknown(f"{path} names no model")
    return {"has_gpu": known(True, _NVIDIA), "gpu_model": model, "gpu_memory_mb": _nvidia_memory(env)}


def _nvidia_memory(env: Mapping[str, str]) -> Reading[int]:
    if not find("nvidia-smi", env):
        return unknown("nvidia-smi is not installed")
    said = once(("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"), env)
    first = (said.value or "").partition("\n")[0].strip()
    if said.value is None:
        return unknown(said.reason)
    if not re.fullmatch(r"[0-9]{1,9}", first):
        return unknown(f"nvidia-smi says {first[:30]!r}")
    return known(int(first), "nvidia-smi")


def _card(tree: Tree, device: str) -> Look:
    vendor = tree.text(f"{device}/vendor", 16).value
    if vendor is not None:
        name = _VENDORS.get(vendor.lower())
        source = f"{device}/vendor ({vendor[:10]})"
    else:
        name = tree.target(f"{device}/driver")
        name = name if name in _ON_CHIP else ""
        source = f"{device}/driver ({name})"
    if not name:
        return {}
    product = tree.line(f"{device}/product_name")
    number = tree.line(f"{device}/device", 16).value
    model = product if product.value else known(f"{name} {number}" if number else name, source)
    memory = tree.number(f"{device}/mem_info_vram_total", 0, _HUGE_MB, _MIB)
    size = unknown("its driver does not tell") if memory.value is None else known(int(memory.value), memory.source)
    return {"has_gpu": known(True, source), "gpu_model": model, "gpu_memory_mb": size}


def _without_driver(tree: Tree) -> str:
    for slot in tree.names(_PCI).value or ():
        kind = tree.text(f"{_PCI}/{slot}/class", 16).value or ""
        vendor = (tree.text(f"{_PCI}/{slot}/vendor", 16).value or "").lower()
        if kind.startswith("0x03") and vendor in _VENDORS and not tree.exists(f"{_PCI}/{slot}/driver"):
            return f"{_PCI}/{slot}"
    return ""
