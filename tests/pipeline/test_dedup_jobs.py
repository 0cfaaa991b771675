"""Deduplication in partitions: the same verdicts for any number of them, and those of the operators alone."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from malmoi.operators.exact import id_hash, text_hash
from malmoi.operators.jaccard import jaccard, shingle_sets
from malmoi.operators.minhash import MinHash
from malmoi.operators.survivors import decide, rank
from malmoi.pipeline import batches, buckets, bundles, clusters, dedup, index, shuffle
from malmoi.pipeline.errors import AlarmError, MalmoiError, RecipeError
from malmoi.pipeline.storage import Folder

WORDS = ["모든", "국민은", "법률이", "the", "quick", "brown", "fox", "über", "Hund", "東京", "京都", "ไทย"]


def documents(seed, families, name):
    """Families of edited copies, exact copies, and what has no words."""
    chance = random.Random(seed)
    texts = ["😀", "😀", "각", "one two"]
    for _ in range(families):
        words = [chance.choice(WORDS) + str(chance.randrange(40)) for _ in range(chance.randrange(30, 90))]
        texts.append(" ".join(words))
        for _ in range(chance.choice([0, 1, 2, 9])):
            for _ in range(chance.choice([0, 1, 2, 3])):
                words[chance.randrange(len(words))] = "changed"
            texts.append(chance.choice([" ", "\n"]).join(words))
    return [{"id": f"{name}-{i:04d}", "text": text} for i, text in enumerate(texts)]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def recipe(path, part_bytes=20_000, **settings):
    fuzzy = {"threshold": 0.7, "bands": 16, "rows": 4, "num_perm": 64}
    source = {"name": "s", "path": str(path), "id": "id"}
    return {"sources": [source], "part_bytes": part_bytes, "dedup": {"fuzzy": fuzzy, **settings}}


def verdicts(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.glob("stages/decide/*.parquet"))}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write(tmp_path_factory.mktemp("in") / "a.jsonl", documents(1, 60, "a"))


def by_operators(path, max_bucket):
    """(id of the survivor or None, similarity) by id, from the operators alone."""
    import pyarrow as pa

    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    table = pa.table(
        {name: pa.array([row[name] for row in rows], pa.large_string()) for name in ("id", "text")}
    )
    model = MinHash(num_perm=64, bands=16, rows=4, threshold=0.7)
    lo, hi = id_hash(pa.array(["s"] * len(rows), pa.large_string()), table.column("id"))
    numbers = {"id_lo": lo, "id_hi": hi, "length": np.array([len(row["text"]) for row in rows])}
    signatures = model.signatures(table)
    sets = shingle_sets(table, model)
    found = decide(
        rank(numbers, np.zeros(len(rows), np.int32), ("length",)),
        lambda left, right: jaccard(*sets, left, right),
        exact=text_hash(table),
        bands=model.band_hashes(signatures),
        signed=(signatures != 0xFFFFFFFF).any(axis=1),
        threshold=0.7,
        max_bucket=max_bucket,
        max_rounds=64,
    )
    ids = [row["id"] for row in rows]
    return {
        ids[i]: (ids[other] if other >= 0 else None, float(s) if other >= 0 else None)
        for i, (other, s) in enumerate(zip(found.duplicate_of.tolist(), found.similarity, strict=True))
    }, found


def by_run(path):
    found = {}
    for part, file in enumerate(sorted(path.glob("stages/decide/*.verdict.parquet"))):
        ids = pq.read_table(path / f"stages/filter/part-{part:05d}.kept.parquet").column("id").to_pylist()
        rows = pq.read_table(file).to_pylist()
        found |= {i: (row["duplicate_of"], row["similarity"]) for i, row in zip(ids, rows, strict=True)}
    return found


@pytest.mark.parametrize("max_bucket", [64, 3])
def test_partitions_and_paths_change_nothing(tmp_path, texts, run_here, monkeypatch, max_bucket):
    monkeypatch.setattr(shuffle, "MAX_BUCKET", max_bucket)
    one = run_here(tmp_path / "one", recipe(texts))
    want, found = by_operators(texts, max_bucket)
    assert by_run(one.path) == want
    record = json.loads((one.path / "stages/decide/all.commit.json").read_text())
    assert record["rounds"]["verified"] == list(found.verified)
    assert record["rounds"]["removed"] == list(found.removed)
    assert (len(found.verified) > 1) == (max_bucket == 3), "several rounds with small buckets"
    monkeypatch.setattr(dedup, "DOCUMENTS_PER_GROUP", 50)
    many = run_here(tmp_path / "many", recipe(texts, partitions=5))
    assert verdicts(many.path) == verdicts(one.path)
    assert many.manifest.manifest_hash == one.manifest.manifest_hash
    monkeypatch.setattr(dedup, "MAX_EDGES", 0)
    monkeypatch.setattr(clusters, "BLOCK_DOCUMENTS", 50)
    stars = run_here(tmp_path / "stars", recipe(texts, partitions=3))
    assert verdicts(stars.path) == verdicts(one.path)
    rounds = json.loads((stars.path / "stages/decide/all.commit.json").read_text())["rounds"]
    assert 1 <= rounds["star_rounds"] <= 6


def test_earlier_pairs_are_not_read_once_a_partition(tmp_path, texts, run_here, monkeypatch):
    """A partition reads those that its large buckets may ask for; what all of them read does not grow with them."""
    monkeypatch.setattr(shuffle, "MAX_BUCKET", 3)
    real = bundles.read_bucket
    read = []

    def counted(folder, name, index, dtype):
        rows = real(folder, name, index, dtype)
        read.append(len(rows) if name.endswith(".known") else 0)
        return rows

    monkeypatch.setattr(bundles, "read_bucket", counted)
    totals, made = [], []
    for partitions in (1, 16, 64):
        read.clear()
        ran = run_here(tmp_path / str(partitions), recipe(texts, partitions=partitions))
        made.append(verdicts(ran.path))
        totals.append(sum(read))
    assert made[0] == made[1] == made[2]
    rounds = json.loads((ran.path / "stages/decide/all.commit.json").read_text())["rounds"]
    everything = int(np.cumsum(rounds["verified"]).sum())
    assert everything / 2 < totals[0] <= everything
    assert totals[2] < 1.5 * totals[1] < 64 * everything / 10


def test_a_stopped_decision_goes_on_from_its_files(tmp_path, texts, run_here, monkeypatch):
    want = verdicts(run_here(tmp_path / "whole", recipe(texts)).path)
    real, calls = shuffle.compare_partition, []

    def fails(folder, step):
        calls.append(step.index)
        if len(calls) == 2:
            raise MalmoiError("pulled the plug")
        return real(folder, step)

    monkeypatch.setattr(dedup, "compare_partition", fails)
    with pytest.raises(MalmoiError, match="pulled"):
        run_here(tmp_path / "run", recipe(texts, partitions=3))
    torn = next((tmp_path / "run/stages/verify").glob("r00-fetch-*.ids"))
    torn.write_bytes(torn.read_bytes()[:-8])
    monkeypatch.setattr(dedup, "compare_partition", real)
    ran = run_here(tmp_path / "run", recipe(texts, partitions=3))
    assert verdicts(ran.path) == want
    assert not list(ran.path.glob("stages/verify/*"))


def test_a_saved_index_gives_the_survivors_of_one_run(tmp_path, run_here):
    a = documents(1, 25, "a")
    b = documents(2, 25, "b") + [{**row, "id": "b" + row["id"]} for row in a[10::3]]
    for row in b[-12::2]:
        row["text"] = row["text"].replace("changed", "other", 1) + " tail"
    paths = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", a), ("b", b))}

    def source(name, priority=0):
        return {"name": name, "path": paths[name], "id": "id", "priority": priority}

    base = recipe("x", prefer=["priority", "quality", "length"])

    def run(name, sources, **settings):
        return run_here(tmp_path / name, {**base, "sources": sources, "dedup": {**base["dedup"], **settings}})

    together = run("ab", [source("a", 1), source("b")])
    first = run("first", [source("a", 1)], save_index=True, partitions=2)
    second = run("second", [source("b")], against=str(tmp_path / "first"), partitions=2)
    ids = {row["id"] for row in together.corpus}
    assert {row["id"] for row in first.corpus} | {row["id"] for row in second.corpus} == ids
    want = {row["id"]: (row["duplicate_of"], row["similarity"]) for row in together.dropped}
    got = {row["id"]: (row["duplicate_of"], row["similarity"]) for row in first.dropped + second.dropped}
    assert got == want
    [earlier] = second.manifest.dedup.earlier
    assert earlier.documents == len(first.corpus)
    assert earlier.matched > 5
    assert earlier.superseded == 0
    again = run("first2", [source("a", 1)], save_index=True)
    files = sorted(x.name for x in (tmp_path / "first/index").iterdir())
    assert files == ["index.json", "shard-00000.parquet"]
    assert {x.path for x in first.manifest.others} >= {f"index/{name}" for name in files}
    for name in files:
        assert (again.path / "index" / name).read_bytes() == (first.path / "index" / name).read_bytes()

    report = run("report", [source("b")], against=str(tmp_path / "first"), policy="report_only")
    alone = run("alone", [source("b")])
    assert [row["id"] for row in report.corpus] == [row["id"] for row in alone.corpus]
    assert report.manifest.dedup.earlier[0].matched == earlier.matched
    best = run("best", [source("b", 2)], against=str(tmp_path / "first"), policy="keep_best")
    assert best.manifest.dedup.earlier[0].matched == 0, "b stands above a"
    superseded = pq.read_table(best.path / "stages/decide/earlier.parquet").to_pylist()
    assert len(superseded) == best.manifest.dedup.earlier[0].superseded > 5
    assert {(row["is_new"], row["source"], row["duplicate_source"]) for row in superseded} == {
        (False, "a", "b")
    }
    with pytest.raises(RecipeError, match="another minhash scheme"):
        run("other", [source("b")], against=str(tmp_path / "first"), fuzzy={"threshold": 0.7})
    with pytest.raises(RecipeError, match="no saved index there"):
        run("none", [source("b")], against=str(tmp_path / "alone"))


def test_an_alarm_stops_the_run_and_a_warning_goes_on(tmp_path, texts, run_here, cli):
    settings = recipe(texts, alarm_share=0.1)
    settings["dedup"]["on_alarm"] = "stop"
    with pytest.raises(
        AlarmError, match=r"s lost \d+ of \d+ documents(.|\n)*largest clusters:\n  \d+ documents like a-"
    ):
        run_here(tmp_path / "run", settings)
    assert not (tmp_path / "run/manifest.json").exists()
    with pytest.raises(AlarmError, match="on_alarm=warn goes on"):
        run_here(tmp_path / "run", settings)
    settings["dedup"]["on_alarm"] = "warn"
    ran = run_here(tmp_path / "run", settings)
    assert [line for line in ran.manifest.dedup.alarms if line.startswith("alarm: s lost")]

    said = cli("duplicates", ran.path, "--least-sure", 4)
    assert said.code == 0
    assert "4 compared pairs nearest the threshold 0.7" in said.out
    assert "[-" in said.out
    assert "removed for a-" in said.out
    said = cli("duplicates", ran.path, "--clusters", 2)
    assert said.out.count("documents like a-") == 2
    shutil.rmtree(ran.path / "stages/decide")
    said = cli("duplicates", ran.path)
    assert said.code == 2
    assert "no compared pairs" in said.err


def test_files_of_many_jobs_are_read_in_bundles(tmp_path, texts, run_here, monkeypatch):
    """As many as fit are one file for those who read next, in each round; the verdicts are the same."""
    monkeypatch.setattr(shuffle, "MAX_BUCKET", 3)
    monkeypatch.setattr(dedup, "DOCUMENTS_PER_GROUP", 50)
    one = run_here(tmp_path / "one", recipe(texts, partitions=7))
    monkeypatch.setattr(batches, "MOST_PIECES", 1)
    real, opened = bundles.merge_files, Counter()

    def counted(folder, names, merged):
        opened[names[0].rsplit(".", 1)[1], len(names)] += 1
        return real(folder, names, merged)

    monkeypatch.setattr(bundles, "merge_files", counted)
    for merged_bytes in (2_000, 20_000, 2**30):
        monkeypatch.setattr(batches, "MERGED_BYTES", merged_bytes)
        many = run_here(tmp_path / f"many-{merged_bytes}", recipe(texts, partitions=7))
        assert verdicts(many.path) == verdicts(one.path)
    kinds = {kind for kind, _ in opened}
    assert kinds == {"rows", "pairs", "documents", "known", "sets", "signatures", "ids"}
    assert {size for kind, size in opened if kind == "pairs"} >= {2, 7}


def test_bundles_hold_what_the_files_held(tmp_path):
    folder, chance = Folder(str(tmp_path)), np.random.default_rng(3)
    files = []
    for number, rows in enumerate((40, 0, 7)):
        partition, values = chance.integers(0, 5, rows), chance.integers(0, 99, (rows, 3)).astype("<u4")
        buckets.write_buckets(folder, str(number), partition, values, 5)
        files.append([values[partition == p] for p in range(5)])
    buckets.merge_files(folder, ["0", "1", "2"], "all")
    for p in range(5):
        found = buckets.read_span(folder, "all", 3 * p, 3, np.dtype(("<u4", (3,))))
        assert [rows.tolist() for rows in found] == [file[p].tolist() for file in files]
    with pytest.raises(MalmoiError, match="not a bucket file"):
        buckets.read_span(folder, "all", 13, 3, np.dtype(("<u4", (3,))))


def test_bucket_files(tmp_path):
    folder = Folder(str(tmp_path))
    rows = np.arange(1000, dtype="<u8") * np.uint64(0x9E3779B97F4A7C15)
    partition = buckets.of_key(rows, 7)
    assert set(partition.tolist()) == set(range(7))
    buckets.write_buckets(folder, "x", partition, rows, 9)
    back = [buckets.read_bucket(folder, "x", p, rows.dtype) for p in range(9)]
    assert [len(x) for x in back[7:]] == [0, 0]
    for p, found in enumerate(back):
        np.testing.assert_array_equal(found, rows[partition == p])
    with pytest.raises(MalmoiError, match="not a bucket file"):
        buckets.read_bucket(folder, "x", 9, rows.dtype)
    (tmp_path / "y").write_bytes((tmp_path / "x").read_bytes()[:-8])
    with pytest.raises(MalmoiError, match="ends early"):
        buckets.read_bucket(folder, "y", 6, rows.dtype)
    with pytest.raises(MalmoiError, match="cannot be read"):
        buckets.read_bucket(folder, "z", 0, rows.dtype)


def test_settling_more_rounds_than_allowed_is_told(tmp_path, texts, run_here, monkeypatch):
    monkeypatch.setattr(clusters, "MAX_STARS", 1)
    monkeypatch.setattr(dedup, "MAX_EDGES", 0)
    with pytest.raises(MalmoiError, match="not found within 1 rounds"):
        run_here(tmp_path / "run", recipe(texts))


def test_containment_removes_an_excerpt(tmp_path, run_here):
    words = [f"단어{i}" for i in range(200)]
    rows = [{"id": "long", "text": " ".join(words)}, {"id": "part", "text": " ".join(words[:120])}]
    path = write(tmp_path / "in.jsonl", rows)
    fuzzy = {"threshold": 0.9, "bands": 32, "rows": 2, "num_perm": 64}
    settings = {**recipe(path), "dedup": {"fuzzy": fuzzy}}
    assert len(run_here(tmp_path / "j", settings).corpus) == 2
    settings["dedup"]["fuzzy"] = {**fuzzy, "measure": "containment"}
    ran = run_here(tmp_path / "c", settings)
    assert [row["id"] for row in ran.corpus] == ["long"]
    assert ran.dropped[0]["similarity"] == 1.0


@pytest.mark.ray
def test_ray_gives_the_same_bytes(tmp_path, texts, run_here, ray_here, monkeypatch):
    from rich.console import Console

    from malmoi.pipeline.config import parse_recipe
    from malmoi.pipeline.plan import make_plan
    from malmoi.pipeline.run import run_plan

    here = run_here(tmp_path / "here", recipe(texts, save_index=True))
    monkeypatch.setattr(dedup, "MAX_EDGES", 0)
    made = parse_recipe(
        {"name": "test", **recipe(texts, save_index=True, partitions=3), "output": str(tmp_path / "ray")}
    )
    manifest = run_plan(make_plan(made), console=Console(quiet=True))
    assert verdicts(tmp_path / "ray") == verdicts(here.path)
    assert manifest.manifest_hash == here.manifest.manifest_hash


def test_long_documents_make_more_groups_and_shards(tmp_path, texts, run_here, monkeypatch):
    """What one job holds is bounded by text, not only by the number of documents."""
    groups, real = [], dedup._groups

    def noted(*arguments):
        groups.append(real(*arguments))
        return groups[-1]

    monkeypatch.setattr(dedup, "_groups", noted)
    settings = recipe(texts, save_index=True, part_bytes=5_000)
    want = run_here(tmp_path / "whole", settings)
    monkeypatch.setattr(dedup, "TEXT_PER_GROUP", 20_000)
    monkeypatch.setattr(index, "SHARD_TEXT", 20_000)
    cut = run_here(tmp_path / "cut", settings)
    assert verdicts(cut.path) == verdicts(want.path)
    few, many = groups
    assert len(few) == 1
    size = Path(texts).stat().st_size
    assert size / 40_000 < len(many) <= size / 15_000
    assert [group[0].first for group in many[1:]] == [group[-1].end for group in many[:-1]]
    assert [piece.file for group in many for piece in group] == [*range(len(few[0]))]
    shards = [sorted(run.path.glob("index/shard-*")) for run in (want, cut)]
    assert (len(shards[0]), len(shards[1])) == (1, -(-cut.manifest.books[1].read_bytes // 20_000))
    ids = [sorted(x for file in files for x in pq.read_table(file)["id"].to_pylist()) for files in shards]
    assert ids[0] == ids[1] == sorted(row["id"] for row in want.corpus)


def versions(seed):
    """Three texts, the middle one like both others, these not like each other; the middle one is the longest."""
    chance = random.Random(seed)
    words = [f"{chance.choice(WORDS)}{i}" for i in range(100)]
    left, right = words[:], words[:]
    left[3:8], right[60:65] = ["x"] * 4, ["y"] * 4
    return " ".join(left), " ".join(words), " ".join(right)


def chained(tmp_path, run_here, policy, texts, rows=2):
    """`c`, run against an index of `a` and one of `b`, which do not know each other; what goes, and for whom."""
    for name, text in zip("abc", texts, strict=True):
        write(tmp_path / f"{name}.jsonl", [{"id": name, "text": text}])
    fuzzy = {"threshold": 0.8, "bands": 64 // rows, "rows": rows, "num_perm": 64}

    def run(name, **settings):
        made = {**recipe(tmp_path / f"{name}.jsonl"), "dedup": {"fuzzy": fuzzy, **settings}}
        return run_here(tmp_path / name, made)

    for name in "ab":
        run(name, save_index=True)
    ran = run("c", against=[str(tmp_path / "a"), str(tmp_path / "b")], policy=policy)
    return ran, {row["id"]: row["duplicate_of"] for row in ran.dropped}


def test_what_an_earlier_run_kept_stays(tmp_path, run_here):
    """`b` is like `a`, but its run kept it: what is like it is a duplicate, though not like `a`."""
    ran, gone = chained(tmp_path, run_here, "keep_old", versions(1))
    assert gone == {"c": "b"}
    assert [index.matched for index in ran.manifest.dedup.earlier] == [0, 1]


def test_all_compete_whatever_bucket_they_share(tmp_path, run_here):
    """`b` is the best and like `a`, so `a` does not stand; `c` is like `a` alone and stays, as in one run of all.
    `c` has no band in common with `b`, so `a` and `b` meet in buckets of their own."""
    left, middle, right = versions(1)
    _, gone = chained(tmp_path, run_here, "keep_best", (middle, left + " much" + "longer" * 9, right), rows=8)
    assert not gone
