"""An outside tool, as a program of its own: plain nats-py and jsonschema, nothing of ours. Run by test_flow.

``outsider.py URL SEED FOLDER`` subscribes to every event, checks each against the JSON Schema of its type in FOLDER (as
`fog schema` writes them), and prints a line of JSON for each: the event, and what is wrong with it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import nats
from jsonschema import Draft202012Validator


def problems(event: Any, subject: str, folder: Path) -> list[str]:
    kind = str(event.get("type", "")).removeprefix("fog.")
    file = folder / f"event.{kind}.schema.json"
    if not file.exists():
        return [f"no schema for {kind}"]
    found = [error.message for error in Draft202012Validator(json.loads(file.read_text())).iter_errors(event)]
    if subject != f"fog.v1.event.{kind}.{event['subject']}":
        found.append(f"its subject is {subject}")
    return found


def tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


async def main(url: str, seed: str, folder: Path) -> None:
    client = await nats.connect(url, nkeys_seed_str=seed)

    async def heard(message: Any) -> None:
        event = json.loads(message.data)
        tell({"event": event, "problems": problems(event, message.subject, folder)})

    await client.subscribe("fog.v1.event.>", cb=heard)
    await client.flush()
    ours = {"schemas", "coordinator", "node", "client"} & set(sys.modules)
    tell({"ready": True, "ours": sorted(ours)})
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
