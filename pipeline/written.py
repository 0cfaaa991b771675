"""Names, sizes and content hashes of written files, for commit records and the manifest."""

from __future__ import annotations

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


def is_there(folder: Folder, name: str, size: int, digest: str, *, deep: bool) -> bool:
    """Whether a recorded file is there in its size; `deep`: and holds the recorded bytes, which are read."""
    try:
        return folder.size(name) == size and (not deep or hash_file(folder, name)[2] == digest)
    except FileNotFoundError:
        return False
