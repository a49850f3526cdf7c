"""What the demo says in the end of work that was moved away from the node that died."""

from __future__ import annotations

import pytest

from client.demo.account import Account, Share
from client.demo.screen import print_end
from schemas.event import CloudEvent, TaskEvent


def happened(what: str, task: str, node: str = "") -> CloudEvent:
    return CloudEvent("e", "/fog/coordinator/c", f"fog.task.{what}", "", TaskEvent(task, "me", node))


def test_what_was_moved_is_told_with_where_it_went_also_in_parts(capsys: pytest.CaptureFixture[str]) -> None:
    account = Account([1] * 20, {"desktop": Share()})
    whole, one = "job-0-18-abcd", "job-18-2-abcd"
    for what, task, node in [
        ("assigned", whole, "desktop"),
        ("assigned", one, "desktop"),
        ("lost", whole, "desktop"),
        ("lost", one, "desktop"),
        ("split", whole, ""),
        ("assigned", one, "phone"),
    ]:
        account.event(happened(what, task, node))
    print_end(account, "")
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("moved")] == [
        "moved: items 0 to 17, from desktop to others, in parts",
        "moved: items 18 to 19, from desktop to phone",
    ]
