"""The bytes by which a daemon tells its runner when to end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from node.runners.deadline import Deadline


@pytest.mark.skipif(sys.platform == "win32", reason="there are none there")
def test_its_page_is_there_before_it_is_touched() -> None:
    """A task that fills the disk of the temporary files must not have the daemon and its runners killed by SIGBUS."""
    deadline = Deadline.new()
    assert os.fstat(deadline.fd).st_blocks * 512 >= 8
    deadline.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are none there")
def test_another_process_sees_what_is_set() -> None:
    deadline = Deadline.new()
    code = f"from node.runners.deadline import Deadline; print(Deadline({deadline.fd}).passed(10.0))"

    def seen() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            pass_fds=(deadline.fd,),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    assert seen() == "False"
    deadline.set(9.0)
    assert seen() == "True"
    deadline.close()
