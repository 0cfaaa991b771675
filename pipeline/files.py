"""Find the input files of a source and tell later whether one has changed.

Local paths, folders and globs, and any fsspec URL. Folders are walked; hidden and temporary files and files
of unknown kind in them are passed over. The order is that of the relative paths. These are in NFC: a Mac may spell
the names of its files in NFD, takes both for the same, and copies them on as they are.
"""

from __future__ import annotations

import difflib
import fnmatch
import glob
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, BinaryIO, Literal, cast

import xxhash

from .errors import ChangedError, SourceError, StorageError
from .recipe import Source
from .storage import file_system, is_local, strip_local

Format = Literal["jsonl", "parquet"]
Compression = Literal["", "gzip", "zstd"]

KNOWN = ".jsonl .ndjson .json (each also with .gz or .zst) and .parquet"
_KIND = re.compile(r"\.(?:(jsonl|ndjson|json)(?:\.(gz|gzip|zst|zstd))?|(parquet|pq))$", re.IGNORECASE)
_PACKED = re.compile(r"\.(gz|gzip|zst|zstd)$", re.IGNORECASE)
_TEMPORARY = ("*.tmp", "*.temp", "*.part", "*.partial", "*.crdownload", "*.swp", "*~")
_MAGIC = re.compile(r"[*?[]")

# A remote file is read in blocks, of which 8 are kept: enough for the columns of a Parquet file.
_BLOCK = 4 * 1024**2
_ENDS = 64 * 1024
_SAMPLES, _SAMPLE_BYTES = 16, 4096
_THREADS = 16


@dataclass(frozen=True)
class InputFile:
    """A file of a source. `url`: absolute; `relpath`: its name within the source, the same on every machine.

    `size`: bytes as stored; `fingerprint`: see the function of that name.
    """

    url: str
    relpath: str
    size: int
    format: Format
    compression: Compression
    fingerprint: str


@dataclass(frozen=True)
class _Found:
    """`root`: the folder that the recipe names or that a glob starts from; `etag`: "" where there is none."""

    url: str
    root: str
    size: int
    etag: str


def open_input(url: str, options: Mapping[str, Any], *, block_bytes: int = _BLOCK) -> BinaryIO:
    """Open for reading, seekable; OSError where that fails. `block_bytes`: that are read of a remote file at once."""
    if is_local(url):
        return open(url, "rb", buffering=1024**2)
    fs, path = file_system(url, options)
    settings = {"cache_type": "blockcache", "cache_options": {"maxblocks": 8}}
    return cast(BinaryIO, fs.open(path, "rb", block_size=block_bytes, **settings))


def open_footer(file: InputFile, options: Mapping[str, Any]) -> BinaryIO:
    """A Parquet file of which only the metadata is wanted. Of a remote one that is read alone, mostly in one request:
    a plan may have a hundred thousand."""
    if is_local(file.url):
        return open(file.url, "rb")
    fs, path = file_system(file.url, options)
    tail = bytes(fs.cat_file(path, start=max(0, file.size - _ENDS), end=file.size))
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] == b"PAR1" and len(tail) < length <= file.size:
        tail = bytes(fs.cat_file(path, start=file.size - length, end=file.size))
    return io.BytesIO(b"PAR1" + tail[-length:] if tail[-4:] == b"PAR1" else tail)


def find_files(source: Source, base: str) -> list[InputFile]:
    """The files of a source, sorted by relative path; `base`: the folder that its paths are relative to.

    Raises SourceError where a path matches nothing, or nothing of a known kind, or cannot be read.
    """
    found: dict[str, _Found] = {}
    for entry in source.path:
        for file in _expand(source, entry, base):
            found.setdefault(file.url, file)
    files = list(found.values())
    names = _relative([(file.root, file.url) for file in files])
    composed = [_nfc(name) for name in names]
    names = composed if len(set(composed)) == len(names) else names

    def describe(file: _Found, name: str) -> InputFile:
        kind, compression = cast("tuple[Format, Compression]", _kind(source, file.url))
        mark = _fingerprint(source, file)
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")  # a name need not be UTF-8
        return InputFile(file.url, shown, file.size, kind, compression, mark)

    with ThreadPoolExecutor(_THREADS) as pool:
        described = pool.map(describe, files, names)
        return sorted(described, key=lambda file: file.relpath)


def _kind(source: Source, url: str) -> tuple[Format, Compression] | None:
    """Format and compression by suffix; a format set in the recipe stands above the suffix."""
    known = _KIND.search(url)
    packed = _PACKED.search(url)
    compression: Compression = "" if not packed else "gzip" if packed[1].lower().startswith("g") else "zstd"
    if source.format == "parquet" or (source.format == "auto" and known and known[3]):
        return "parquet", ""
    if source.format == "jsonl" or known:
        return "jsonl", compression
    return None


