"""The ways in which a numba kernel is declared here, typed so that the checker sees the function itself."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar

import numba
from numba.core.cpu import CPUContext

F = TypeVar("F", bound=Callable[..., Any])


def _named_by_key(made: Any) -> None:
    """Keep compiled code in files named by what it was compiled from and for: types, processor, bytecode.

    numba numbers them by an index that it reads first and writes later. Processes that compile at the same time take
    the same number, and then one has the code of the other: of other types, or of a processor that is not its own.
    """
    file: Any = getattr(getattr(made, "_cache", None), "_cache_file", None)
    if file is None:  # numba is switched off
        return

    def save(key: object, data: object) -> None:
        name = f"{file._index_name.removesuffix('.nbi')}.{sha256(repr(key).encode()).hexdigest()[:16]}.nbc"
        file._save_data(name, data)
        file._save_index({**file._load_index(), key: name})

    file.save = save


def _declared(declare: Callable[[F], F]) -> Callable[[F], F]:
    def declared(function: F) -> F:
        made = declare(function)
        _named_by_key(made)
        return made

    return declared


# nogil: operators run beside others in threads; cache: compiled once per machine, not once per process.
kernel: Callable[[F], F] = _declared(numba.njit(nogil=True, cache=True))
inline: Callable[[F], F] = _declared(numba.njit(nogil=True, cache=True, inline="always"))
# For a kernel that makes no array: numba then counts no references. Counting is atomic, and a call with a
# NamedTuple of arrays counts every one of them, which cost more than the work itself where calls are per word.
lean: Callable[[F], F] = _declared(numba.njit(nogil=True, cache=True, _nrt=False))


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
