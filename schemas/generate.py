"""What ``fog schema`` writes: JSON Schemas and an AsyncAPI 3 document, generated from the message types.

The schemas are made in `schemas.json_schema`, the document in `schemas.asyncapi`.
"""

from __future__ import annotations

import json
from pathlib import Path

from schemas.asyncapi import asyncapi
from schemas.json_schema import json_schemas

__all__ = ["asyncapi", "json_schemas", "write"]


def write(directory: Path | str) -> list[Path]:
    """Write ``asyncapi.json`` and a ``<name>.schema.json`` for each schema to `directory` (made if needed).

    Returns the files written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    documents = {f"{name}.schema.json": schema for name, schema in json_schemas().items()}
    documents["asyncapi.json"] = asyncapi()
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [folder / name for name in documents]
