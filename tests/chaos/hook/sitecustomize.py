"""Found on PYTHONPATH by every Python process of a run under test: ends one of them at a point of its writing.

With MALMOI_CHAOS=<folder>, each file that a run makes gives the points `open` (nothing is there yet), `part` (a
first piece is written), `whole` (all is written, not renamed) and `there` (renamed), each removal the point `gone`.
`<folder>/log` lists them where `<folder>/listen` is there. `<folder>/fault.json` arms one: {"name", "phase",
"victim", "driver"}; the first process that comes to it disarms it and

    self     ends itself with SIGKILL
    driver   ends the process that leads the run, and goes on
    raylet   ends the raylet that it belongs to, and goes on
    disk     finds the disk full

The package under test knows nothing of this: its `Folder` is wrapped when it is imported.
"""

from __future__ import annotations

import errno
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from contextlib import contextmanager

PLACE = os.environ.get("MALMOI_CHAOS", "")
TARGET = "malmoi.pipeline.storage"


def point(name: str, phase: str) -> None:
    """The process is at a point: note it, or do there what is armed."""
    if os.path.exists(f"{PLACE}/listen"):
        log = os.open(f"{PLACE}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(log, f"{name} {phase}\n".encode())
        os.close(log)
    try:
        with open(f"{PLACE}/fault.json", encoding="utf-8") as file:
            fault = json.load(file)
        if (fault["name"], fault["phase"]) != (name, phase):
            return
        os.rename(f"{PLACE}/fault.json", f"{PLACE}/done.json")
    except (OSError, ValueError):
        return
    if fault["victim"] == "disk":
        raise OSError(errno.ENOSPC, "No space left on device", name)
    pids = {"self": os.getpid(), "driver": fault.get("driver"), "raylet": raylet() or os.getpid()}
    with open(f"{PLACE}/felt.json", "w", encoding="utf-8") as file:
        json.dump({"pid": os.getpid(), "killed": pids[fault["victim"]]}, file)
    os.kill(pids[fault["victim"]], signal.SIGKILL)
    time.sleep(0.05)  # what is meant to die is dead before this process goes on, for as long as it may


def raylet() -> int:
    """The raylet that started this worker."""
    import psutil

    return next((above.pid for above in psutil.Process().parents() if above.name() == "raylet"), 0)


class Sink:
    """A file that comes to the point `part` when a first piece is written."""

    def __init__(self, file, name: str) -> None:
        self._file, self._name, self._begun = file, name, False

    def write(self, data) -> int:
        written = self._file.write(data)
        if not self._begun:
            self._begun = True
            self._file.flush()
            point(self._name, "part")
        return written

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def wrap(module) -> None:
    """Give `Folder` of the module its points."""
    create, remove = module.Folder.create, module.Folder.remove

    @contextmanager
    def created(self, name):
        point(name, "open")
        with create(self, name) as file:
            yield Sink(file, name)
            point(name, "whole")
        point(name, "there")

    def removed(self, name):
        remove(self, name)
        point(name, "gone")

    module.Folder.create, module.Folder.remove = created, removed


class Finder(importlib.abc.MetaPathFinder):
    """Wraps the module that it waits for, once it is imported."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        run = spec.loader.exec_module

        def exec_module(module) -> None:
            run(module)
            wrap(module)

        spec.loader.exec_module = exec_module
        return spec


if PLACE:
    import importlib.util

    sys.meta_path.insert(0, Finder())
