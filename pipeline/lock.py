"""One run at a time in an output folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO

from .errors import BusyError, StorageError
from .lease import leased
from .storage import Folder

LOCK = "run.lock"

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def only_run(folder: Folder) -> Iterator[Callable[[], None]]:
    """Hold the folder; BusyError if another live process holds it, StorageError if it cannot be written.

    The function that is given raises BusyError once another process holds the folder instead: call it between
    jobs. On a local disk the kernel releases the lock when its holder dies, so there is no stale lock and that
    cannot happen; folders without file locks are held by `lease`.
    """
    path = folder.local_path(LOCK)
    if path is None:
        with leased(folder) as check:
            yield check
        return
    with _opened(folder, path) as handle:
        if not _locked(folder, handle):
            with leased(folder) as check:
                yield check
            return
        with suppress(OSError):  # a full disk: the lock holds without its holder's name
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield _ours


def _ours() -> None:
    """Nobody can take a lock of the kernel away."""


def _locked(folder: Folder, handle: FileIO) -> bool:
    """Lock the file; False where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            return False
        holder = handle.read().decode("utf-8", "replace").strip() or "another process"
        raise BusyError(
            f"{folder.url}: {holder} is running here; wait for it or choose another `output`"
        ) from error
    return True


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
