"""Every row exactly once an epoch, in the same order, whoever reads it and wherever it stopped."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.pipeline.errors import ChangedError, MalmoiError
from malmoi.pipeline.manifest import Output
from malmoi.pipeline.storage import Folder
from malmoi.pipeline.token_manifest import TokenBook, TokenizerId, TokenManifest
from malmoi.training.reader import PackedReader, permutation

SEQ = 3


def make(folder, shards, *, labelled=False):
    """Rows whose first token is their number; row i has i % 3 documents more than one."""
    folder.mkdir(parents=True)
    outputs, done = [], 0
    for number, rows in enumerate(shards):
        ids = np.zeros((rows, SEQ), np.int32)
        ids[:, 0] = np.arange(done, done + rows)
        columns = {"input_ids": pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), SEQ)}
        if labelled:
            columns["labels"] = pa.FixedSizeListArray.from_arrays(pa.array(-ids.ravel()), SEQ)
        starts = [list(range(i % 3 + 1)) for i in range(done, done + rows)]
        columns["doc_starts"] = pa.array(starts, pa.list_(pa.int32()))
        name = f"shard-{number:05d}.parquet"
        pq.write_table(pa.table(columns), folder / name, row_group_size=256)
        outputs.append(Output(name, (folder / name).stat().st_size, "", rows, 0, rows * SEQ))
        done += rows
    total = done * SEQ
    book = TokenBook(done, done, {}, total, 0, total, {}, done, 0, total, total)
    kind = "sft" if labelled else "text"
    tokenizer = TokenizerId("t", "0" * 64, done, 0)
    TokenManifest(kind, SEQ, "concat", tokenizer, "x", "x", {}, {}, book, tuple(outputs)).save(
        Folder(str(folder))
    )
    return str(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """1,000 rows: six row groups in four shards, one of them empty."""
    return make(tmp_path_factory.mktemp("rows") / "tokens", [300, 256, 0, 444])


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return make(tmp_path_factory.mktemp("few") / "tokens", [7, 4])


def numbers(batches):
    return [x for batch in batches for x in batch.input_ids[:, 0].tolist()]


def some(reader, steps):
    source = iter(reader)
    found = [next(source) for _ in range(steps)]
    source.close()
    return found


def test_an_epoch(rows):
    reader = PackedReader(rows, seed=1, batch_rows=64, epochs=1)
    batches = list(reader)
    assert [len(batch.input_ids) for batch in batches] == [64] * 15 + [40]
    assert (batches[0].input_ids.dtype, batches[0].input_ids.shape) == (np.int32, (64, SEQ))
    assert batches[0].labels is None
    assert sorted(numbers(batches)) == list(range(1000))
    for batch in batches:
        assert [x.tolist() for x in batch.doc_starts] == [
            list(range(i % 3 + 1)) for i in batch.input_ids[:, 0].tolist()
        ]
    assert (reader.samples_seen, reader.rows) == (1000, 1000)


def test_seeds_and_epochs_have_their_own_order(rows):
    first, second = (numbers(PackedReader(rows, seed=s, batch_rows=50, epochs=2)) for s in (1, 2))
    assert first != second
    assert first[:1000] != first[1000:]
    assert sorted(first[1000:]) == sorted(second[:1000]) == list(range(1000))
    assert first == numbers(PackedReader(rows, seed=1, batch_rows=7, epochs=2, prefetch=0))
    near = np.abs(np.diff(first[:1000])) < 5
    assert near.mean() < 0.05, "neighbours are apart"
    plain = PackedReader(rows, batch_rows=100, epochs=1, shuffle=False)
    assert numbers(plain) == list(range(1000))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=5),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_elastic(few, runs, seed, window):
    """Runs of (world, batch_rows, steps), each going on where the one before stopped."""
    order = numbers(PackedReader(few, seed, 0, 1, 11, window=window, epochs=40, prefetch=0))
    state, done = None, []
    for world, batch_rows, steps in runs:
        ranks, states = [], []
        for rank in range(world):
            reader = PackedReader(few, seed, rank, world, batch_rows, window=window, prefetch=0)
            if state is not None:
                reader.load_state_dict(state)
            ranks.append([numbers([batch]) for batch in some(reader, steps)])
            states.append(reader.state_dict())
        assert all(x == states[0] for x in states)
        state = states[0]
        for step in range(steps):
            together = [x for rank in ranks for x in rank[step]]
            assert len(together) == world * batch_rows
            done += together
    assert done == order[: len(done)]
    assert state["samples_seen"] == len(done)
    for epoch in range(len(done) // 11):
        assert sorted(done[epoch * 11 : (epoch + 1) * 11]) == list(range(11))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_the_last_step_is_shared_out(few, world):
    readers = [PackedReader(few, 0, rank, world, 4, epochs=2) for rank in range(world)]
    batches = [list(reader) for reader in readers]
    assert len({len(x) for x in batches}) == 1, "all ranks have as many batches"
    assert sorted(x for one in batches for x in numbers(one)) == sorted([*range(11)] * 2)
    assert {x.samples_seen for x in readers} == {22}


def test_rows_held_out(rows):
    train = PackedReader(rows, last_row=900, batch_rows=100, epochs=1)
    held = PackedReader(rows, first_row=900, batch_rows=100, epochs=1)
    assert (train.rows, held.rows) == (900, 100)
    assert sorted(numbers(train)) == list(range(900))
    assert sorted(numbers(held)) == list(range(900, 1000))
    assert sorted(numbers(PackedReader(rows, first_row=290, last_row=310, batch_rows=20, epochs=1))) == list(
        range(290, 310)
    )
    with pytest.raises(MalmoiError, match="want rows in 0 <= first < last <= 1,000"):
        PackedReader(rows, last_row=1001)


def test_labels_and_torch(tmp_path):
    torch = pytest.importorskip("torch")
    reader = PackedReader(make(tmp_path / "t", [5], labelled=True), batch_rows=5, epochs=1)
    [batch] = reader
    assert (batch.labels == -batch.input_ids).all()
    tensors = batch.torch()
    assert tensors["labels"].dtype == tensors["input_ids"].dtype == torch.int64
    plain = some(PackedReader(make(tmp_path / "p", [5])), 1)[0].torch()
    assert torch.equal(plain["labels"], plain["input_ids"])


def test_a_thread_ends_with_its_iterator(rows):
    reader = PackedReader(rows, batch_rows=8)
    before = threading.active_count()
    for batch in reader:
        assert len(batch.input_ids) == 8
        break
    some(reader, 3)
    assert threading.active_count() == before
    assert reader.samples_seen == 32, "handed out, whatever was made ahead"


def test_seek(rows):
    reader = PackedReader(rows, seed=3, batch_rows=10, epochs=3)
    whole = numbers(reader)
    for place in (0, 10, 999, 1000, 1777, 2990, 3000):
        reader.seek(place)
        assert numbers(reader) == whole[place:]
    with pytest.raises(ValueError, match="got -1"):
        reader.seek(-1)


def test_memory_is_bounded(rows):
    """At most two windows of two row groups are held."""
    reader = PackedReader(rows, batch_rows=10, epochs=2, window=2, prefetch=0)
    for _ in reader:
        assert sum(len(batch.input_ids) for batch in reader._loaded.values()) <= 4 * 256


def test_a_state_of_others_is_refused(rows, few):
    state = PackedReader(rows, seed=1).state_dict()
    for other, said in (
        (PackedReader(few, seed=1), "tokens_hash was"),
        (PackedReader(rows, seed=2), "seed was 1 and is 2"),
        (PackedReader(rows, seed=1, window=1), "window was"),
        (PackedReader(rows, seed=1, last_row=500), "rows was"),
    ):
        with pytest.raises(ChangedError, match=said):
            other.load_state_dict(state)


def test_shards_that_changed(tmp_path, rows):
    shutil.copytree(rows, tmp_path / "t")
    path = tmp_path / "t/shard-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    with pytest.raises(ChangedError, match=r"shard-00001\.parquet: .* bytes, want"):
        PackedReader(str(tmp_path / "t"))
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(ChangedError, match=r"shard-00001\.parquet: cannot be read .*was it changed"):
        list(PackedReader(str(tmp_path / "t"), epochs=1))
    path.unlink()
    with pytest.raises(ChangedError, match=r"shard-00001\.parquet: missing"):
        PackedReader(str(tmp_path / "t"))
    with pytest.raises(MalmoiError, match="no finished rows"):
        PackedReader(str(tmp_path))


@pytest.mark.parametrize(("rank", "world", "batch_rows"), [(2, 2, 1), (-1, 1, 1), (0, 1, 0)])
def test_wrong_arguments(few, rank, world, batch_rows):
    with pytest.raises(ValueError, match="want"):
        PackedReader(few, 0, rank, world, batch_rows)


def test_the_order_is_ours():
    """No generator of NumPy: these figures must never change (raise reader.ORDER if they have to)."""
    assert permutation(8, 0, 0).tolist() == [0, 1, 6, 3, 5, 4, 2, 7]
    assert permutation(8, 7, 1, 2).tolist() == [3, 6, 0, 5, 1, 7, 4, 2]
    assert permutation(8, 2**63 - 1, 0).tolist() == [3, 0, 2, 4, 5, 1, 7, 6]
    assert permutation(10, 1, 0).tolist() != permutation(10, 1, 1).tolist()
    assert sorted(permutation(1000, 5, 2, 3).tolist()) == list(range(1000))
    first = np.array([permutation(10, seed, 0)[0] for seed in range(2000)])
    counts = np.bincount(first, minlength=10)
    assert counts.min() > 140, "each place is as likely"
    assert permutation(0, 1, 1).tolist() == []
