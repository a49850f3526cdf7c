"""Load balance with real nodes: what waits behind a long task runs on the node that comes to help."""

from __future__ import annotations

from pathlib import Path

from schemas.target import Target
from tests.integration.stack import stack
from tests.until import eventually


async def test_tasks_that_wait_at_a_busy_node_are_taken_back_for_one_that_joins(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path / "stack") as fleet:
        await fleet.coordinator()
        await fleet.node("n1", "--cores", "1", "--slots", "1")
        quick = [await fleet.submit("where", 0.0) for _ in range(20)]
        await fleet.all_results(quick)
        tasks = [await fleet.submit("where", 60.0)]
        await eventually(lambda: bool(fleet.seen("task.started", tasks[0])), 10)
        tasks += [await fleet.submit("where", 0.0) for _ in range(4)]
        await eventually(lambda: len([t for t in tasks if fleet.seen("task.assigned", t)]) >= 2, 10)
        await fleet.node("n2")
        await fleet.all_results(tasks[1:])
        assert {fleet.results[task].node for task in tasks[1:]} == {"n2"}
        asked = [task for task in tasks if fleet.seen("task.returned", task)]
        assert asked and all(fleet.results[task].attempts == 1 for task in asked)
        assert (await fleet.status()).counts["asked back"] >= len(asked)
        assert (await fleet.status()).balance == 0.0
        await fleet.cancel(tasks[0])
