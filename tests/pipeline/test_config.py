"""Recipes: what is refused, and the words with which it is refused."""

from pathlib import Path

import pytest

from malmoi.pipeline.config import build_steps, check_columns, load_recipe, parse_recipe
from malmoi.pipeline.errors import RecipeError
from malmoi.pipeline.plan import make_plan

GOOD = """\
name: demo
output: runs/demo
sources:
  - name: web
    path: data/*.jsonl.zst
steps:
  - normalise: {}
  - gopher_quality:
      min_words: 20
dedup:
  fuzzy:
    threshold: 0.7
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_recipe_with_overrides(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), ["run.num_cpus=2", "sources.0.priority=3", "name=말모이"])
    assert recipe.run.num_cpus == 2
    assert recipe.sources[0].priority == 3
    assert recipe.name == "말모이"
    assert recipe.sources[0].path == ("data/*.jsonl.zst",)
    assert recipe.dedup.fuzzy.threshold == 0.7
    assert [step.name for step in build_steps(recipe)] == ["normalise", "gopher_quality"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("output:", "outptu:"), "recipe.yaml:2: unknown key 'outptu'; did you mean 'output'?"),
        (
            ("threshold: 0.7", "treshold: 0.7"),
            "recipe.yaml:12: unknown key 'dedup.fuzzy.treshold'; did you mean 'threshold'?",
        ),
        (
            ("threshold: 0.7", "threshold: 7"),
            "recipe.yaml:12: dedup.fuzzy.threshold: Input should be less than or equal to 1 (given: '7')",
        ),
        (
            ("min_words", "min_word"),
            "steps[1].gopher_quality: unknown key 'min_word' for GopherQuality; did you mean 'min_words'?",
        ),
        (("min_words: 20", "min_words: many"), "steps[1].gopher_quality.min_words:"),
        (
            ("gopher_quality:", "gofer_quality:"),
            "unknown operator 'gofer_quality'; did you mean 'gopher_quality'?",
        ),
        (("normalise: {}", "'no.such.module:Rule': {}"), "cannot import 'no.such.module'"),
        (("normalise: {}", "'json:JSONDecoder': {}"), "is not a dataclass"),
        (("name: web\n", "name: web\n    name: web2\n"), "key 'name' is given twice (line 4 and 5)"),
        (("name: demo", "name: 'a/b'"), "recipe.yaml:1: name:"),
        (("name: demo\n", ""), "name: Field required"),
        ((GOOD, "- just\n- a list\n"), "want a mapping"),
        ((GOOD, "a: [1,"), "recipe.yaml"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, GOOD.replace(*change, 1)))
    assert message in str(caught.value)


@pytest.mark.parametrize("override", ["run.num_cpus", "=3", "sources.7.priority=1", "name.x=1"])
def test_bad_overrides(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, GOOD), [override])


def test_a_missing_file_and_one_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="not UTF-8 at byte 6"):
        load_recipe(tmp_path / "bytes.yaml")


def test_two_sources_of_one_name() -> None:
    source = {"name": "a", "path": "x.jsonl"}
    with pytest.raises(RecipeError, match="source name given twice: a"):
        parse_recipe({"name": "r", "output": "o", "sources": [source, source]})


def test_a_column_that_no_step_has_made() -> None:
    recipe = parse_recipe(
        {"name": "r", "output": "o", "sources": [{"name": "a", "path": "x"}], "steps": ["normalise"]}
    )
    steps = build_steps(recipe)
    check_columns(steps, {"id", "source", "text"}, "r")
    with pytest.raises(RecipeError, match=r"steps\[0\].normalise needs column 'text'; there: id"):
        check_columns(steps, {"id"}, "r")


MIX = {"name": "r", "output": "o", "sources": [{"name": "a", "path": "x"}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": {"method": "given"}}, "weights go with method: given"),
        ({"mixture": {"weights": {"a": 1}}}, "weights go with method: given"),
        ({"mixture": {"method": "given", "weights": {"a": -1}}}, "want weights of 0 and more"),
        ({"mixture": {"method": "given", "weights": {"a": 0}}}, "not all 0"),
        ({"mixture": {"method": "given", "weights": {"a": float("nan")}}}, "want weights of 0 and more"),
        ({"mixture": {"choose": "quality"}}, "choose: quality needs quality"),
        ({"output": ""}, "output: String should have at least 1 character"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"sources": [{"name": "a", "path": "x", "priority": 2**40}]}, "sources.0.priority"),
    ],
)
def test_values_that_cannot_be_meant(change: dict, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**MIX, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1, "b2": 1}, "mixture.weights: no source 'b2'; did you mean 'b'?"),
        ({"a": 1}, "mixture.weights: source 'b' has no weight; 0 leaves it out"),
    ],
)
def test_weights_by_source_are_checked_at_the_plan(tmp_path: Path, weights: dict, message: str) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "말모이"}\n', encoding="utf-8")
    sources = [{"name": name, "path": "x.jsonl"} for name in ("a", "b")]
    recipe = parse_recipe({**MIX, "sources": sources, "mixture": {"method": "given", "weights": weights}})
    with pytest.raises(RecipeError) as caught:
        make_plan(recipe, str(tmp_path))
    assert message in str(caught.value)


def test_a_quality_column_holds_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "말모이", "grade": "good"}\n', encoding="utf-8")
    recipe = parse_recipe(
        {**MIX, "sources": [{"name": "a", "path": "x.jsonl"}], "dedup": {"quality": "grade"}}
    )
    with pytest.raises(RecipeError, match="column 'grade' is large_string, want a column of numbers"):
        make_plan(recipe, str(tmp_path))


@pytest.mark.parametrize("text", ["? [1, 2]\n: 3\n", GOOD.replace("name: demo", "? {a: b}\n: demo")])
def test_keys_that_are_no_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, text))


def test_an_override_that_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is not a YAML value; quote it if it is text"):
        load_recipe(write(tmp_path, GOOD), ["output=[x"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_words": 50, "max_words": 10}, "want min <= max, got min=50"),
        (
            {"languages": {"ko": {"min_words": 70_000}}},
            "limits of language 'ko': gopher_quality.words: want min <= max",
        ),
        ({"min_words": float("nan")}, "want numbers, got min=nan"),
    ],
)
def test_limits_are_checked_before_a_document_is_read(settings: dict, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**MIX, "steps": [{"gopher_quality": settings}]})
    assert message in str(caught.value)
