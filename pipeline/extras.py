"""Packages of the extra `notebook`, asked for by name when they are needed and never before."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import MalmoiError


def wanted(package: str, what: str) -> Any:
    """The module; MalmoiError with the command that installs it where it is missing. `what` needs it."""
    top = package.partition(".")[0]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if (error.name or top).partition(".")[0] != top:
            raise  # it is there, and broken
        raise MalmoiError(f"{what} needs {top}: pip install 'malmoi[notebook]'") from error
