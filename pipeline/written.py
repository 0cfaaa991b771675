"""Names, sizes and content hashes of written files, for commit records and the manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

import xxhash

from .storage import Folder

FileRecord = tuple[str, int, str]  # name in the run folder, bytes, xxh3_128 of the content in hex

_BLOCK = 8 * 1024**2


def part_name(index: int) -> str:
    return f"part-{index:05d}"


def hash_file(folder: Folder, name: str) -> FileRecord:
    """Read the file back once and hash it: what is recorded is what the storage holds."""
    state, size = xxhash.xxh3_128(), 0
    with folder.open(name) as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
            size += len(block)
    return name, size, state.hexdigest()


def is_there(folder: Folder, name: str, size: int, digest: str) -> bool:
    """Whether a recorded file is there and holds the recorded bytes, which are read."""
    try:
        return hash_file(folder, name)[1:] == (size, digest)
    except FileNotFoundError:
        return False


@dataclass
class Sizes:
    """The sizes of a run's files, of which each folder is listed once: for who asks for very many. Any thread may."""

    folder: Folder
    _held: dict[str, dict[str, int]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def of(self, name: str) -> int | None:
        """Bytes; None where there is no such file."""
        place = name.rpartition("/")[0]
        with self._lock:
            if place not in self._held:
                self._held[place] = self.folder.sizes(place)
        return self._held[place].get(name)
