"""What the kernels change in numba: when scipy is imported, and where compiled code is kept."""

import subprocess
import sys

import numba
import numpy as np

from malmoi.operators.kernel import kernel

CODE = """
import sys
import numba, numpy as np, pyarrow as pa
from malmoi.operators.exact import text_hash
text_hash(pa.array(["말모이"], pa.large_string()))
assert "scipy.linalg" not in sys.modules
dot = numba.njit(lambda a, b: np.dot(a, b))
assert dot(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]])).tolist() == [[1.0, 2.0], [3.0, 4.0]]
"""


def test_numba_looks_for_blas_only_where_a_kernel_calls_it():
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=120)


def total(values):
    found = values[0] - values[0]
    for value in values:
        found += value
    return found


def test_who_compiles_at_the_same_time_keeps_its_own_code(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    made = kernel(total)
    with monkeypatch.context() as meanwhile:  # of two processes both read the index before one has written it
        meanwhile.setattr(made._cache._cache_file, "_load_index", dict)
        assert (made(np.ones(3, np.int64)), made(np.ones(3))) == (3, 3.0)
    assert len(list(tmp_path.rglob("*.nbc"))) == 2
    again = kernel(total)
    assert (again(np.ones(3)), again(np.ones(3, np.int64))) == (3.0, 3)
    assert again.stats.cache_hits  # what the index has lost is compiled again
