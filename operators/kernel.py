"""The ways in which a numba kernel is declared here, typed so that the checker sees the function itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core.cpu import CPUContext

F = TypeVar("F", bound=Callable[..., Any])

# nogil: operators run beside others in threads; cache: compiled once per machine, not once per process.
kernel: Callable[[F], F] = numba.njit(nogil=True, cache=True)
inline: Callable[[F], F] = numba.njit(nogil=True, cache=True, inline="always")
# For a kernel that makes no array: numba then counts no references. Counting is atomic, and a call with a
# NamedTuple of arrays counts every one of them, which cost more than the work itself where calls are per word.
lean: Callable[[F], F] = numba.njit(nogil=True, cache=True, _nrt=False)


def _without_blas() -> None:
    """Let numba load without scipy.linalg, a third of a second that no kernel here needs: the first kernel of a
    process has numba look for BLAS. Who calls `np.dot` in a kernel gets it, or the error, at that call."""
    load: Callable[[CPUContext], None] | None = getattr(CPUContext, "load_additional_registries", None)
    if load is None:
        return

    def lazily(self: CPUContext) -> None:
        from numba.np import linalg

        look, linalg.ensure_blas = linalg.ensure_blas, lambda: None
        try:
            load(self)
        finally:
            linalg.ensure_blas = look

    CPUContext.load_additional_registries = lazily


_without_blas()
