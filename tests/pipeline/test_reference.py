"""Whole runs against a slow reference that knows the documentation only: every verdict, survivor, similarity and
epoch, the order of the corpus and the books."""

from __future__ import annotations

import json
import random
import unicodedata
from collections import Counter
from functools import partial
from typing import Any

import pyarrow.parquet as pq
import pytest

from malmoi.pipeline.api import Result

from .reference import (
    Document,
    Removed,
    best_first,
    deduplicate,
    epochs,
    normalise,
    order_key,
)

SEED = 7
PRIORITY = {"가": 0, "b": 1, "c": 0}
TEXTS = [
    "말모이는 조선어학회가 엮으려던 우리말 사전이다. 그 원고는 빛을 보지 못하였으나, 사람들이 말을 모아 다시 엮었다.",
    "The dictionary was a gathering of words, which people of the whole country had sent to the society by post.",
    "Das Wörterbuch war eine Sammlung von Wörtern, die Menschen aus dem ganzen Land an die Gesellschaft schickten.",
    "辞書は全国の人々が学会に送った言葉の集まりであった。原稿は数年間失われていたが、駅の倉庫で見つかった。",
]
ODD = [
    "",
    " \n",
    "\u200b",
    "😀👩‍👩‍👧‍👦",
    "one",
    "One.",
    "one two",
    "가",
    "가 나",
    "e\u0301",
    "\ufeff말",
    "…",
    "12 34",
    "x\u2028y",
]
ALL_PAIRS = {"bands": 112, "rows": 1}  # a band for each value: what is alike at all shares one


def texts(seed: int) -> list[str]:
    """Odd ones; of each text other forms of it, and chains in which each is a small change of the one before."""
    chance, found = random.Random(seed), [*ODD]
    for text in TEXTS:
        found += [
            text,
            unicodedata.normalize("NFD", text),
            text.replace(" ", "\r\n"),
            f"{text}\x00 ",
            text.upper(),
        ]
        found += [f"{text} {text}", text.replace("a", "a\u200b"), "\ufeff" + text.replace(" ", "\u3000")]
        for _ in range(3):
            pieces = list(text) if " " not in text else text.split()
            chance.shuffle(pieces)
            for step in range(8):
                found.append(("" if " " not in text else " ").join(pieces))
                pieces[chance.randrange(len(pieces))] = f"말{step}"
    return found


def written(folder, seed: int, names: dict[str, str]) -> tuple[list[dict[str, Any]], list[Document]]:
    """(sources of a recipe, what is in them): some texts in several sources, some documents under one id."""
    chance, sources, documents = random.Random(seed), [], []
    for source, name in names.items():
        sources.append({"name": source, "path": f"{name}.jsonl", "id": "id", "priority": PRIORITY[name]})
        lines, ids = [], set()
        for place, text in enumerate(texts(seed % 4)):
            if chance.random() < 0.6:
                id, quality = (
                    f"d{place // 2 * 2 if place % 9 == 0 else place}",
                    chance.choice([0.5, 1.0, 2, None]),
                )
                record = {"id": id, "text": text, "q": quality, "site": f"s{place % 3}"}
                lines.append(json.dumps(record, ensure_ascii=chance.random() < 0.5))
                if id not in ids:
                    number = float("nan") if quality is None else float(quality)
                    documents.append(Document(source, id, normalise(text), number, PRIORITY[name]))
                ids.add(id)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sources, documents