def _listed(source: Source, url: str) -> bool:
    """Whether a file met in a folder belongs to the source."""
    known = _KIND.search(url)
    return known is not None and source.format in ("auto", "parquet" if known[3] else "jsonl")


def _hidden(relative: str) -> bool:
    parts = relative.split("/")
    hidden = any(part.startswith((".", "_")) for part in parts)
    return hidden or any(fnmatch.fnmatch(parts[-1].lower(), pattern) for pattern in _TEMPORARY)


def _expand(source: Source, entry: str, base: str) -> list[_Found]:
    """The files that one path of the recipe stands for."""
    url = entry
    if is_local(entry) and "://" not in entry:
        entry = os.path.expanduser(entry)
        url = entry if os.path.isabs(entry) else f"{base.rstrip('/') or base}/{entry}"
    try:
        local = is_local(url)
        found, one = _local(strip_local(url)) if local else _remote(url, source.storage_options)
    except Exception as error:  # remote drivers raise what they like
        raise _refuse(source, entry, f"cannot be read ({error})", "check the name and the rights") from error
    if one:
        if _kind(source, one.url) is None:
            raise _refuse(source, entry, "unknown kind of file", f"known: {KNOWN}; or set `format`")
        return [one]
    if not found:
        raise _refuse(source, entry, "nothing there", _nearest(url, source.storage_options))
    usable = [file for file in found if _listed(source, file.url)]
    if not usable and source.format != "auto" and _MAGIC.search(entry):
        usable = found  # a glob and a format leave no doubt about what is meant
    if not usable:
        some = ", ".join(sorted(os.path.basename(file.url) for file in found)[:3])
        raise _refuse(source, entry, f"no file of a known kind (there: {some})", f"known: {KNOWN}")
    return usable


def _refuse(source: Source, place: str, problem: str, mend: str) -> SourceError:
    return SourceError(f"source {source.name}: {place}: {problem}; {mend}")


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _on_disk(path: str) -> str:
    """The path in the spelling of the disk, where that differs in the normal form of Unicode alone."""
    if path.isascii() or os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    folder = _on_disk(folder)
    there = os.listdir(folder) if os.path.isdir(folder) else []
    return os.path.join(folder, next((x for x in there if _nfc(x) == _nfc(name)), name))


def _matches(path: str, root: str) -> list[str]:
    """What a glob matches, its parts below `root` in each normal form of Unicode, which fnmatch tells apart."""
    parts = path[len(root) :].split("/")
    forms = product(*(dict.fromkeys((x, _nfc(x), unicodedata.normalize("NFD", x))) for x in parts))
    patterns = [root + "/".join(form) for form in forms]
    if len(patterns) == 1:
        return sorted(glob.glob(path, recursive=True))
    found: dict[object, str] = {}
    for pattern in patterns:
        for match in filter(os.path.exists, glob.glob(pattern, recursive=True)):
            state = os.stat(match)  # a Mac finds one file by both spellings
            found.setdefault((state.st_dev, state.st_ino, _nfc(match)), match)
    return sorted(found.values())


def _local(path: str) -> tuple[list[_Found], _Found | None]:
    """(files of a folder or glob, None) or ([], the one file that is named)."""
    path = _on_disk(path)
    if os.path.isfile(path):
        return [], _Found(path, os.path.dirname(path), os.path.getsize(path), "")
    if os.path.isdir(path):
        return _walk(path, path), None
    root = _glob_root(path)
    found: list[_Found] = []
    is_run = cache(_is_run)
    for match in _matches(path, root):
        if os.path.isdir(match) and "**" not in path:
            found += [] if _is_run(match) else _walk(match, root)
        elif os.path.isfile(match) and not _hidden(os.path.relpath(match, root)):
            parts = os.path.relpath(match, root).split("/")[:-1]
            if any(is_run("/".join([root, *parts[: i + 1]])) for i in range(len(parts))):
                continue
            found.append(_Found(match, root, os.path.getsize(match), ""))
    return found, None


