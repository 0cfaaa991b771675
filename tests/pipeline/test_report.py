"""The summary: aligned without a terminal, escape codes only with one, no figure made up."""

import io
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console

from malmoi.pipeline.figures import _number, share, size
from malmoi.pipeline.manifest import Book, Dedup, Group, Loss, Manifest, Mixture, Output
from malmoi.pipeline.report import print_summary

MANIFEST = Manifest(
    name="demo",
    recipe={},
    versions={},
    operators={},
    schemes={},
    books=(
        Book(
            "filter",
            *(1200, 1000, {"gopher_quality.words": 150, "언어_판별.점수": 40}, 10, 4_000_000, 3_000_000),
            quarantine_reasons={"read.json": 10},
        ),
        Book("dedup", 1000, 900, {"exact_dedup.duplicate": 80, "fuzzy_dedup.duplicate": 20}, 0),
        Book("write", 900, 900, {}, 0, rows=1000),
    ),
    inputs=(),
    corpus=(Output("corpus/a.parquet", 10, "0", 1000, 2_500_000, 700_000),),
    sources=(
        Group("우리말 모음", 200, 150, 120, 300_000, None, 120, 220, 800_000),
        Group("web", 1000, 850, 780, 2_000_000, None, 780, 780, 1_700_000),
    ),
    languages=(Group("ko", 200, 150, 120, 0, None, 120, 220, 800_000), Group("", 1000, 850)),
    dedup=Dedup(70, 12, (Loss("web", 850, 60, 20), Loss("우리말 모음", 150, 20, 0)), ("web lost 9.4 %",)),
    mixture=Mixture(
        "source",
        "given",
        "bytes",
        (
            Group("우리말 모음", unique=120, unique_bytes=300_000, rows=220, text_bytes=800_000, target=0.5),
            Group("web", unique=780, unique_bytes=2_000_000, rows=780, text_bytes=1_700_000, target=0.5),
        ),
        ("우리말 모음: wanted 50.0 %, 4 epochs give 32.0 %",),
    ),
    diversity={"before": {"effective_sources": 1.5}, "after": {"effective_sources": 1.85, "ngrams": 12345.0}},
)
SECONDS = {"filter": 2.0, "dedup": 0.5, "total": 4.0}


def shown(manifest=MANIFEST, seconds=SECONDS, **console):
    out = io.StringIO()
    print_summary(manifest, seconds, Console(file=out, width=100, **console), "/runs/demo")
    return out.getvalue()


def test_plain_summary():
    text = shown()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert all(line == line.rstrip() and cell_len(line) <= 100 for line in lines)
    words = [" ".join(line.split()) for line in lines]
    for wanted in (
        "demo: 1,000 documents (900 distinct), 2.5 MB of text, 700,000 tokens, in 1 shard",
        "filter 1,200 1,000 190 10 4.0 MB 3.0 MB 2.0",
        "gopher_quality.words filter 150 12.5 %",
        "언어_판별.점수 filter 40 3.3 %",
        "read.json filter 10 0.8 %",
        "web 1,000 850 780 1.7 MB 68.0 %",
        "우리말 모음 200 150 120 800.0 kB 32.0 %",
        "70 clusters, the largest of 12 documents; removed 100 of 1,000 (10.0 %): 80 exact, 20 fuzzy",
        "web lost 9.4 %",
        "우리말 모음: wanted 50.0 %, 4 epochs give 32.0 %",
        "effective sources 1.500 1.850",
        "Time 4.0 s for 4.0 MB of text: 1.0 MB/s (filter 2.0 s, dedup 0.5 s)",
        "Corpus /runs/demo/corpus",
    ):
        assert wanted in words, wanted
    assert any(line.startswith("ngrams") and line.endswith("-   12,345") for line in lines)
    mixed = next(
        line for line in lines if line.startswith("우리말 모음") and "epochs" not in line and "50.0" in line
    )
    assert mixed.split()[2:] == ["13.0", "%", "50.0", "%", "32.0", "%", "1.83"]


def test_columns_are_aligned_in_cells():
    lines = shown().splitlines()
    for title in ("Source", "Duplicates", "Mixture", "Not in"):
        at = next(i for i, line in enumerate(lines) if line.startswith(title))
        table = [line for line in lines[at : at + 3]]
        assert len({cell_len(line) for line in table}) == 1, table


def test_terminal_has_style():
    assert "\x1b[1m" in shown(force_terminal=True, _environ={"TERM": "xterm"})


def test_many_reasons_and_groups_and_long_names():
    reasons = {f"operator_{i:02d}.{'x' * 120}": 100 - i for i in range(20)}
    book = Book("filter", sum(reasons.values()), 0, reasons, 0)
    languages = tuple(Group(f"l{i:02d}", read=i) for i in range(20))
    text = shown(replace(MANIFEST, books=(book,), languages=languages))
    assert "8 more reasons" in text
    assert "8 more" in text.splitlines()
    assert all(cell_len(line) <= 100 for line in text.splitlines())
    assert text.count("…") == 12


def test_a_run_that_kept_nothing_and_knows_no_times():
    empty = Manifest(
        "e", {}, {}, {}, {}, (Book("filter", 0, 0, {}, 0),), (), (Output("corpus/a", 0, "0", 0),)
    )
    text = shown(empty, {})
    assert "e: 0 documents, 0 bytes of text, in 1 shard" in text
    assert "Duplicates" not in text
    assert "Time" not in text


def test_numbers():
    assert [size(n) for n in (0, 999, 1000, 999_949, 999_950, 10**12, 10**19)] == [
        *("0 bytes", "999 bytes", "1.0 kB", "999.9 kB", "1.0 MB", "1.0 TB", "10000.0 PB"),
    ]
    assert (share(1, 3), share(0, 0)) == ("33.3 %", "-")
    assert (_number(None), _number(1234.0), _number(0.12345), _number(2.0)) == (
        "-",
        "1,234",
        "0.123",
        "2.000",
    )
