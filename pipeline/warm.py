"""Imported by each worker of a Ray of our own when it starts, while the run is still planned: the first job then finds
loaded what all jobs need."""

# ruff: noqa: F401

import gc
from pathlib import Path


def _load() -> None:
    import pyarrow as pa
    import ray.data

    from malmoi.operators import exact

    from . import careful, decide, dropped, filtering, gather, scatter

    if any(Path(exact.__file__).parent.glob("__pycache__/exact.*.nbi")):  # to compile is not for here
        exact.text_hash(pa.array([""], pa.large_string()))  # the first kernel brings most of numba in


gc.disable()  # a fifth of the time
try:
    _load()
finally:
    gc.freeze()
    gc.enable()
