"""What the kernels change in numba: nothing but when scipy is imported."""

import subprocess
import sys

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
