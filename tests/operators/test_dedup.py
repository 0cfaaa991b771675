"""Deduplication from text to verdict: what is removed is similar to what stays, in any order of documents."""

import random

import numpy as np
import pyarrow as pa
import pytest

from malmoi.operators.exact import id_hash, text_hash
from malmoi.operators.jaccard import jaccard, shingle_sets
from malmoi.operators.minhash import MinHash
from malmoi.operators.survivors import EXACT, FUZZY, STAYS, decide, rank

from .test_shingles import slow_ids

WORDS = [
    "모든",
    "국민은",
    "법률이",
    "정하는",
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "über",
    "den",
    "faulen",
    "Hund",
    "東京",
    "と",
    "京都",
    "ไทย",
    "good",
    "morning",
]


def corpus(seed):
    """Originals, edited copies of them, copies with other white space, short and empty ones."""
    chance = random.Random(seed)
    texts = ["", "  ", "😀", "one", "One.", "one two"]
    for _ in range(30):
        words = [chance.choice(WORDS) + str(chance.randrange(50)) for _ in range(chance.randrange(20, 120))]
        texts.append(" ".join(words))
        for _ in range(chance.randrange(5)):
            for _ in range(chance.choice([0, 1, 1, 2, 6])):
                words[chance.randrange(len(words))] = "changed"
            texts.append(chance.choice([" ", "\n"]).join(words))
    return {f"doc-{i}": text for i, text in enumerate(texts)}


def run(documents, model, max_bucket):
    table = pa.table(
        {
            "id": pa.array(list(documents), pa.large_string()),
            "text": pa.array(list(documents.values()), pa.large_string()),
        }
    )
    lo, hi = id_hash(pa.array(["s"] * table.num_rows, pa.large_string()), table.column("id"))
    numbers = {"id_lo": lo, "id_hi": hi, "length": np.array([len(t) for t in documents.values()])}
    order = rank(numbers, np.zeros(table.num_rows, np.int32), ("length",))
    bands = model(table).column("bands").combine_chunks()
    offsets, values = shingle_sets(table, model)
    result = decide(
        order,
        lambda left, right: jaccard(offsets, values, left, right),
        exact=text_hash(table),
        bands=model.band_hashes(model.signatures(table)),
        signed=bands.is_valid().to_numpy(zero_copy_only=False),
        threshold=model.threshold,
        max_bucket=max_bucket,
    )
    ids = list(documents)
    return {
        ids[i]: (ids[other] if other >= 0 else None, None if np.isnan(s) else float(s), int(kind))
        for i, (other, s, kind) in enumerate(
            zip(result.duplicate_of, result.similarity, result.kind, strict=True)
        )
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("model", "max_bucket"),
    [(MinHash(), 64), (MinHash(ngram="char", threshold=0.7), 64), (MinHash(ngram_size=1, threshold=0.6), 3)],
)
def test_what_goes_is_similar_to_what_stays_in_any_order(seed, model, max_bucket):
    documents = corpus(seed)
    got = run(documents, model, max_bucket)
    sets = {name: set(slow_ids(text, model.ngram, model.ngram_size)) for name, text in documents.items()}
    kinds = [kind for _, _, kind in got.values()]
    assert {STAYS, EXACT, FUZZY} == set(kinds)
    for name, (other, similarity, kind) in got.items():
        if kind == STAYS:
            assert other is None
            assert similarity is None
            continue
        assert got[other][2] == STAYS, "a survivor was removed"
        if kind == EXACT:
            assert documents[name].split() == documents[other].split()
            assert similarity == 1.0
        else:
            exact = len(sets[name] & sets[other]) / len(sets[name] | sets[other])
            assert similarity == pytest.approx(exact)
            assert exact >= model.threshold
    names = list(documents)
    random.Random(seed + 100).shuffle(names)
    assert run({name: documents[name] for name in names}, model, max_bucket) == got


def test_short_documents_are_neither_lost_nor_thrown_together():
    documents = {
        "a": "",
        "b": "\n",
        "c": "😀",
        "d": "🎉",
        "e": "one",
        "f": "One.",
        "g": "one two",
        "h": "가나",
    }
    got = run(documents, MinHash(), 64)
    stay = {name for name, (other, _, _) in got.items() if other is None}
    assert got["a"][0] == "b" or got["b"][0] == "a"
    assert {"c", "d", "g", "h"} <= stay, "without words, or of other words"
    assert len(stay & {"e", "f"}) == 1, "the same one word"
    assert got["e" if "f" in stay else "f"][1:] == (1.0, FUZZY)
