"""Every token exactly once, whatever the batches; the packing against an obvious one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.packing import IGNORE, Carry, best_fit, concat, pad

EOS, BOS, PAD = 0, 1, 2
DOCUMENTS = st.lists(st.integers(0, 12), max_size=30)


def made(lengths):
    """Documents with ids that are all different, from 10 on."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.arange(10, 10 + offsets[-1], dtype=np.int32), offsets


def stream(ids, offsets, before, after):
    """The obvious concatenation, and where documents begin."""
    out, starts = [], []
    for begin, end in itertools.pairwise(offsets):
        piece = [before] * (before is not None) + ids[begin:end].tolist() + [after] * (after is not None)
        if piece:
            starts.append(len(out))
        out += piece
    return out, starts


def row_starts(rows):
    return [rows.starts[a:b].tolist() for a, b in zip(rows.first, rows.first[1:], strict=False)]


@settings(deadline=None, max_examples=150)
@given(DOCUMENTS, st.integers(1, 9), st.booleans(), st.booleans(), st.integers(1, 7))
def test_concat_however_it_is_cut(lengths, seq_len, bos, eos, step):
    before, after = BOS if bos else None, EOS if eos else None
    ids, offsets = made(lengths)
    whole, starts = stream(ids, offsets, before, after)
    carry, rows, places = Carry(), [], []
    for at in range(0, len(lengths), step):
        some = offsets[at : at + step + 1]
        part, carry = concat(
            ids[some[0] : some[-1]], some - some[0], seq_len, carry, before=before, after=after
        )
        assert part.fill == 1.0
        assert part.tokens == part.input_ids.size
        rows += part.input_ids.tolist()
        places += row_starts(part)
    full = len(whole) // seq_len
    assert rows == [whole[i * seq_len : (i + 1) * seq_len] for i in range(full)]
    assert carry.ids.tolist() == whole[full * seq_len :]
    wanted = [
        sorted({0, *(x - i * seq_len for x in starts if i * seq_len <= x < (i + 1) * seq_len)})
        for i in range(full)
    ]
    assert places == wanted
    last = pad(carry, seq_len, PAD)
    assert len(last.input_ids) == (len(carry.ids) > 0)
    if len(carry.ids):
        assert last.input_ids[0].tolist() == carry.ids.tolist() + [PAD] * (seq_len - len(carry.ids))
        assert last.labels[0].tolist() == carry.ids.tolist() + [IGNORE] * (seq_len - len(carry.ids))
        assert row_starts(last)[0] == sorted(
            {0, *(x - full * seq_len for x in starts if x >= full * seq_len)}
        )


def slow_best_fit(lengths, size):
    """Rooms of the rows, by best-fit decreasing as one would write it first."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fits = [room for room in rooms if room >= length]
        if fits:
            rooms.remove(min(fits))
            rooms.append(min(fits) - length)
        else:
            rooms.append(size - length)
    return sorted(rooms)


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 40).flatmap(lambda s: st.tuples(st.just(s), st.lists(st.integers(1, s), max_size=60))))
def test_best_fit(case):
    seq_len, lengths = case
    ids, offsets = made(lengths)
    labels = np.where(ids % 3 == 0, IGNORE, ids).astype(np.int32)
    rows = best_fit(ids, labels, offsets, seq_len, PAD)
    flat, flat_labels = rows.input_ids.ravel(), rows.labels.ravel()
    assert sorted(flat[flat != PAD].tolist()) == ids.tolist()
    assert rows.tokens == len(ids)
    assert (flat_labels[flat == PAD] == IGNORE).all()
    assert (flat_labels[flat != PAD] == np.where(flat % 3 == 0, IGNORE, flat)[flat != PAD]).all()
    assert rows.fill == (len(ids) / flat.size if flat.size else 1.0)
    assert (np.diff(rows.input_ids[:, 0]) > 0).all(), "rows are in the order of their first examples"
    rooms = sorted((rows.input_ids == PAD).sum(axis=1).tolist())
    assert rooms == slow_best_fit(lengths, seq_len)
    whole = {tuple(ids[a:b].tolist()) for a, b in itertools.pairwise(offsets)}
    for row, starts in zip(rows.input_ids.tolist(), row_starts(rows), strict=True):
        assert starts[0] == 0
        ends = [*starts[1:], next((i for i, x in enumerate(row) if x == PAD), seq_len)]
        pieces = [tuple(row[a:b]) for a, b in zip(starts, ends, strict=True)]
        assert set(pieces) <= whole
        whole -= set(pieces)
    assert not whole


def test_one_row_each():
    ids, offsets = made([3, 1, 2])
    rows = best_fit(ids, ids, offsets, 4, PAD, pack=False)
    assert rows.input_ids.tolist() == [[10, 11, 12, PAD], [13, PAD, PAD, PAD], [14, 15, PAD, PAD]]
    assert row_starts(rows) == [[0], [0], [0]]


def test_the_fill_of_many():
    lengths = np.random.default_rng(1).lognormal(5, 1, 20_000).astype(np.int64).clip(1, 2048)
    ids, offsets = made(lengths)
    assert best_fit(ids, ids, offsets, 2048, PAD).fill > 0.99


@pytest.mark.parametrize("lengths", [[0], [5], [3, 0]])
def test_examples_that_cannot_be(lengths):
    ids, offsets = made(lengths)
    with pytest.raises(ValueError, match="want 1 to 4"):
        best_fit(ids, ids, offsets, 4, PAD)


def test_nothing():
    ids, offsets = made([])
    rows, carry = concat(ids, offsets, 4, Carry(), before=None, after=EOS)
    assert rows.input_ids.shape == (0, 4)
    assert len(carry.ids) == 0
    assert pad(carry, 4, PAD).input_ids.shape == best_fit(ids, ids, offsets, 4, PAD).input_ids.shape == (0, 4)
