"""The terminal: rich where there is one, plain lines of 100 columns where there is not."""

from __future__ import annotations

import sys

from rich.console import Console

PLAIN_WIDTH = 100


def make_console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Console(stderr=stderr, highlight=False)
    # Jupyter sets FORCE_COLOR for what a cell starts, which rich takes for a terminal with a live bar.
    return Console(stderr=stderr, width=PLAIN_WIDTH, highlight=False, no_color=True, force_terminal=False)
