"""The tree as a stranger finds it: no private words, commands that exist, recipes and sample that hold."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

from malmoi.pipeline.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
# Those of training: tests/training/test_train_examples.py.
RECIPES = sorted(x for x in (ROOT / "examples" / "recipes").glob("*.yaml") if "train" not in x.stem)
SAMPLE = ROOT / "examples" / "sample"

# Written in pieces, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a path of somebody's machine": r"(?<![\w.~-])/(?:wo" + r"rk|ho" + r"me/\w+|Us" + r"ers/\w+)/",
    "a registry's host": r"py" + r"pi\.org|files\.python" + r"hosted|--(?:extra-)?index" + r"-url",
    "a note to oneself": r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
}


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: no list of files")
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / x for x in names if x and (ROOT / x).is_file() and not (ROOT / x).is_symlink()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_forbidden_words(what):
    found = []
    for path in tracked():
        if SAMPLE in path.parents and path.suffix != ".md":
            continue  # other people's text
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # binary
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(FORBIDDEN[what], line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", RECIPES, ids=lambda x: x.name)
def test_recipes_hold(path):
    text = path.read_text(encoding="utf-8")
    recipe = Recipe.model_validate(yaml.safe_load(text))
    assert recipe.name == path.stem
    assert text.startswith(f"# malmoi run examples/recipes/{path.name}"), (
        "begins with the command that runs it"
    )
    for source in recipe.sources:
        for name in source.path:
            assert (path.parent / name).is_file(), f"{source.name}: {name}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda x: x.name)
def test_recipes_load_with_their_operators(path):
    from malmoi.pipeline.config import build_steps, load_recipe

    recipe = load_recipe(path)
    assert len(build_steps(recipe)) == len(recipe.steps) > 0


@pytest.mark.parametrize("name", ["README.md", "README.ko.md", "CONTRIBUTING.md", ".ci/run"])
def test_commands_are_make_targets(name):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = re.findall(
        r"^ *(?:\$ )?make ([a-z-]+)|`make ([a-z-]+)`", (ROOT / name).read_text(encoding="utf-8"), re.M
    )
    commands = {a or b for a, b in used}
    assert commands, "names no command"
    assert commands <= targets, f"no such target: {commands - targets}"


def test_links_lead_somewhere():
    wrong = []
    for path in tracked():
        if path.suffix != ".md" or SAMPLE in path.parents:
            continue
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text(encoding="utf-8")):
            if not (path.parent / target).exists():
                wrong.append(f"{path.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(wrong)


def documents(name: str) -> list[dict]:
    path = SAMPLE / name
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    elif path.suffix == ".gz":
        import gzip

        data = gzip.decompress(data)
    return [json.loads(line) for line in data.split(b"\n") if line]


def test_the_sample_is_small_and_licensed():
    files = [x for x in SAMPLE.iterdir() if x.suffix != ".md"]
    assert sum(x.stat().st_size for x in files) < 2_500_000
    allowed = {"CC0-1.0", "CC-BY", "CC-BY-2.5", "CC-BY-4.0", "CC-BY-4.0 OR Apache-2.0", "Unlicense"}
    languages = set()
    for name in sorted(x.name for x in files if x.name != "broken.jsonl"):
        found = documents(name)
        assert len({x["id"] for x in found}) == len(found) > 0, name
        assert {x["license"] for x in found} <= allowed, name
        assert not [x["id"] for x in found if re.search(r"[\w.+-]+@[\w-]+\.\w", x["text"])], name
        languages |= {x["lang_hint"] for x in found}
    assert {"en", "ko", "de", "ja", "zh", "es", "pt", "uk"} <= languages


def test_the_broken_file_is_broken():
    """Ten of its twelve lines are no documents; an editor that repairs them would spoil the demo."""
    good = 0
    for line in (SAMPLE / "broken.jsonl").read_bytes().rstrip(b"\n").split(b"\n"):
        try:
            good += isinstance(json.loads(line.decode("utf-8"))["text"], str)
        except (ValueError, KeyError, TypeError):
            continue
    assert good == 2
