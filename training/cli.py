"""The commands of training: `COMMANDS`. Heavy imports happen inside the commands."""

from __future__ import annotations

from collections.abc import Callable

COMMANDS: tuple[Callable[..., None], ...] = ()
