"""Which files the demo works on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import BadInput

DOCUMENTATION = Path("/usr/share/doc")
FILES_MIN = 200  # with fewer than this in the machine's documentation, the project's own files are taken
FILES_MAX = 1_000  # of the default input; a folder of the user's choice is taken whole
BYTES_MAX = 20 << 20
FILE_MAX = 1 << 20
SKIPPED = {".git", ".venv", "__pycache__", "build", "dist", "node_modules"}


def choose(given: Path | None) -> tuple[Path, list[Path]]:
    """The folder, and its files in order. Raises BadInput when there is nothing to read in the one that was given."""
    if given is not None:
        if not given.is_dir():
            raise BadInput("input", f"{given} is no folder")
        found = [path for path in walk(given) if readable_size(path) is not None]
        if not found:
            raise BadInput("input", f"{given} holds no file that can be read")
        return given, found
    found = some(DOCUMENTATION)
    if len(found) >= FILES_MIN:
        return DOCUMENTATION, found
    project = Path(__file__).resolve().parents[2]
    return project, some(project)


def some(folder: Path) -> list[Path]:
    """Files of a folder, up to `FILES_MAX` of them and `BYTES_MAX` in all, without empty and very large ones."""
    found: list[Path] = []
    total = 0
    for path in walk(folder):
        size = readable_size(path)
        if not size or size > FILE_MAX:
            continue
        total += size
        if len(found) >= FILES_MAX or total > BYTES_MAX:
            break
        found.append(path)
    return found


def walk(folder: Path) -> Iterator[Path]:
    """Every regular file below `folder`, in the same order each time; links are not followed."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                yield path


def readable_size(path: Path) -> int | None:
    """A file's size, None when it cannot be read."""
    try:
        with path.open("rb"):
            return path.stat().st_size
    except OSError:
        return None
