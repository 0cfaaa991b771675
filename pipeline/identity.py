"""What decides the output of a step beyond its settings: the bytes of its files, the code of a user's class."""

from __future__ import annotations

import inspect
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from malmoi.operators.config import settings_of
from malmoi.operators.contract import Operator

_OURS = "malmoi.operators"


def plain(value: Any) -> Any:
    """JSON values only, in a stable order."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


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
