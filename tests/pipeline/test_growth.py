"""What is done for very many parts, files, sources and shards: counted, as none of it shows in small runs."""

import difflib
import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from malmoi.operators.candidates import distinct
from malmoi.pipeline import spread
from malmoi.pipeline.identity import MOST_INPUTS, differences
from malmoi.pipeline.manifest import Book, Dedup, Group, Loss, Manifest, Mixture, Output
from malmoi.pipeline.report import print_summary
from malmoi.pipeline.spread import Spread, text_figures
from malmoi.pipeline.storage import Folder


@pytest.fixture
def opened(monkeypatch):
    """The names that are opened for reading in any folder."""
    names = []
    real = Folder.open

    def counted(self, name, **settings):
        names.append(name)
        return real(self, name, **settings)

    monkeypatch.setattr(Folder, "open", counted)
    return names


@pytest.mark.parametrize(
    "values", [[], [3], [3, 3, 3], [9, 1, 9, 2**40, 1], np.array([7, 7, 0], "<u4"), np.zeros(0, np.uint64)]
)
def test_distinct_numbers(values):
    found = distinct(np.asarray(values))
    assert found.tolist() == np.unique(values).tolist()
    assert found.dtype == np.asarray(values).dtype


def identity(files, **more):
    return {"inputs": [{"file": name, "bytes": size} for name, size in files.items()], "seed": 0, **more}


FILES = {f"하나/{i:06d}.jsonl": i for i in range(20_000)}


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (identity(FILES, seed=1), ['- "seed": 0', '+ "seed": 1']),
        (identity({**FILES, "하나/000077.jsonl": 5}), ['-   "bytes": 77,', '+   "bytes": 5,']),
        (identity({**FILES, "new.jsonl": 5}), ['+   "file": "new.jsonl"']),
        (identity({name: i + 1 for name, i in FILES.items()}), ["20,000 input files differ"]),
        (identity(dict(reversed(FILES.items()))), ["the input files are in another order"]),
        (identity(FILES), None),
    ],
)
def test_a_comparison_shows_what_differs_and_compares_little(monkeypatch, now, told):
    compared = []
    real = difflib.unified_diff

    def counted(a, b, *names, **settings):
        compared.append(len(a) + len(b))
        return real(a, b, *names, **settings)

    monkeypatch.setattr(difflib, "unified_diff", counted)
    lines = differences(identity(FILES), now)
    assert set(told or []) <= set(lines), lines[-20:]
    assert bool(lines) == (told is not None)
    assert sum(compared) <= 2 * 5 * (MOST_INPUTS + 5)


def samples(folder, jobs):
    """Jobs of two documents each."""
    counts = []
    for job in range(jobs):
        one = Spread()
        texts = [f"글 {job} {i} " * 100 for i in range(2)]
        ids = [f"{job}-{i}" for i in range(2)]
        one.add(pa.table({"id": ids, "source": ["s", "s"], "text": pa.array(texts, pa.large_string())}))
        counts.append({**one.counts, "files": [one.write(folder, f"{job}.sample.parquet")]})
    return counts


@pytest.mark.parametrize("jobs", [0, 1, 40, 160])
def test_the_sample_of_many_jobs_is_read_from_few(tmp_path, monkeypatch, opened, jobs):
    monkeypatch.setattr(spread, "SAMPLE_BYTES", 10_000)
    folder = Folder(str(tmp_path))
    counts = samples(folder, jobs)
    opened.clear()
    found = text_figures(folder, counts)
    assert len(opened) <= 10_000 // 900 + spread.READERS
    without = [{key: value for key, value in one.items() if key != "smallest"} for one in counts]
    opened.clear()
    assert text_figures(folder, without) == found, "as if all were read"
    assert len(opened) == jobs


def test_a_summary_of_hundreds_of_sources_can_be_read():
    names = [f"source-{i:03d}" for i in range(500)]
    losses = tuple(Loss(name, 10, 9, 0) for name in names)
    notes = tuple(f"{name}: wants more than it has" for name in names)
    manifest = Manifest(
        "m", {}, {}, {}, {}, (Book("write", 1, 1, {}, 0, rows=1),), (), (Output("corpus/a", 0, "0", 1),)
    )  # fmt: skip
    out = io.StringIO()
    print_summary(
        replace(
            manifest,
            sources=tuple(Group(name, read=1) for name in names),
            languages=tuple(Group(name, read=1) for name in names[:200]),
            dedup=Dedup(1, 2, losses, tuple(f"alarm: {name} lost 9 of 10 documents" for name in names)),
            mixture=Mixture("source", "given", "bytes", tuple(Group(name) for name in names), notes),
        ),
        {},
        Console(file=out, width=100),
        "/runs/m",
    )
    text = out.getvalue()
    assert len(text.splitlines()) < 120
    assert text.count("488 more such lines in manifest.json") == 2
    assert "removed 4,500 of 5,000 (90.0 %)" in text, "of all sources"