def checked(ran, documents: list[Document], removed: dict[Any, Removed], copies: dict[Any, int]) -> None:
    """Nothing differs between the run and what is expected of it."""
    fates = {(row["source"], row["id"]): row for row in ran.dropped}
    assert {key for key, row in fates.items() if "dedup" in row["drop"]} == removed.keys()
    for key, wanted in removed.items():
        row = fates[key]
        assert (row["duplicate_source"], row["duplicate_of"]) == wanted.survivor, key
        assert row["similarity"] == pytest.approx(wanted.similarity, rel=1e-6), key
        assert row["drop"] == ("exact_dedup.duplicate" if wanted.exact else "fuzzy_dedup.duplicate"), key
    assert {key for key, row in fates.items() if row["drop"] == "mixture.not_chosen"} == {
        key for key, count in copies.items() if not count
    }
    order = sorted((order_key(key, n, SEED), key, n) for key, count in copies.items() for n in range(count))
    assert [((row["source"], row["id"]), row["epoch"]) for row in ran.corpus] == [row[1:] for row in order]
    assert {(row["source"], row["id"]): row["text"] for row in [*ran.corpus, *ran.dropped]} == {
        document.key: document.text for document in documents
    }
    dedup, mixture = ran.manifest.books[1:3]
    assert (dedup.kept + len(removed), dedup.quarantined) == (len(documents), len(ran.quarantine))
    assert (mixture.read, mixture.kept) == (len(copies), sum(count > 0 for count in copies.values()))
    told = Result.load(str(ran.path))
    assert told.reasons() == dict(Counter(row["drop"] for row in ran.dropped))
    for key in random.Random(SEED).sample(sorted(fates), 5):
        why = str(told.why(key[1], key[0]))
        assert f"not in the corpus: {fates[key]['drop']}" in why
        if key in removed:
            assert f"survivor: {removed[key].survivor[1]} (source {removed[key].survivor[0]})" in why


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # dedup, its fuzzy, mixture
    "words": ({}, {}, {"method": "as_is"}),
    "priority": (
        {"prefer": ["priority", "quality"], "quality": "q"},
        {"ngram_size": 2, "threshold": 0.5},
        {"method": "unimax", "max_epochs": 2.5, "by": "site"},
    ),
    "chars": (
        {"prefer": ["length"]},
        {"ngram": "char", "ngram_size": 4, "threshold": 0.7},
        {"method": "temperature", "temperature": 3.0, "max_epochs": 0.7, "by": "site", "unit": "documents"},
    ),
    "containment": (
        {"prefer": []},
        {"measure": "containment", "ngram_size": 3},
        {"method": "given", "weights": {"가": 0.1, "b": 0.2, "c": 0.3}, "max_epochs": 3.0},
    ),
    "budget": (
        {"partitions": 3},
        {"ngram_size": 1, "threshold": 0.6},
        {"method": "unimax", "max_epochs": 1.3, "budget": 31, "unit": "documents"},
    ),
    "quality": (
        {"quality": "q"},
        {"threshold": 0.9},
        {"method": "as_is", "budget": 1500, "choose": "quality", "quality": "q", "by": "site"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_verdict_is_that_of_the_reference(tmp_path, run_here, name):
    dedup, fuzzy, mixture = CASES[name]
    sources, documents = written(tmp_path, len(name), {source: source for source in PRIORITY})
    recipe = {
        "seed": SEED,
        "sources": sources,
        "part_bytes": 4000,
        "steps": [{"normalise": {}}],
        "dedup": {**dedup, "fuzzy": {**ALL_PAIRS, **fuzzy}},
        "mixture": mixture,
    }
    ran = run_here(tmp_path / "run", recipe, base=tmp_path)
    prefer = dedup.get(
        "prefer", ("quality", "length", "priority") if "quality" in dedup else ("length", "priority")
    )
    removed = find(best_first(documents, prefer), fuzzy)
    site = {(row["source"], row["id"]): row["site"] for row in [*ran.corpus, *ran.dropped]}
    left = [document for document in documents if document.key not in removed]
    group = (lambda document: site[document.key]) if "by" in mixture else (lambda document: document.source)
    checked(ran, documents, removed, epochs(left, group, SEED, mixture))


def find(order: list[Document], fuzzy: dict[str, Any], old: int = 0) -> dict[Any, Removed]:
    settings = {"ngram": "word", "ngram_size": 5, "measure": "jaccard", "threshold": 0.8} | fuzzy
    return deduplicate(order, *(settings[x] for x in ("ngram", "ngram_size", "measure", "threshold")), old)


@pytest.mark.parametrize("policy", ["keep_old", "keep_best", "report_only"])
def test_earlier_runs(tmp_path, run_here, policy):
    """Two earlier runs, of which the first comes first, or all compete, or nothing changes."""
    fuzzy, prefer = {"ngram_size": 3, "threshold": 0.6}, ("priority", "length")
    best = partial(best_first, prefer=prefer)
    earlier: list[Document] = []
    for crawl in ("x", "y", "z"):
        folder = tmp_path / crawl
        folder.mkdir()
        sources, documents = written(folder, ord(crawl), {f"{crawl}{name}": name for name in ("b", "c")})
        dedup = {"prefer": prefer, "fuzzy": {**ALL_PAIRS, **fuzzy}, "save_index": crawl != "z"}
        if crawl == "z":
            dedup |= {"against": [str(tmp_path / "x/run"), str(tmp_path / "y/run")], "policy": policy}
        recipe = {"seed": SEED, "sources": sources, "steps": [{"normalise": {}}], "dedup": dedup}
        ran = run_here(folder / "run", recipe, base=folder)
        if crawl != "z":
            alone = find(best(documents), fuzzy)
            earlier += [document for document in best(documents) if document.key not in alone]
    with_old = find([*earlier, *best(documents)], fuzzy, len(earlier))
    if policy == "keep_old":
        found = with_old
    else:
        found = find(best([*documents, *earlier] if policy == "keep_best" else documents), fuzzy)
    old = {document.key for document in earlier}
    removed = {key: row for key, row in found.items() if key not in old}
    left = [document for document in documents if document.key not in removed]
    checked(ran, documents, removed, dict.fromkeys((document.key for document in left), 1))
    named = with_old if policy == "report_only" else found
    listed = pq.read_table(tmp_path / "z/run/stages/decide/earlier.parquet").to_pylist()
    assert {(row["source"], row["id"]): (row["duplicate_source"], row["duplicate_of"]) for row in listed} == {
        key: row.survivor for key, row in named.items() if (key in old) != (row.survivor in old)
    }