def _glob_root(path: str) -> str:
    """The folder above the first part of the path that holds a wildcard."""
    parts = path.split("/")
    fixed = next((i for i, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
    return "/".join(parts[:fixed]) or "/"


def _walk(top: str, root: str) -> list[_Found]:
    """All files below `top` that are not hidden; a folder reached twice through links is taken once."""
    found: list[_Found] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(top, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name) and not _is_run(f"{folder}/{name}"))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not _hidden(name) and os.path.isfile(path):
                found.append(_Found(path, root, os.path.getsize(path), ""))
    return found


def _is_run(path: str) -> bool:
    """Whether a folder is the output of a run: met within a source, its files are no input of the next one."""
    return os.path.isfile(f"{path}/plan.json") and os.path.isdir(f"{path}/stages")


def _remote(url: str, options: Mapping[str, Any]) -> tuple[list[_Found], _Found | None]:
    """As `_local`, behind fsspec."""
    fs, path = file_system(url, options)
    fs.invalidate_cache()
    protocol = url.split("://", 1)[0]

    def made(info: Mapping[str, Any], root: str) -> _Found:
        etag = info.get("ETag") or info.get("etag") or ""
        return _Found(
            f"{protocol}://{info['name']}", f"{protocol}://{root}", info["size"] or 0, etag.strip('"')
        )

    if _MAGIC.search(path):
        root = _glob_root(path)
        infos = [info for info in fs.glob(path, detail=True).values() if info["type"] == "file"]
    elif fs.isfile(path):
        return [], made(fs.info(path), path.rsplit("/", 1)[0])
    else:
        root = path.rstrip("/")
        infos = list(fs.find(path, detail=True).values())
    shown = [info for info in infos if not _hidden(info["name"][len(root) :].strip("/"))]
    fs.invalidate_cache()  # else whoever opens one of very many files searches the list for it
    return [made(info, root) for info in shown if not info["name"].endswith("/")], None


def _nearest(url: str, options: Mapping[str, Any]) -> str:
    """The mend for a path that matches nothing: the nearest existing names."""
    folder, name = url.rstrip("/").rsplit("/", 1)
    try:
        if is_local(url):
            folder = strip_local(folder)
            while not os.path.isdir(folder):
                folder, name = os.path.split(folder)
            there = os.listdir(folder)
        else:
            fs, path = file_system(folder, options)
            there = [row.rstrip("/").rsplit("/", 1)[-1] for row in fs.ls(path, detail=False)]
    except (OSError, StorageError):
        return f"{folder} cannot be listed"
    close = difflib.get_close_matches(name, there, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)} in {folder}?"
    some = sorted(entry for entry in there if not entry.startswith("."))[:5]
    return f"{folder} holds {', '.join(some) if some else 'nothing'}"


def _relative(files: Iterable[tuple[str, str]]) -> list[str]:
    """Names of (root, url) that differ from each other: below the root, else with the root's own name, else
    below what all have in common."""
    pairs = list(files)
    below = [os.path.relpath(url, root) for root, url in pairs]
    named = [f"{os.path.basename(root)}/{name}" for (root, _), name in zip(pairs, below, strict=True)]
    for names in (below, named):
        if len(set(names)) == len(names):
            return names
    # Local paths and URLs have nothing in common: "/a/b" and "/s3/bucket/b" are then below "/".
    paths = [url if is_local(url) else "/" + url.replace("://", "/", 1) for _, url in pairs]
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]


def _fingerprint(source: Source, file: _Found) -> str:
    try:
        return fingerprint(file.url, file.size, source.storage_options, file.etag)
    except OSError as error:
        mend = "check that this user may read it"
        raise _refuse(source, file.url, f"cannot be read ({error.strerror or error})", mend) from error


def fingerprint(url: str, size: int, options: Mapping[str, Any], etag: str = "") -> str:
    """What identifies the content: the store's ETag, else a hash of size, both ends and 16 samples between.

    Does not depend on time stamps or on the machine. A change in the middle of a large file that keeps its
    size and touches neither the first and last 64 KiB nor a sample of 4 KiB is not seen.
    """
    if etag:
        return f"etag-{etag}"
    digest = xxhash.xxh3_128(str(size).encode())
    with open_input(url, options) as file:
        digest.update(file.read(_ENDS))
        if size > 2 * _ENDS:
            for sample in range(1, _SAMPLES + 1):
                file.seek(size * sample // (_SAMPLES + 1))
                digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _ENDS))
        digest.update(file.read(_ENDS))
    return f"xxh3-{digest.hexdigest()}"


def check_unchanged(source: Source, file: InputFile) -> None:
    """Raise ChangedError where a file is not what it was when the run was planned."""
    try:
        if is_local(file.url):
            size, etag = os.path.getsize(file.url), ""
        else:
            _, one = _remote(file.url, source.storage_options)
            if one is None:
                raise FileNotFoundError(file.url)
            size, etag = one.size, one.etag
        now = fingerprint(file.url, size, source.storage_options, etag)
    except FileNotFoundError as error:
        raise ChangedError(f"source {source.name}: {file.url}: is gone since the run was planned") from error
    except OSError as error:
        raise SourceError(f"source {source.name}: {file.url}: cannot be read ({error})") from error
    if now != file.fingerprint:
        raise ChangedError(
            f"source {source.name}: {file.url}: has changed since the run was planned "
            f"({file.size:,} bytes then, {size:,} now); restore it, or start a new output folder"
        )
