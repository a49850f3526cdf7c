"""What all our commands have in common on their command line: how misuse ends."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

OWN_FAILURE = 125  # exit code of fogfleet's own failures and of misuse, as opposed to a task's


class Parser(argparse.ArgumentParser):
    """argparse, but misuse ends with `OWN_FAILURE`, in our form."""

    def error(self, message: str) -> NoReturn:
        """Say how it is used and what is wrong."""
        self.print_usage(sys.stderr)
        hint = "\n  put -- before words that begin with -" if message.startswith("unrecognized arguments") else ""
        self.exit(OWN_FAILURE, f"{self.prog}: {message}{hint}\n")
