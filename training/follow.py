"""Shows on this terminal what a run logs in its output, wherever the worker runs that logs it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from malmoi.pipeline.console import make_console
from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.storage import Folder

from .metrics import FILE, shown

_LOCAL_SECONDS = 1.0
_REMOTE_SECONDS = 15.0  # a remote log appears with each checkpoint


def entries(folder: Folder) -> list[dict[str, Any]]:
    """The lines of the log so far; none where there is none, and without one that is being written."""
    try:
        lines = folder.read_bytes(FILE).decode().splitlines()
    except (OSError, MalmoiError):
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


@contextmanager
def followed(folder: Folder, steps: int) -> Iterator[None]:
    """Print what is logged while the block runs. A step that is taken again after a restart is not shown again."""
    console, ended = make_console(), threading.Event()

    def key(entry: dict[str, Any]) -> tuple[Any, bool]:
        return entry.get("step"), "loss" in entry

    told = {key(entry) for entry in entries(folder)}

    def show() -> None:
        for entry in entries(folder):
            if key(entry) not in told:
                told.add(key(entry))
                console.print(shown(entry.pop("step"), steps, entry), soft_wrap=True)

    def follow() -> None:
        while not ended.wait(_LOCAL_SECONDS if folder.is_local else _REMOTE_SECONDS):
            show()

    thread = threading.Thread(target=follow, name="malmoi-follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        show()
