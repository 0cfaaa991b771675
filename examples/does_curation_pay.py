"""Does curation pay? One tiny model on raw and on curated text of the sample: same size, same tokens, three seeds.

    python examples/does_curation_pay.py [--out runs/does_curation_pay] [--tokens 200000] [--seeds 3]

raw: every document of the sample, with its junk and its duplicates. cleaned: what rules and deduplication of
examples/recipes/demo.yaml leave. curated: the corpus of that recipe, which is mixed by language as well.

Held out is a twelfth of the raw documents, by hash of their ids, before any of them is judged; a training document
that shares more than a fifth of its runs of 50 characters with them (an older revision, a copy, the same page in a
mirror) is left out of all three. Bits per byte are measured on the part that the recipe keeps (`kept`) and on what
it drops (`dropped`): curation aims at the first, and text of the second kind is in the raw corpus alone. One
tokenizer, trained on the raw text, serves all. Sizes, learning rate and batch were chosen by the raw corpus alone. A
run that was stopped goes on with the trainings that are missing.

What it can show is small: 3.6 MB of text, 1 M parameters, and a sample that is mostly clean to begin with. Where the
seeds disagree about the sign of a difference, it shows none.
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
RUN_CHARS, SHARED, HELD_OUT = 50, 0.2, 12
SEQ_LEN, VOCAB = 256, 4096
MODEL = {"family": "llama", "hidden_size": 128, "intermediate_size": 384, "num_layers": 3, "num_heads": 4}
KEPT, DROPPED = "kept", "dropped"
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


def name_of(document: dict[str, str]) -> str:
    return f"{document['source']}/{document['id']}"


def held_out(raw: list[dict[str, str]], cleaned: list[dict[str, str]]) -> list[dict[str, str]]:
    """A twelfth of the raw documents, by hash, as they are; `source` says what the recipe does with them."""
    kept = {name_of(x): x["language"] for x in cleaned}
    chosen = [x for x in raw if xxhash.xxh64_intdigest(name_of(x).encode()) % HELD_OUT == 0]
    return [
        {**x, "source": KEPT if name_of(x) in kept else DROPPED, "language": kept.get(name_of(x), DROPPED)}
        for x in chosen
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
    held = held_out(found["raw"], found["cleaned"])
    seen = set().union(*(runs_of(x["text"]) for x in held))
    parts = {name: without(documents, seen) for name, documents in found.items()}
    for part in (KEPT, DROPPED):
        console.print(f"held out, {part}: {size([x for x in held if x['source'] == part])}")
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
        "tokens": budget, "batch": {"rows": 2, "rows_per_device": 2},
        "optimizer": {"lr": 3e-3}, "schedule": {"kind": "cosine", "warmup": 0.1},
        "checkpoint": {"every_steps": 10**6, "keep_last": 1}, "log": {"every_steps": 100},
    })  # fmt: skip
    run_local(recipe)
    return recipe.output


def bits_per_byte(run: str, heldout: str) -> dict[str, float]:
    """Of the text that the recipe keeps, of that which it drops, of all; of the kept languages, and their mean."""
    report = evaluate(EvaluateSettings(model=run, heldout=(heldout,), device="cpu"), QUIET)["heldout"]
    bits = {
        name: row["bits_per_byte"] for part in ("sources", "languages") for name, row in report[part].items()
    }
    languages = {name: x for name, x in sorted(bits.items()) if name not in (KEPT, DROPPED)}
    return {
        KEPT: bits[KEPT],
        DROPPED: bits[DROPPED],
        "all": report["all"]["bits_per_byte"],
        "mean of languages": statistics.mean(languages.values()),
        **languages,
    }


def verdict(name: str, change: list[float]) -> str:
    """In words, of what the seeds say about the text that the recipe keeps."""
    lower, higher = sum(x < 0 for x in change), sum(x > 0 for x in change)
    if max(lower, higher) < len(change) or len(change) < 2:
        return f"{name}: no difference from raw that all seeds agree on"
    side = "lower" if lower else "higher"
    return f"{name}: {side} than raw for each seed, by {abs(statistics.mean(change)):.4f} on average"


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
            console.print(f"{name}, seed {seed}: {bits[-1][KEPT]:.4f} bits per byte")
    (out / "result.json").write_text(json.dumps({"tokens": given.tokens, "bits_per_byte": found}, indent=1))
    title = f"held-out bits per byte after {given.tokens:,} tokens, {given.seeds} seeds (mean ± sd; lower is better)"
    table = Table(title=title)
    for column in ("", *found, *(f"{name} - raw" for name in found if name != "raw")):
        table.add_column(column, justify="right" if column else "left")
    for key in found["raw"][0]:
        values = {name: [bits[key] for bits in all_bits] for name, all_bits in found.items()}
        # Of the same seed, so the same start.
        change = {
            name: [b - a for a, b in zip(values["raw"], x, strict=True)]
            for name, x in values.items()
            if name != "raw"
        }
        shown = (*values.values(), *change.values())
        table.add_row(key, *(f"{statistics.mean(x):.4f} ± {spread(x):.4f}" for x in shown))
        if key == KEPT:
            said = [verdict(name, x) for name, x in change.items()]
    console.print(table)
    console.print("\n".join(said))
    console.print(f"{time.monotonic() - begin:.0f} s; {out}/result.json")


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
