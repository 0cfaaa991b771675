"""One run at a time in an output folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO

from .errors import BusyError, StorageError
from .storage import Folder

LOCK = "run.lock"


@contextmanager
def only_run(folder: Folder) -> Iterator[None]:
    """Hold the folder's lock; BusyError if another live process holds it, StorageError if none can be made.

    The kernel releases the lock when its holder dies, so there is no stale lock on a local disk. A remote
    folder has no such lock and is not guarded.
    """
    path = folder.local_path(LOCK)
    if path is None:
        yield
        return
    with _opened(folder, path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = handle.read().decode("utf-8", "replace").strip() or "another process"
            raise BusyError(
                f"{folder.url}: {holder} is running here; wait for it or choose another `output`"
            ) from error
        with suppress(OSError):  # a full disk: the lock holds without its holder's name
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _opened(folder: Folder, path: str) -> FileIO:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle = FileIO(path, "a+")
    except OSError as error:
        raise StorageError(
            f"{folder.url}: cannot be written ({error.strerror}: {error.filename}); choose another `output`"
        ) from error
    handle.seek(0)
    return handle
