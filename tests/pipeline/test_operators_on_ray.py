"""Every operator is a function for `ray.data.Dataset.map_batches`, and gives there what it gives on a table."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pytest

from malmoi.operators import OPERATORS
from malmoi.operators.contract import DROP

TEXTS = [
    "",
    "말모이는 주시경이 엮은 첫 국어 사전의 이름이다. 뜻은 말을 모은 것이다.",
    unicodedata.normalize("NFD", "한글 맞춤법 통일안은 1933년에 나왔다."),
    "The dictionary is a list of words and of what they mean, and it was never printed.\r\nIt was lost.",
    "単語 and 말 mixed 在一起的文字, with numbers 1, 2 and 3.",
    "😀😀 🎉",
    "the same line\n" * 40,
    "lorem ipsum { javascript } " * 9,
]


@pytest.fixture(scope="module")
def table():
    rows = TEXTS * 5
    return pa.table(
        {
            "id": pa.array([str(i) for i in range(len(rows))], pa.large_string()),
            "source": pa.array(["s"] * len(rows), pa.large_string()),
            "text": pa.array(rows, pa.large_string()),
            "language": pa.array(
                [["en", "ko", None, "de"][i % 4] for i in range(len(rows))], pa.large_string()
            ),
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every operator of the catalogue with its defaults."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "a": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return {
        name: made(tokenizer=str(path)) if name == "token_count" else made()
        for name, made in OPERATORS.items()
    }


@pytest.mark.parametrize("name", OPERATORS)
def test_on_a_table(table, made, name):
    operator = made[name]
    whole = operator(table)
    assert whole.num_rows == table.num_rows
    assert set(whole.column_names) - set(table.column_names) - {DROP} <= set(operator.adds.names)
    for field in operator.adds:
        assert whole.schema.field(field.name).type == field.type
    assert operator(table.slice(0, 0)).schema == whole.schema
    pieces = [operator(table.slice(start, 3)) for start in range(0, table.num_rows, 3)]
    assert same(pa.concat_tables(pieces), whole)


@pytest.mark.ray
@pytest.mark.parametrize("name", OPERATORS)
def test_in_map_batches(table, made, ray_here, name):
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    operator = made[name]
    blocks = [table.slice(0, 11), table.slice(11, 1), table.slice(12)]
    mapped = ray.data.from_arrow(blocks).map_batches(operator, batch_format="pyarrow", batch_size=7)
    got = pa.concat_tables(ray.get(mapped.to_arrow_refs()), promote_options="permissive")
    assert same(got, operator(table))


def same(got: pa.Table, want: pa.Table) -> bool:
    """Equal rows by id; NaN equals NaN, and Ray may widen a column of nulls."""
    assert set(got.column_names) == set(want.column_names)
    got = got.select(want.column_names).cast(want.schema)
    order = pa.compute.sort_indices(got["id"]), pa.compute.sort_indices(want["id"])
    one, other = got.take(order[0]).to_pylist(), want.take(order[1]).to_pylist()
    assert repr(one) == repr(other)
    return True
