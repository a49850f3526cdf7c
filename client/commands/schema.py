"""`fog schema`: the contract for tools of any language, generated from the message types."""

from __future__ import annotations

import argparse
from pathlib import Path

from client import show
from client.commands import common
from schemas.errors import BadInput, FogError


def parser(name: str) -> argparse.ArgumentParser:
    """``fog schema [--asyncapi] [DIR]``."""
    made = common.Parser(
        f"fog {name}", description="Write JSON Schemas and an AsyncAPI 3 document, to DIR or as one document to stdout."
    )
    made.add_argument("words", nargs="*", metavar="DIR")
    made.add_argument("--asyncapi", action="store_true", help="only the AsyncAPI document")
    made.add_argument("--json", action="store_true", help="print the names of the files written as JSON")
    return made


async def run(_name: str, args: argparse.Namespace) -> int:
    """Write or print."""
    from schemas import generate

    places = [*args.words, *args.after]
    if len(places) > 1:
        raise BadInput("dir", "only one is taken")
    if not places:
        show.print_json(generate.asyncapi() if args.asyncapi else generate.json_schemas())
        return 0
    folder = Path(places[0])
    try:
        written = _asyncapi(folder) if args.asyncapi else generate.write(folder)
    except OSError as error:
        raise FogError(f"cannot write to {folder}: {error.strerror or error}") from None
    names = [str(path) for path in written]
    show.print_json(names) if args.json else print("\n".join(names))
    return 0


def _asyncapi(folder: Path) -> list[Path]:
    import json

    from schemas import generate

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "asyncapi.json"
    path.write_text(json.dumps(generate.asyncapi(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [path]
