"""One run at a time in an output folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import BusyError
from .storage import Folder

LOCK = "run.lock"


@contextmanager
def only_run(folder: Folder) -> Iterator[None]:
    """Hold the folder's lock; BusyError if another live process holds it.

    The kernel releases the lock when its holder dies, so there is no stale lock on a local disk. A remote
    folder has no such lock and is not guarded.
    """
    path = folder.local_path(LOCK)
    if path is None:
        yield
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise BusyError(
                f"{folder.url}: {holder} is running here; wait for it or choose another `output`"
            ) from error
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        yield
