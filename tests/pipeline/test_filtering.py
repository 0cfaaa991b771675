"""The steps of a batch: what an operator of a user's breaks is said with its name."""

import platform
import resource
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from malmoi.operators import GopherQuality, Normalise
from malmoi.operators.contract import DROP
from malmoi.operators.diversity import sample_rows
from malmoi.operators.exact import id_hash
from malmoi.pipeline import spread
from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.filtering import align, apply_steps, keep_memory

TABLE = pa.table(
    {name: pa.array(values, pa.large_string()) for name, values in
     {"id": ["a", "b"], "source": ["s", "s"], "text": ["말모이", ""]}.items()}
)  # fmt: skip


@dataclass(frozen=True)
class Broken:
    """Does to the table what it is told."""

    act: Any = field(default=None)
    name = "broken"
    version = 1
    kind = "judge"
    reference = "a test"
    needs = ("text",)
    adds = pa.schema([("broken.signal", pa.float64())])

    def __call__(self, table: pa.Table) -> pa.Table:
        return self.act(table)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda t: t.slice(1), "step broken: got 2 rows and returned 1; missing columns: broken.signal"),
        (lambda t: t, "missing columns: broken.signal. An operator returns"),
        (lambda t: t.drop_columns(["text"]), "missing columns: text, broken.signal"),
        (lambda t: {}["x"], r"step broken: KeyError: 'x' \(documents: 'a' and 1 more\)"),
    ],
    ids=["a row gone", "no signal", "text gone", "an error"],
)
def test_a_broken_operator_is_named(act: Any, message: str) -> None:
    with pytest.raises(MalmoiError, match=message):
        apply_steps(TABLE, (Normalise(), Broken(act)))


def test_steps_keep_rows_and_end_with_a_drop_column() -> None:
    assert apply_steps(TABLE, ()).column(DROP).to_pylist() == [None, None]
    done = apply_steps(TABLE, (Normalise(), GopherQuality()))
    assert done.column("id").to_pylist() == ["a", "b"]
    assert done.column(DROP).to_pylist() == ["gopher_quality.words"] * 2


def test_sources_get_the_same_columns() -> None:
    extras = pa.schema([("n", pa.float64()), ("url", pa.large_string())])
    table = align(TABLE.append_column("n", pa.array([1, 2**60 + 1])), extras)
    assert table.column_names == ["id", "source", "text", "n", "url"]
    assert table.column("n").to_pylist() == [1.0, 2.0**60]
    assert table.column("url").null_count == 2


@pytest.mark.parametrize("rows", [1, 7, 60, 200])
def test_a_sample_does_not_depend_on_the_batches(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "SAMPLE_BYTES", 500)
    monkeypatch.setattr(spread, "_LOOSE_BYTES", 1000)
    texts = ["말모이 " * (n * n % 17) + "x" * (600 * (n % 9 == 0)) for n in range(200)]
    values = [[str(n) for n in range(200)], ["s"] * 200, texts]
    table = pa.table([pa.array(some, pa.large_string()) for some in values], names=["id", "source", "text"])
    hashes, _ = id_hash(table.column("source"), table.column("id"))
    wanted = [texts[row] for row in sample_rows(hashes, pc.binary_length(table["text"]).to_numpy(), 500)]
    gathered = spread.Spread()
    for start in range(0, 200, rows):
        gathered.add(table.slice(start, rows))
    assert spread._smallest(gathered.sample).column("text").to_pylist() == wanted
    assert gathered.sample.nbytes < 5000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_of_a_batch_is_there_for_the_next() -> None:
    keep_memory()
    faults = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        held = [np.ones(3 * 1024**2, np.uint8) for _ in range(10)]
        del held
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults) < 1000  # of 7,680 pages
