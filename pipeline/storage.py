"""A folder to read and write whole files in: on a local disk or behind any fsspec URL.

A file appears under its name complete or not at all. On a local disk it is written to a temporary name in
the same folder, synced and renamed. Object stores (S3, GCS, Azure) show an upload only when it is closed; an
upload that fails is thrown away. Other remote file systems get the temporary name and a rename as well.

All names are relative to the folder, with `/` between levels; none may leave it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from .errors import StorageError

T = TypeVar("T")
R = TypeVar("R")

TEMP_PREFIX = ".tmp-"
_TEMP = re.compile(re.escape(TEMP_PREFIX) + "[0-9a-f]{32}-.")

# The folders of a run in which files are made, besides the top one and each stage's.
WRITTEN = ("stages", "corpus", "dropped", "quarantine", "index")

# Read on by a little, so that many small reads are few requests; the drivers' own 50 MiB are a whole file each time
# that one reads here and there. Uploads in pieces of 16 MiB: a writer holds one in memory.
_AHEAD: dict[str, Any] = {"block_size": 8 * 1024**2, "cache_type": "readahead"}
_EXACT: dict[str, Any] = {"cache_type": "none"}
_UPLOAD = 16 * 1024**2

READERS = 16
"""Requests at a time to an object store: each takes some 20 ms."""

# An upload becomes visible when it is closed, and replaces the old object at once.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss"})

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith(("file://", "local://"))


def strip_local(url: str) -> str:
    """The absolute path of a local URL or path; absolute, because a worker may run in another folder."""
    return os.path.abspath(url.split("://", 1)[-1])


def file_system(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The fsspec file system of `url` and the path within it; the driver package may be missing."""
    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(url, **options))
    except ImportError as error:
        protocol = url.split("://", 1)[0]
        extra = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}.get(protocol)
        mend = f"pip install 'malmoi[{extra}]'" if extra else str(error)
        raise StorageError(f"{url}: no driver for {protocol}:// is installed; {mend}") from error
    except ValueError as error:
        raise StorageError(f"{url}: {error}") from error


def _explain(error: OSError, place: str, free_of: str | None) -> StorageError | None:
    """The StorageError for a full disk or a refusal; None for any other OSError."""
    if error.errno in _FULL:
        free = "free space unknown"
        if free_of:
            free = f"{shutil.disk_usage(free_of).free:,} bytes free without the unfinished file"
        return StorageError(
            f"{place}: no space left to write ({free}, or a quota is reached); free some space or choose "
            "another `output`, then run the same command again: finished parts are kept"
        )
    if error.errno in _DENIED or isinstance(error, PermissionError):
        return StorageError(
            f"{place}: not allowed to write ({error.strerror or error}); make the folder writable for this "
            "user or choose another `output`, then run the same command again"
        )
    if isinstance(error, NotADirectoryError | FileExistsError):
        return StorageError(f"{place}: {error.filename} is a file, not a folder; choose another `output`")
    return None


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Give what a remote driver raises (of many classes, by driver) as StorageError; OSErrors that say more
    than that something is not there go on."""
    try:
        yield
    except (OSError, StorageError) as error:
        if not isinstance(error, FileNotFoundError):
            raise
        raise StorageError(
            f"{place}: cannot be written ({error}); does the bucket or folder exist?"
        ) from error
    except Exception as error:
        raise StorageError(f"{place}: cannot be written ({type(error).__name__}: {error})") from error


def _sync_folder(path: str) -> None:
    """Make a rename durable; some file systems refuse to sync a folder, which loses nothing but that."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _named(folder: str, names: list[str]) -> list[str]:
    prefix = folder.strip("/")
    shown = [name for name in names if name and not name.startswith(".")]  # also what a Mac puts there
    return sorted(f"{prefix}/{name}" if prefix else name for name in shown)


