"""Pairs side by side in a terminal: two columns, what differs marked, wide characters in two cells."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from malmoi.pipeline.duplicates import marked, print_duplicates

COLOUR = re.compile(r"\x1b\[([0-9;]*)m")
SENTENCE = "모든 국민은 법률이 정하는 바에 의하여 東京の空は青い and the quick brown fox leaps 😀 \u1100\u1161\u11a8 "
TEXT = SENTENCE * 3 + "여기까지는 모두 같은 말이다"


def made(folder, run_here, threshold, **others):
    """A run of two documents that differ at their ends, and one apart."""
    rows = [
        {"id": "첫째", "text": TEXT + " 처음"},
        {"id": "둘째", "text": TEXT + " 나중에 덧붙인 말"},
        {"id": "else", "text": "nothing like the others, whatever one may say of it"},
    ]
    (folder / "in.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    source = {"name": "s", "path": str(folder / "in.jsonl"), "id": "id"}
    fuzzy = {"threshold": threshold, "bands": 32, "rows": 2, "num_perm": 64}
    return run_here(folder / "run", {"sources": [source], "dedup": {"fuzzy": fuzzy}, **others}).path


@pytest.fixture(scope="module")
def run(tmp_path_factory, run_here):
    return made(tmp_path_factory.mktemp("pairs"), run_here, 0.5)


def shown(run, width, **settings):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=width, highlight=False)
    print_duplicates(str(run), console, **settings)
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 81, 200])
def test_two_columns(run, width):
    said = shown(run, width)
    head, _, verdict, *lines = COLOUR.sub("", said).splitlines()
    assert head == "1 compared pairs nearest the threshold 0.5, nearest first"
    assert re.fullmatch(r"0\.\d{4}  첫째: removed for 둘째 \(0\.\d{3}\)", verdict)
    column = (width - 3) // 2
    columns = [line.split(" | ") for line in lines]
    assert {len(pieces) for pieces in columns} == {2}
    for left, right in columns:
        assert cell_len(left) == column
        assert cell_len(right) <= column
    assert {left.strip() for left, _ in columns[:1]} | {right for _, right in columns[:1]} == {
        "첫째 (s)",
        "둘째 (s)",
    }
    left, right = (" ".join(pieces[side].strip() for pieces in columns[1:]).strip() for side in (0, 1))
    assert left.endswith("처음") or right.endswith("처음")
    assert "덧붙인" in left + right


def test_what_differs_is_coloured(run):
    coloured = dict(re.findall(r"\x1b\[1;(31|32)m([^\x1b]*)", shown(run, 200)))
    assert set(coloured) == {"31", "32"}, "red on the left, green on the right"
    assert {coloured["31"].strip(), coloured["32"].strip()} == {"처음", "나중에 덧붙인 말"}


def test_what_the_mixture_leaves_out_does_not_stay(tmp_path, run_here):
    path = made(tmp_path, run_here, 0.9, mixture={"budget": 1, "unit": "documents"})
    said = COLOUR.sub("", shown(path, 80))
    assert "both stay" not in said
    assert ": left out (mixture.not_chosen)" in said


def test_plain_where_it_is_asked_for(run):
    said = COLOUR.sub("", shown(run, 80, plain=True))
    assert " | " not in said
    assert re.search(r"\[-(처음|나중에 덧붙인 말)-\]", said)
    assert re.search(r"\{\+(처음|나중에 덧붙인 말)\+\}", said)


@pytest.mark.parametrize(
    ("left", "right", "want"),
    [
        ("", "", ([], [])),
        ("", "하나", ([], [("하나", True)])),
        ("a b", "a b", ([("a b", False)], [("a b", False)])),
        ("a\n b", "a b", ([("a b", False)], [("a b", False)])),
        ("東京", "東西", ([("東", False), ("京", True)], [("東", False), ("西", True)])),
        ("😀 x", "😀 y", ([("😀", False), ("x", True)], [("😀", False), ("y", True)])),
    ],
)
def test_marks(left, right, want):
    assert marked(left, right) == want
