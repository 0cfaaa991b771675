"""A lock for folders without file locks (object stores, some network file systems): an object with a heartbeat.

`run.lock.json` names the process that holds the folder; it is written anew every `BEAT_S` seconds and removed at
the end. It is made by a conditional write where the store has one (S3 and GCS do). One that has not changed for
`STALE_S` seconds is of a run that died and is taken over, at once where this machine can see that the process is
gone.

In a store two processes may both take a stale lock over in the moment between reading and removing it; each reads
the lock again `SETTLE_S` seconds later and at every heartbeat, and the one that finds another's name stops. The same
holds for a process that was suspended, or cut off from the store, for longer than `STALE_S`. Until it stops both
write; as both work on the same plan they write the same bytes, and the plan of another recipe is refused.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .errors import BusyError
from .storage import Folder, file_system

FILE = "run.lock.json"
BEAT_S = 10.0
STALE_S = 60.0
SETTLE_S = 1.0


@dataclass(frozen=True)
class Holder:
    """A process that holds a folder. `machine` and `started` tell whether it still lives; `time`: Unix time of
    the last sign of life by its own clock."""

    run: str
    host: str
    machine: str
    pid: int
    started: str
    beat: int = 0
    time: float = 0.0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def _machine() -> str:
    """This machine since its start, and the name space that process ids are of."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [boot.read_text().strip(), os.readlink(space)]
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the machine's start; None: there is none, "": it cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else ""
    except (OSError, IndexError):
        return ""


def _me() -> Holder:
    pid = os.getpid()
    return Holder(uuid.uuid4().hex, socket.gethostname(), _machine(), pid, _started(pid) or "")


def _dead(holder: Holder) -> bool:
    """Whether the process is surely gone, as this machine can see."""
    if holder.machine != _machine():
        return False
    now = _started(holder.pid)
    return now is None or bool(now and holder.started and now != holder.started)


def read(folder: Folder) -> Holder | None:
    """Who holds the folder; one that cannot be understood is told as nobody's."""
    try:
        if folder.is_local:
            data = folder.read_bytes(FILE)
        else:
            fs, path = file_system(folder.join(FILE), folder.options)
            data = fs.cat_file(path)  # one request: between two the object may change
    except FileNotFoundError:
        return None
    return _parsed(data)


def _parsed(data: bytes) -> Holder:
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        return Holder("", "an unknown machine", "", 0, "")


def _create(folder: Folder, data: bytes) -> bool:
    """Write the lock unless there is one."""
    path = folder.local_path(FILE)
    if path is not None:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True
    fs, remote = file_system(folder.join(FILE), folder.options)
    try:
        fs.pipe_file(remote, data, mode="create")
    except FileExistsError:
        return False
    except (OSError, TypeError, NotImplementedError, ValueError):
        # A driver or a store without conditional writes, or a folder that cannot be written, which is told here.
        if folder.exists(FILE):
            return False
        folder.write_bytes(FILE, data)
        time.sleep(SETTLE_S)  # others may have done the same: it is of the last one
        return bool(fs.cat_file(remote) == data)
    return True


def _busy(folder: Folder, holder: Holder) -> BusyError:
    return BusyError(
        f"{folder.url}: {holder} is running here; wait for it or choose another `output` (a run that died is "
        f"taken over {STALE_S:.0f} s after its last sign of life)"
    )


def _take(folder: Folder, mine: Holder) -> None:
    """Become the holder or raise BusyError; waits up to `STALE_S` where it is unsure that the holder lives."""
    while True:
        mine = replace(mine, time=time.time())
        if _create(folder, mine.to_json()):
            return
        there = read(folder)
        if there is None:
            continue
        if not _dead(there):
            if abs(time.time() - there.time) < 2 * BEAT_S:
                raise _busy(folder, there)
            _watch(folder, there)
        taken = read(folder) == there and _cleared(folder, there)
        if taken and _create(folder, replace(mine, time=time.time()).to_json()):
            _settle(folder, mine)
            return


def _cleared(folder: Folder, stale: Holder) -> bool:
    """Remove a stale lock. On a disk not the one that another process has put there since it was read."""
    path = folder.local_path(FILE)
    if path is None:
        folder.remove(FILE)
        return True
    aside = Path(f"{path}.{uuid.uuid4().hex}.tmp")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    try:
        if _parsed(aside.read_bytes()) == stale:
            return True
        with suppress(FileExistsError):
            os.link(aside, path)  # back again, unless there is one already
        return False
    finally:
        aside.unlink()


def _watch(folder: Folder, holder: Holder) -> None:
    """Return once the lock has not changed for `STALE_S`, whatever the clocks say; BusyError if it changes."""
    deadline = time.monotonic() + STALE_S
    while time.monotonic() < deadline:
        time.sleep(min(BEAT_S / 4, max(deadline - time.monotonic(), 0.0)))
        now = read(folder)
        if now is not None and now != holder:
            raise _busy(folder, now)


def _settle(folder: Folder, mine: Holder) -> None:
    time.sleep(SETTLE_S)
    now = read(folder)
    if now is None or now.run != mine.run:
        raise _busy(folder, now or replace(mine, host="another machine", pid=0))


@contextmanager
def leased(folder: Folder) -> Iterator[Callable[[], None]]:
    """Hold the folder; the function that is given raises BusyError once another process holds it instead.

    Raises BusyError where another process holds it.
    """
    mine = _me()
    _take(folder, mine)
    stop, lost = threading.Event(), threading.Event()

    def beat() -> None:
        number = 0
        while not stop.wait(BEAT_S if number else SETTLE_S):
            number += 1
            with suppress(Exception):  # a store that is away for a while: try again
                now = read(folder)
                if now is not None and now.run != mine.run:
                    lost.set()
                    return
                folder.write_bytes(FILE, replace(mine, beat=number, time=time.time()).to_json())

    def check() -> None:
        if lost.is_set():
            now = read(folder)
            raise _busy(folder, now or replace(mine, host="another machine", pid=0))

    thread = threading.Thread(target=beat, name="malmoi-lock", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join(timeout=STALE_S)
        with suppress(Exception):
            now = read(folder)
            if now is not None and now.run == mine.run:
                folder.remove(FILE)
