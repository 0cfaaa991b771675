"""The ways in which a numba kernel is declared here, typed so that the checker sees the function itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

# nogil: operators run beside others in threads; cache: compiled once per machine, not once per process.
kernel: Callable[[F], F] = numba.njit(nogil=True, cache=True)
inline: Callable[[F], F] = numba.njit(nogil=True, cache=True, inline="always")
# For a kernel that makes no array: numba then counts no references. Counting is atomic, and a call with a
# NamedTuple of arrays counts every one of them, which cost more than the work itself where calls are per word.
lean: Callable[[F], F] = numba.njit(nogil=True, cache=True, _nrt=False)
