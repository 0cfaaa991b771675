"""Does curation pay? One tiny model on raw and on curated text of the sample: same size, same tokens, three seeds.

    python examples/does_curation_pay.py [--out runs/does_curation_pay] [--tokens 200000] [--seeds 3]

raw: every document of the sample. cleaned: what rules and deduplication of examples/recipes/demo.yaml leave.
curated: the corpus of that recipe, which is mixed by language as well. Held out of all three: a twelfth of the
cleaned documents; a training document that shares more than a tenth of its runs of 50 characters with them (an older
revision, a copy) is left out too. One tokenizer, trained on the raw text, serves all. Measured is bits per byte of
the held-out text, by language as well. A run that was stopped goes on with the trainings that are missing.

What it can show is small: 3.6 MB of text, 2 M parameters, and a sample that is mostly clean to begin with.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import statistics
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from rich.console import Console
from rich.table import Table

from malmoi.pipeline.api import run as run_pipeline
from malmoi.pipeline.recipe import Tokenize
from malmoi.pipeline.tokenize import plan_tokens, tokenize
from malmoi.training.evaluate import EvaluateSettings, evaluate
from malmoi.training.ray_entry import run_local
from malmoi.training.recipe import TrainRecipe

HERE = Path(__file__).resolve().parent
COLUMNS = ["id", "source", "text", "language"]
RUN_CHARS, SHARED, HELD_OUT = 50, 0.1, 12
SEQ_LEN, VOCAB = 256, 4096
MODEL = {"family": "llama", "hidden_size": 192, "intermediate_size": 512, "num_layers": 4, "num_heads": 4}
QUIET = Console(file=io.StringIO())


def corpora(out: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of each corpus."""
    unmixed = "mixture={by: language, method: as_is}"
    everything = ["steps=[]", "dedup.exact.enabled=false", "dedup.fuzzy.enabled=false"]
    given = {
        "raw": [*everything, "mixture={by: source, method: as_is}"],
        "cleaned": [unmixed],
        "curated": [],
    }
    found = {}
    for name, overrides in given.items():
        place = out / "corpora" / name
        run_pipeline(
            HERE / "recipes" / "demo.yaml", overrides=[*overrides, f"output={place}"], engine="local"
        )
        files = sorted((place / "corpus").glob("*"))
        found[name] = [row for file in files for row in pq.read_table(file).to_pylist()]
    return found


def held_out(documents: list[dict[str, str]]) -> list[dict[str, str]]:
    """A twelfth, by hash."""
    return [
        x for x in documents if xxhash.xxh64_intdigest(f"{x['source']}/{x['id']}".encode()) % HELD_OUT == 0
    ]


def runs_of(text: str) -> set[str]:
    return {text[i : i + RUN_CHARS] for i in range(max(len(text) - RUN_CHARS + 1, 1))}


def without(documents: list[dict[str, str]], seen: set[str]) -> list[dict[str, str]]:
    kept = []
    for document in documents:
        mine = runs_of(document["text"])
        if len(mine & seen) <= SHARED * len(mine):
            kept.append(document)
    return kept


def write(path: Path, documents: list[dict[str, str]]) -> str:
    rows = [{name: x.get(name) or "" for name in COLUMNS} for x in documents]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def size(documents: list[dict[str, str]]) -> str:
    return f"{len(documents):,} documents, {sum(len(x['text'].encode()) for x in documents) / 1e6:.2f} MB"


def prepare(out: Path, console: Console) -> tuple[dict[str, str], str]:
    """Folders of token rows by name, and the held-out file."""
    found = corpora(out)
    held = held_out(found["cleaned"])
    seen = set().union(*(runs_of(x["text"]) for x in held))
    parts = {name: without(documents, seen) for name, documents in found.items()}
    console.print(f"held out: {size(held)}")
    for name, documents in parts.items():
        console.print(
            f"{name}: {size(documents)}; {len(found[name]) - len(documents)} held out or too like it"
        )
    spec = importlib.util.spec_from_file_location(
        "make_tokenizer", HERE.parent / "benchmarks/make_tokenizer.py"
    )
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    tokenizer = maker.train((x["text"] for x in parts["raw"]), out / "tokenizer", VOCAB)
    tokens = {}
    for name, documents in parts.items():
        file = write(out / f"{name}.parquet", documents)
        settings = Tokenize(tokenizer=str(tokenizer), seq_len=SEQ_LEN)
        made = tokenize(
            plan_tokens(settings, [file], str(out / f"{name}_tokens")), console=QUIET, engine="local"
        )
        console.print(f"{name}: {made.tokens:,} tokens")
        tokens[name] = str(out / f"{name}_tokens")
    return tokens, write(out / "heldout.parquet", held)


def trained(out: Path, tokens: str, name: str, seed: int, budget: int) -> str:
    recipe = TrainRecipe.model_validate({
        "name": f"{name}-{seed}", "output": str(out / f"{name}-{seed}"), "seed": seed,
        "data": {"path": tokens, "tokenizer": str(out / "tokenizer")},
        "model": {"config": MODEL, "dtype": "float32"},
        "tokens": budget, "batch": {"rows": 8, "rows_per_device": 8},
        "optimizer": {"lr": 3e-3}, "schedule": {"kind": "cosine", "warmup": 0.1},
        "checkpoint": {"every_steps": 10**6, "keep_last": 1}, "log": {"every_steps": 50},
    })  # fmt: skip
    run_local(recipe)
    return recipe.output


def bits_per_byte(run: str, heldout: str) -> dict[str, float]:
    """Of all text, of the languages on average (each counts alike), and of each language."""
    report = evaluate(EvaluateSettings(model=run, heldout=(heldout,), device="cpu"), QUIET)["heldout"]
    languages = {name: row["bits_per_byte"] for name, row in sorted(report["languages"].items())}
    return {
        "all": report["all"]["bits_per_byte"],
        "mean of languages": statistics.mean(languages.values()),
        **languages,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/does_curation_pay"))
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    console, begin = Console(), time.monotonic()
    out = given.out.absolute()
    tokens, heldout = prepare(out, console)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in tokens}
    for seed in range(given.seeds):
        for name, bits in found.items():
            bits.append(bits_per_byte(trained(out, tokens[name], name, seed, given.tokens), heldout))
            console.print(f"{name}, seed {seed}: {bits[-1]['all']:.4f} bits per byte")
    (out / "result.json").write_text(json.dumps({"tokens": given.tokens, "bits_per_byte": found}, indent=1))
    title = f"held-out bits per byte after {given.tokens:,} tokens, {given.seeds} seeds (mean ± sd; lower is better)"
    table = Table(title=title)
    for column in ("", *found, *(f"{name} - raw" for name in found if name != "raw")):
        table.add_column(column, justify="right" if column else "left")
    for key in found["raw"][0]:
        values = {name: [bits[key] for bits in all_bits] for name, all_bits in found.items()}
        # Of the same seed, so the same start.
        change = [
            [b - a for a, b in zip(values["raw"], x, strict=True)]
            for name, x in values.items()
            if name != "raw"
        ]
        table.add_row(
            key, *(f"{statistics.mean(x):.4f} ± {spread(x):.4f}" for x in (*values.values(), *change))
        )
    console.print(table)
    console.print(f"{time.monotonic() - begin:.0f} s; {out}/result.json")


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
