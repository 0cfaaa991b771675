"""Imported by each worker of a Ray of our own when it starts, while the run is still planned: the first job then finds
loaded what all jobs need."""

# ruff: noqa: F401

import gc
from contextlib import suppress


def _load() -> None:
    import pyarrow as pa
    import ray.data

    from malmoi.operators import exact

    from . import ahead, careful, decide, filtering, gather, split

    if ahead.compiled():  # to compile is not for here
        exact.text_hash(pa.array([""], pa.large_string()))  # the first kernel brings most of numba in


gc.disable()  # a fifth of the time
with suppress(Exception):  # the job that meets it tells it; here it would end the worker
    _load()
gc.freeze()
gc.enable()
