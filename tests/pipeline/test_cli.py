"""The command line: what it says, and what it ends with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from malmoi.operators import OPERATORS

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples/recipes/demo.yaml"
ESCAPE = "\x1b"


def words(text: str) -> str:
    return " ".join(text.split())


def test_plan_reads_no_text(tmp_path, cli, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a plan reads no documents")

    monkeypatch.setattr("malmoi.pipeline.filtering.read_part", refuse)
    said = cli("plan", DEMO, f"output={tmp_path / 'run'}")
    assert (said.code, said.err) == (0, "")
    for wanted in ("laws-de-old", "filter", "decide", "write", "read -> normalise -> "):
        assert wanted in words(said.out)
    assert "gopher_quality.words" in said.out, "the columns"
    assert re.search(r"worker [\d,]+ MiB, driver [\d,]+ MiB", words(said.out))
    assert not (tmp_path / "run").exists()


def test_run_and_again(tmp_path, cli, recipe_file):
    (tmp_path / "in.jsonl").write_text(
        '{"id": "1", "text": "one document"}\n{"id": "1", "text": "of its id"}'
    )
    recipe = recipe_file([{"name": "s", "path": "in.jsonl", "id": "id"}])
    said = cli("run", recipe)
    assert (said.code, said.err) == (0, "")
    assert re.search(r"^filter: 2 documents in [\d.]+ s", said.out, re.MULTILINE)
    assert str(tmp_path / "run/corpus") in said.out
    assert ESCAPE not in said.out
    assert "all done already" in cli("run", recipe).out


WRONG = {
    # what is wrong with the demo: (override, what is said)
    "unknown key": ("dedup.fuzy.threshold=1", "unknown key 'dedup.fuzy'; did you mean 'fuzzy'?"),
    "unknown key at the top": ("shards=3", "unknown key 'shards'"),
    "out of range": ("dedup.fuzzy.threshold=2", "less than or equal to 1"),
    "bands and rows": ("dedup.fuzzy.bands=20", "112"),
    "unknown operator": ("steps=[gopher_qualty]", "did you mean 'gopher_quality'?"),
    "unknown setting": ("steps=[{normalise: {tab: true}}]", "unknown key 'tab'"),
    "no such module": ("steps=['no_such_module:Rule']", "is it on PYTHONPATH?"),
    "column of the mixture": ("mixture.by=domain", "no column 'domain'"),
    "language without its step": ("steps=[]", "language"),
    "no number": ("seed=abc", "seed"),
    "no equals sign": ("seed", "want key=value"),
    "tokens without a tokenizer": ("mixture.unit=tokens", "needs mixture.tokenizer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_recipe(tmp_path, cli, case):
    override, message = WRONG[case]
    said = cli("plan", DEMO, f"output={tmp_path / 'run'}", override)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert message in words(said.err)
    assert "Traceback" not in said.err
    assert ESCAPE not in said.err


def test_no_recipe(tmp_path, cli):
    said = cli("run", tmp_path / "none.yaml")
    assert (said.code, said.out) == (2, "")
    assert "none.yaml: No such file or directory" in said.err


def test_a_message_is_one_line_however_long(tmp_path, cli):
    """So that a path in it can be copied."""
    deep = tmp_path.joinpath(*("a-long-name-of-a-folder" for _ in range(6)))
    deep.mkdir(parents=True)
    assert f"{deep}/none.yaml" in cli("run", deep / "none.yaml").err


def find(demo, **wanted):
    """Ids of documents of the demo whose columns are as wanted."""
    rows = [*demo.dropped, *(row | {"drop": None, "duplicate_of": None} for row in demo.corpus)]
    return next(row for row in rows if all(row.get(name) == value for name, value in wanted.items()))


def why(cli, demo, row):
    said = cli("why", demo.path, row["id"], "--source", row["source"])
    assert (said.code, said.err) == (0, "")
    assert row["id"] in said.out
    return said.out


def test_why_kept(cli, demo):
    row = find(demo, drop=None, language="uk", epoch=1)
    out = why(cli, demo, row)
    assert "in the corpus, 2 times" in out
    assert re.search(r"^part: stages/filter/part-\d{5}\.kept\.parquet, row \d+$", out, re.MULTILINE)
    shards = re.search(r"^corpus: (.*)$", out, re.MULTILINE)
    assert shards is not None
    assert all((demo.path / name).is_file() for name in shards[1].split(", "))


def test_why_dropped(cli, demo):
    row = find(demo, drop="gopher_quality.words", language="ko")
    out = why(cli, demo, row)
    assert "not in the corpus: gopher_quality.words" in out
    line = next(line for line in out.splitlines() if line.startswith("gopher_quality.words"))
    assert line.endswith("fails")
    assert ".." in line or ">=" in line


def test_why_duplicate(cli, demo):
    row = find(demo, drop="fuzzy_dedup.duplicate", source="laws-de-old")
    out = why(cli, demo, row)
    assert "not in the corpus: fuzzy_dedup.duplicate" in out
    assert f"survivor: {row['duplicate_of']} (source {row['duplicate_source']})" in out
    assert f"similarity {row['similarity']:.3f}" in out


def test_why_not_chosen(cli, demo):
    assert "not in the corpus: mixture.not_chosen" in why(cli, demo, find(demo, drop="mixture.not_chosen"))


def test_why_of_an_id_that_is_not_unique(tmp_path, cli, recipe_file):
    (tmp_path / "in.jsonl").write_text('{"id": "1", "text": "the first"}\n{"id": "1", "text": "the other"}')
    cli("run", recipe_file([{"name": "s", "path": "in.jsonl", "id": "id"}]))
    out = cli("why", tmp_path / "run", "1").out
    assert "in the corpus, 1 time\n" in out
    assert "not in the corpus: quarantine.duplicate_id" in out


def test_why_nothing(tmp_path, cli, demo):
    said = cli("why", demo.path, "no-such-id")
    assert said.code == 2
    assert "no document with id 'no-such-id'" in said.err
    said = cli("why", tmp_path, "x")
    assert said.code == 2
    assert "not a run: there is no plan.json in it" in said.err


def test_operators(cli):
    said = cli("operators")
    assert (said.code, said.err) == (0, "")
    assert all(name in said.out for name in OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_one_operator(cli, name):
    said = cli("operators", name)
    assert (said.code, said.err) == (0, "")
    assert words(OPERATORS[name].reference)[:30] in words(said.out)
    assert ESCAPE not in said.out


def test_an_operator_tells_the_limits_of_languages(cli):
    said = words(cli("operators", "gopher_quality").out)
    assert "ko: min_words 30, max_words 60000, min_mean_word_chars 2.0" in said
    assert "zh, ja, th, lo, km, my, bo, dz: min_words 75" in said
    assert "all others but en: min_mean_word_chars 2.0, max_mean_word_chars 15.0" in said
    assert "by language" not in words(cli("operators", "minhash").out)


def test_an_unknown_operator(cli):
    said = cli("operators", "gopher_qality")
    assert said.code == 2
    assert "did you mean 'gopher_quality'?" in words(said.err)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"]])
def test_help(cli, arguments):
    said = cli(*arguments)
    assert said.code in (0, 2)
    assert "recipe" in (said.out + said.err).lower()


@pytest.mark.parametrize("how", ["module", "script"])
def test_the_real_command(tmp_path, how):
    script = [str(Path(sys.executable).with_name("malmoi"))]
    command = script if how == "script" else [sys.executable, "-m", "malmoi.pipeline"]
    if how == "script" and not Path(script[0]).exists():
        pytest.skip("not installed beside this Python")
    arguments = ["plan", str(DEMO), f"output={tmp_path / 'run'}"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gopher_quality" in done.stdout
    assert ESCAPE not in done.stdout
    done = subprocess.run([*command, "plan", "none"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


def test_secrets_are_written_nowhere(tmp_path, cli, recipe_file):
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "a document"}))
    sources = [{"name": "s", "path": "in.jsonl", "storage_options": {"secret": "hush-1"}}]
    recipe = recipe_file(sources, output_options={"secret": "hush-2"})
    said = cli("run", recipe)
    assert said.code == 0
    assert "hush" not in said.out + cli("plan", recipe).out
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in files if b"hush" in path.read_bytes()]
