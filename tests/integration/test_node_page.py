"""The bytes that a daemon and its runner share."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from node.core.last import Last
from node.runners.page import Page


@pytest.mark.skipif(sys.platform == "win32", reason="there are none there")
def test_its_page_is_there_before_it_is_touched() -> None:
    """A task that fills the disk of the temporary files must not have the daemon and its runners killed by SIGBUS."""
    page = Page.new()
    assert os.fstat(page.fd).st_blocks * 512 >= 8
    page.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are none there")
def test_another_process_sees_what_is_set() -> None:
    page = Page.new()
    code = f"from node.runners.page import Page; print(Page({page.fd}).is_over(10.0))"

    def seen() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            pass_fds=(page.fd,),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    assert seen() == "False"
    page.end_by(9.0)
    assert seen() == "True"
    page.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are none there")
def test_what_a_killed_runner_did_last_is_still_to_be_read() -> None:
    page = Page.new()
    assert page.last() == Last(0, 0)
    code = (
        f"import os; from node.runners.page import Page; page = Page({page.fd}); "
        "page.begins(3); page.is_through(3); page.begins(1 << 40); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], pass_fds=(page.fd,), timeout=60, check=False)
    assert page.last() == Last(1 << 40, 3)
    assert not page.is_over(1e12), "it wrote nothing else"
    page.close()
