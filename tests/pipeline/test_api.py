"""The Python API: what is exported, and what a run gives back."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pyarrow as pa
import pytest
from pydantic import ValidationError

import malmoi.pipeline.api as mp
from malmoi.operators import GopherQuality, LanguageId, Normalise
from malmoi.operators.config import settings_of
from malmoi.pipeline.config import build_steps

# Whoever changes this list changes what other people's notebooks stand on.
SURFACE = {
    "Duplicates": {"table", "total"},
    "Histogram": {"counts", "edges", "failed", "signal", "undefined"},
    "MalmoiError": set(),
    "PlanView": {"columns", "num_parts", "plan", "recipe", "steps", "worker_bytes"},
    "Recipe": {"folder", "from_file"},
    "Result": {
        "corpus", "dataset", "dropped", "duplicates", "folder", "load", "manifest", "quarantined", "reasons",
        "report", "signals", "to_pandas", "why",
    },
    "SignalView": {
        "changes", "counts", "dropped", "failed", "histogram", "languages", "limits", "num_docs", "num_dropped",
        "num_only_here", "operator", "others", "plot", "reasons", "signals", "step", "table", "with_threshold",
    },
    "Status": {
        "as_json", "error", "headline", "name", "plan", "runs", "seen", "sheets", "stages", "state", "url", "where",
    },
    "Why": {"fates", "folder", "steps"},
    "plan": {"recipe", "overrides", "base"},
    "run": {"recipe", "overrides", "base", "engine", "progress"},
    "signals": {"table", "operator"},
    "status": {"run", "options"},
}  # fmt: skip


def public(name: str) -> set[str]:
    found = getattr(mp, name)
    if inspect.isfunction(found):
        return set(inspect.signature(found).parameters)
    if name == "Recipe":
        return {"folder", "from_file"} & set(dir(found))  # its fields are those of docs/recipe.md
    if issubclass(found, Exception):
        return set()
    names = {x for x in vars(found) if not x.startswith("_")} | set(found.__dataclass_fields__)
    return {x for x in names if not x.startswith("_")}


def test_the_exported_surface():
    assert sorted(mp.__all__) == sorted(SURFACE)
    assert {name: public(name) for name in SURFACE} == SURFACE


def test_everything_is_documented():
    bare = [
        f"{name}.{member}" if member else name
        for name in SURFACE
        for member in ["", *(SURFACE[name] if inspect.isclass(getattr(mp, name)) else [])]
        for thing in [getattr(mp, name), getattr(getattr(mp, name), member, None)][bool(member) :][:1]
        if (not member or inspect.isfunction(thing)) and not inspect.getdoc(thing)
    ]
    assert set(bare) <= {"Status.as_json"}


def test_imports_stay_light():
    code = "import malmoi.pipeline.api, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"ray", "pandas", "matplotlib", "torch", "IPython"}


@pytest.fixture(scope="module")
def result(demo):
    return mp.Result.load(str(demo.path))


def test_recipe_of_a_file_knows_its_folder(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "하나"}\n', encoding="utf-8")
    path = tmp_path / "r.yaml"
    path.write_text(
        f"name: r\noutput: {tmp_path}/run\nsources: [{{name: s, path: in.jsonl}}]\n", encoding="utf-8"
    )
    recipe = mp.Recipe.from_file(path, ["seed=3"])
    assert (recipe.seed, recipe.folder) == (3, str(tmp_path))
    assert mp.plan(recipe).num_parts == mp.plan(path).num_parts == 1
    assert mp.plan(recipe).plan.key == mp.plan(str(path), overrides=["seed=3"]).plan.key


@pytest.mark.parametrize(
    "operator",
    [
        Normalise(),
        GopherQuality(min_words=30, languages={"ko": {"min_words": 5, "max_words": None}}),
        LanguageId(keep=("ko", "en"), min_score={"default": 0.3}),
    ],
    ids=lambda x: x.name,
)
def test_an_operator_is_a_step(operator):
    recipe = mp.Recipe(
        name="x", output="y", sources=[{"name": "s", "path": "z"}], steps=[operator, "normalise"]
    )
    made = build_steps(recipe)
    assert settings_of(made[0]) == settings_of(operator)
    assert json.loads(recipe.model_dump_json())["steps"][1] == "normalise"
    assert build_steps(mp.Recipe.model_validate_json(recipe.model_dump_json())) == made


def test_a_whole_run_of_an_object(tmp_path):
    lines = [json.dumps({"id": str(i), "text": f"말모이 {i} 번째 문서입니다. " * 3}) for i in range(5)]
    (tmp_path / "in.jsonl").write_text(
        "\n".join([*lines, lines[0].replace('"0"', '"9"'), "no JSON"]), encoding="utf-8"
    )
    recipe = mp.Recipe(
        name="object", output=str(tmp_path / "run"),
        steps=[GopherQuality(min_words=2, languages={"ko": {"min_words": 2}})],
        sources=[{"name": "s", "path": str(tmp_path / "in.jsonl"), "id": "id"}],
    )  # fmt: skip
    view = mp.plan(recipe)
    assert "gopher_quality.words" in view.columns.names
    assert view.worker_bytes > 0
    assert "1.3 kB" in repr(view), "a small source is not 0.0 MB"
    assert "1.3 kB" in view._repr_html_()
    found = mp.run(view, engine="local", progress=False)
    assert found.manifest == mp.Result.load(recipe.output).manifest
    assert mp.run(recipe, engine="local", progress=False).manifest == found.manifest
    assert found.quarantined()["reason"].to_pylist() == ["quarantine.bad_json"]
    assert mp.status(recipe).state == mp.status(str(tmp_path / "run")).state == "finished"


def test_corpus(result):
    corpus = result.corpus()
    assert corpus.num_rows == result.manifest.rows == result.dataset().count_rows()
    assert corpus.schema.field("text").type == pa.large_string()
    assert result.corpus(["source", "id"]).column_names == ["source", "id"]
    assert list(result.to_pandas(["id"]).columns) == ["id"]


def test_a_corpus_of_json_lines(tmp_path, run_here):
    documents = [{"id": str(i), "text": f"문서 {i}", "date": "2026-11-21", "n": i} for i in range(9)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    source = [{"name": "s", "path": "in.jsonl", "id": "id"}]
    run_here(
        tmp_path / "run",
        {"sources": source, "write": {"format": "jsonl.zst", "shard_bytes": 1024}},
        base=tmp_path,
    )
    result = mp.Result.load(str(tmp_path / "run"))
    rows = sorted(result.corpus(["id", "text", "date", "n"]).to_pylist(), key=lambda row: row["id"])
    assert rows == documents
    with pytest.raises(mp.MalmoiError, match=r"jsonl\.zst"):
        result.dataset()


def test_dropped(result, demo):
    dropped = result.dropped()
    assert dropped.num_rows == sum(result.reasons().values()) == len(demo.dropped)
    assert {"gopher_quality.words", "drop", "duplicate_of"} <= set(dropped.column_names)
    some = result.dropped("gopher_quality", ["id", "drop"])
    assert some.column_names == ["id", "drop"]
    assert all(x.startswith("gopher_quality.") for x in some["drop"].to_pylist())
    assert result.dropped("gopher_quality", ["id"]).column_names == ["id"]
    assert result.quarantined().num_rows == 10


def test_duplicates(result):
    found = result.duplicates(3)
    assert found.table.num_rows == 3
    assert found.total == sum(n for name, n in result.reasons().items() if "dedup" in name)
    similarity = found.table["similarity"].to_pylist()
    assert similarity == sorted(similarity)
    assert all(found.table["stays"].to_pylist())
    assert "background" in found._repr_html_()
    assert result.duplicates(10**6).table.num_rows == found.total


def test_why(result):
    row = result.dropped("fuzzy_dedup", ["id", "source", "duplicate_of"]).to_pylist()[0]
    found = result.why(row["id"], row["source"])
    assert row["duplicate_of"] in repr(found)
    assert "similarity" in found._repr_html_()
    assert found.fates[0].reason == "fuzzy_dedup.duplicate"


def test_signals_of_a_run_are_those_of_its_documents(result, demo):
    view = result.signals("gopher_quality")
    assert view.num_docs == result.manifest.books[0].kept + sum(result.manifest.books[0].dropped.values())
    assert "text" not in view.table.column_names
    first = {k: n for k, n in result.reasons().items() if k.startswith("gopher_quality")}
    assert set(first) <= set(view.counts())
    moved = view.with_threshold("min_words", 5)
    assert moved.num_dropped < view.num_dropped
    assert moved.changes(view)["after"].null_count > 0
    assert result.signals("language_id").operator.name == "language"
    assert view.num_only_here < view.num_dropped


def test_a_run_with_the_moved_threshold_drops_the_same(tmp_path, run_here):
    texts = ["말모이는 사전의 이름이다. " * n for n in range(1, 30)]
    lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    base = {
        "sources": [{"name": "s", "path": "in.jsonl", "id": "id"}],
        "dedup": {"fuzzy": {"enabled": False}},
    }

    def result(name, gopher):
        steps = ["language_id", {"gopher_quality": gopher}, "gopher_repetition"]
        run_here(tmp_path / name, base | {"steps": steps}, base=tmp_path)
        return mp.Result.load(str(tmp_path / name))

    moved = result("first", {}).signals("gopher_quality").with_threshold("min_words", 60)
    [step] = mp.Recipe(name="x", output="y", sources=base["sources"], steps=[moved.operator]).steps
    again = result("second", step["gopher_quality"]).signals("gopher_quality")
    assert moved.reasons.to_pylist() == again.reasons.to_pylist()
    assert (moved.num_only_here, moved.num_dropped) == (again.num_only_here, again.num_dropped)


def test_html(result):
    page = result._repr_html_()
    assert result.manifest.name in page
    assert "gopher_quality.words" in page
    assert "documents" in repr(result)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda r: r.dropped("gophr"), "nothing was dropped for 'gophr'"),
        (lambda r: r.dropped("gopher_quality", ["nope"]), "no column 'nope'"),
        (lambda r: r.dropped(columns="id"), "want a list of names"),
        (lambda r: r.corpus(["txt"]), "did you mean 'text'"),
        (lambda r: r.corpus("id"), "want a list of names"),
        (lambda r: r.signals("gopher"), "did you mean"),
        (lambda r: r.duplicates(0), "limit >= 1"),
        (lambda r: r.why("nowhere"), "no document with id 'nowhere'"),
        (lambda r: r.why(7), "no document with id 7"),
        (lambda r: mp.Result.load(__file__), "cannot be read"),
        (lambda r: mp.Result.load("/nowhere/at/all"), "not a finished run"),
        (lambda r: mp.plan("nowhere.yaml"), "nowhere.yaml: No such file"),
        (lambda r: mp.plan(3), "want a Recipe or the path"),
        (lambda r: mp.run({"name": "x"}), "got dict"),
        (lambda r: mp.status("/nowhere/at/all"), "no run here"),
        (lambda r: mp.run("demo.yaml", engine="dask"), "want engine 'ray' or 'local', got 'dask'"),
        (
            lambda r: mp.plan(mp.Recipe(name="x", output="y", sources=[{"name": "s", "path": "z"}] * 2)),
            "source name given twice: s",
        ),
        (
            lambda r: mp.plan(mp.Recipe(name="x", output="y", sources=[{"name": "s", "path": "nowhere"}])),
            "nowhere",
        ),
        (
            lambda r: mp.plan(
                mp.Recipe(name="x", output="y", sources=[{"name": "s", "path": "z"}]), overrides=["a=1"]
            ),
            "overrides go with a recipe file",
        ),
    ],
)
def test_wrong_arguments(result, call, said):
    with pytest.raises(mp.MalmoiError, match=said):
        call(result)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([GopherQuality], r"write GopherQuality\(\)"),
        (GopherQuality(), "want a list of steps, got one GopherQuality"),
        ("normalise", "want a list of steps, got one str"),
    ],
)
def test_wrong_steps_of_an_object(steps, said):
    with pytest.raises(ValidationError, match=said):
        mp.Recipe(name="x", output="y", sources=[{"name": "s", "path": "z"}], steps=steps)


def test_a_wrong_key_of_an_object():
    with pytest.raises(ValidationError, match="stepz"):
        mp.Recipe(name="x", output="y", sources=[{"name": "s", "path": "z"}], stepz=[])


def test_to_pandas_without_pandas(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(mp.MalmoiError, match=r"to_pandas needs pandas: pip install 'malmoi\[notebook\]'"):
        result.to_pandas()
