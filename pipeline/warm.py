"""Imported by each worker of a Ray of our own when it starts, while the run is still planned: the first job then finds
loaded what all jobs need."""

from pathlib import Path

import pyarrow as pa
import ray.data  # noqa: F401

from malmoi.operators import exact

from . import careful, decide, dropped, filtering, gather, scatter  # noqa: F401

if any(Path(exact.__file__).parent.glob("__pycache__/exact.*.nbi")):  # to compile is not for here
    exact.text_hash(pa.array([""], pa.large_string()))  # the first kernel brings most of numba in
