"""Security hardware: a TPM, an enclave, and whether the device could attest what it runs."""

from __future__ import annotations

from node.sensors.reading import Look, Reading, known, unknown
from node.sensors.tree import Tree

_TPM, _TEE, _SGX = "/sys/class/tpm", "/sys/class/tee", "/dev/sgx_enclave"
_GUESTS = ("/dev/sev-guest", "/dev/tdx_guest")  # a virtual machine whose processor signs what it runs


def security(tree: Tree) -> Look:
    """`has_tpm`, `has_secure_enclave`, `attestation_support`."""
    tpm = _any(tree, _TPM, "tpm")
    enclave = known(True, _SGX) if tree.exists(_SGX) else _any(tree, _TEE, "tee")
    return {"has_tpm": tpm, "has_secure_enclave": enclave, "attestation_support": _attestation(tree, tpm, enclave)}


def _any(tree: Tree, folder: str, prefix: str) -> Reading[bool]:
    names = tree.names(folder)
    if names.value is not None:
        return known(any(name.startswith(prefix) for name in names.value), folder)
    classes = tree.names("/sys/class")
    if classes.value and not tree.exists(folder):
        return known(False, f"/sys/class (no {prefix})")
    return unknown(names.reason)


def _attestation(tree: Tree, tpm: Reading[bool], enclave: Reading[bool]) -> Reading[bool]:
    for path in _GUESTS:
        if tree.exists(path):
            return known(True, path)
    for part in (tpm, enclave):
        if part.value:
            return known(True, part.source)
    if tpm.value is None or enclave.value is None:
        return unknown(tpm.reason or enclave.reason)
    return known(False, "neither a TPM nor an enclave")