@dataclass(frozen=True)
class Folder:
    """`url`: a local path or an fsspec URL (`s3://bucket/run`); `options`: fsspec storage options.

    Picklable; the options (which may hold keys) are not shown by repr.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        if not self.url:
            raise ValueError("Folder: want a path or URL, got an empty string")
        clean = strip_local(self.url) if is_local(self.url) else self.url.rstrip("/")
        object.__setattr__(self, "url", clean)

    @property
    def is_local(self) -> bool:
        return is_local(self.url)

    def join(self, *names: str) -> str:
        """The full path or URL of a file in the folder."""
        parts = [part for name in names for part in name.split("/") if part]
        if ".." in parts:
            raise ValueError(f"{self.url}: want a name inside the folder, got {'/'.join(names)!r}")
        return "/".join([self.url.rstrip("/"), *parts])

    def local_path(self, name: str) -> str | None:
        """The path for `pyarrow.memory_map` and the like; None where the folder is remote."""
        return self.join(name) if self.is_local else None

    def _remote(self, name: str) -> tuple[Any, str]:
        fs, path = file_system(self.join(name), self.options)
        fs.invalidate_cache(path.rsplit("/", 1)[0])  # another process may have written since
        return fs, path

    def exists(self, name: str) -> bool:
        if self.is_local:
            return os.path.exists(self.join(name))
        fs, path = self._remote(name)
        return bool(fs.exists(path))

    def size(self, name: str) -> int:
        """Bytes; FileNotFoundError where there is no such file."""
        if self.is_local:
            return os.path.getsize(self.join(name))
        fs, path = self._remote(name)
        return int(fs.size(path))

    def open(self, name: str, *, exact: bool = False) -> BinaryIO:
        """Open for reading, seekable. `exact`: the reader asks for large pieces here and there, as that of Parquet
        does, so of a remote file nothing but these is read."""
        if self.is_local:
            return open(self.join(name), "rb")
        fs, path = self._remote(name)
        return cast(BinaryIO, fs.open(path, "rb", **(_EXACT if exact else _AHEAD)))

    def read_bytes(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def write_bytes(self, name: str, data: bytes | memoryview) -> None:
        with self.create(name) as file:
            file.write(data)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Write a file that appears under its name when the block ends, or never if it raises.

        Two writers of the same name do not disturb each other; the last to finish wins.
        """
        place = self.join(name)
        writer = self._create_local(place) if self.is_local else self._create_remote(name)
        try:
            with writer as file:
                yield file
        except OSError as error:
            free_of = self.url if self.is_local and os.path.isdir(self.url) else None
            explained = _explain(error, place, free_of)
            if explained is None:
                raise
            raise explained from error

    @contextmanager
    def _create_local(self, path: str) -> Iterator[BinaryIO]:
        folder, base = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        temp = os.path.join(folder, f"{TEMP_PREFIX}{uuid.uuid4().hex}-{base[:80]}")
        try:
            with open(temp, "xb") as file:
                yield file
            with open(temp, "rb+") as file:  # opened again, as the caller's compressor may have closed it
                os.fsync(file.fileno())
            os.replace(temp, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temp)
            raise
        _sync_folder(folder)

    @contextmanager
    def _create_remote(self, name: str) -> Iterator[BinaryIO]:
        fs, path = self._remote(name)
        folder, base = path.rsplit("/", 1)
        rename = self.url.split("://", 1)[0] not in OBJECT_STORES
        target = f"{folder}/{TEMP_PREFIX}{uuid.uuid4().hex}-{base[:80]}" if rename else path
        with _explained(self.join(name)):
            if rename:
                fs.makedirs(folder, exist_ok=True)
            file = fs.open(target, "wb", block_size=_UPLOAD)
        try:
            yield cast(BinaryIO, file)
            with _explained(self.join(name)):
                file.close()
                if rename:
                    fs.mv(target, path)
        except BaseException:
            if rename:
                file.close()
                with suppress(FileNotFoundError):
                    fs.rm(target)
            elif not file.closed:
                file.discard()
                file.closed = True  # else its finaliser would upload what was discarded
            raise

    def list(self, folder: str = "") -> list[str]:
        """Names of the files directly in `folder`, sorted, each as the other methods take it."""
        if self.is_local:
            with suppress(FileNotFoundError), os.scandir(self.join(folder)) as entries:
                found = [entry.name for entry in entries if entry.is_file()]
                return _named(folder, found)
            return []
        return _named(folder, [name for name, _ in self._listed(folder)])

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the files directly in `folder`, by name as of `list`: a thousand a request where it is remote."""
        if not self.is_local:
            found = dict(self._listed(folder))
        else:
            found = {}
            with suppress(FileNotFoundError), os.scandir(self.join(folder)) as entries:
                found = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        return {name: found[name.rsplit("/", 1)[-1]] for name in _named(folder, list(found))}

    def _listed(self, folder: str) -> Sequence[tuple[str, int]]:
        """Name and bytes of the files of a remote folder."""
        fs, path = self._remote(folder)
        fs.invalidate_cache(path)
        try:
            rows = fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        fs.invalidate_cache(path)  # whoever asks for one of very many files next would search the list for it
        return [(row["name"].rsplit("/", 1)[-1], int(row["size"])) for row in rows if row["type"] == "file"]

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        with suppress(FileNotFoundError):
            if self.is_local:
                os.unlink(self.join(name))
            else:
                fs, path = self._remote(name)
                fs.rm(path)

    def remove_all(self, names: Sequence[str]) -> None:
        """Remove files; those of an object store a thousand at a time."""
        if self.is_local or self.url.split("://", 1)[0] not in OBJECT_STORES:
            for name in names:
                self.remove(name)
        elif names:
            fs, _ = file_system(self.url, self.options)
            with suppress(FileNotFoundError):
                fs.rm([file_system(self.join(name), self.options)[1] for name in names])
            fs.invalidate_cache()

    def clean_temps(self) -> int:
        """Remove what killed writers left and return how many; no writer may be at work.

        Only names that `create` makes, and only in the folders that a run writes to: the output folder may
        hold files of others. On object stores nothing is visible to remove: let the bucket's lifecycle rule
        end uploads that were never completed.
        """
        if not self.is_local and self.url.split("://", 1)[0] in OBJECT_STORES:
            return 0
        fs, top = file_system(self.url, self.options)
        fs.invalidate_cache()

        def entries(folder: str, kind: str) -> list[str]:
            if self.is_local:  # the driver would ask for the size of each
                with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
                    return [entry.path for entry in found if entry.is_dir() == (kind == "directory")]
                return []
            try:
                rows = fs.ls(folder, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return [row["name"].rstrip("/") for row in rows if row["type"] == kind]

        folders = [top, *(f"{top}/{name}" for name in WRITTEN), *entries(f"{top}/stages", "directory")]
        found = [name for folder in folders for name in entries(folder, "file")]
        temps = [name for name in found if _TEMP.match(name.rsplit("/", 1)[-1])]
        for name in temps:
            fs.rm_file(name)
        return len(temps)


def in_parallel(folder: Folder, do: Callable[[T], R], things: Sequence[T], *, local: int = 1) -> list[R]:
    """What `do` gives for each, in their order; several at a time where the folder is remote, `local` where not."""
    at_once = local if folder.is_local else READERS
    if at_once < 2 or len(things) < 2:
        return [do(thing) for thing in things]
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(do, things))
