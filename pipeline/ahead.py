"""The kernels of a machine's first run, compiled on all of its CPUs at once: what one worker compiles, numba keeps
beside the operators, and the others load it."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from malmoi.operators import OPERATORS, exact
from malmoi.operators.contract import LANGUAGE, TEXT, Operator

# All ways through a kernel are compiled at once; what else decides is whether a text is ASCII, or NFC already.
_TEXTS = [
    "Words, and more.\nA {line}; another.\n\nThe end.",
    "말모이는 첫 한국어 사전이다.",
    "말\u1100\u1161 \r\n",
    "日本語。🙂",
]
_LONG = " ".join(f"word{i}" for i in range(200))


def cache_folder() -> Path:
    """Where numba keeps compiled kernels: beside the operators, in NUMBA_CACHE_DIR, or in the user's cache."""
    return Path(exact._text_hashes._cache.cache_path)  # type: ignore[attr-defined]


def compiled() -> bool:
    """Whether kernels were compiled on this machine before; a plan compiles those of language models."""
    return any(not file.name.startswith("fasttext") for file in cache_folder().glob("*.nbi"))


def compile_ahead(steps: tuple[Operator, ...]) -> None:
    """Compile what these steps, and what every run needs, on the Ray that runs. What goes wrong here goes wrong
    again in the job that meets it, and is told there."""
    import ray

    work = ray.remote(num_cpus=1, max_retries=0)(_compile)
    ours = [step for step in steps if type(step) in OPERATORS.values()]
    for answer in [work.remote(one) for one in (None, *ours)]:
        with suppress(Exception):
            ray.get(answer)


def _compile(step: Operator | None) -> None:
    """A step's kernels, or those of a run without steps."""
    if step is not None:
        column = pa.array(_TEXTS, pa.large_string())
        step(pa.table({"id": column, "source": column, TEXT: column, LANGUAGE: column}))
        return
    from rich.console import Console

    from .config import parse_recipe
    from .plan import make_plan
    from .run import run_plan

    with tempfile.TemporaryDirectory() as folder:
        texts = [*_TEXTS, _LONG, f"{_LONG} and", f"{_LONG} and"]
        lines = [json.dumps({TEXT: text, "more": {"n": [1, 2.5]}, "count": 1}) for text in texts]
        Path(folder, "in.jsonl").write_text("\n".join(lines), "utf-8")
        source = {"name": "texts", "path": "in.jsonl"}
        recipe = parse_recipe({"name": "ahead", "output": f"{folder}/run", "sources": [source], "steps": []})
        run_plan(make_plan(recipe, folder), console=Console(quiet=True), engine="local", summary=False)
