"""Multiple choice by the likelihood of each choice after the prompt; the settings of all tasks.

acc: the choice with the highest log-likelihood is right. acc_norm: the highest log-likelihood by character of
the choice, acc_bytes: by UTF-8 byte. These are lm-eval's names and rules (its acc_norm counts characters; in
Korean the two differ wherever a choice mixes Hangul with ASCII). f1: macro-averaged over the answers' numbers,
where KoBEST's published figures have it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field, model_validator

from malmoi.pipeline.errors import SourceError
from malmoi.pipeline.yaml_file import check_model, read_yaml

from .local_rows import file_hash, read_rows
from .recipe import Strict
from .scoring import Floats, Request, encode_pair, pair_request
from .task_formats import Example, make_example

Format = Literal[
    "plain", "mmlu", "hellaswag",
    "kobest_boolq", "kobest_copa", "kobest_wic", "kobest_hellaswag", "kobest_sentineg",
    "humaneval",
]  # fmt: skip
Positive = Annotated[int, Field(ge=1)]
DELIMITER = " "
BETWEEN = "\n\n"


class CodeSettings(Strict):
    """How code is written and run. `samples` of each problem, for pass@k of each `k`.

    `temperature` 0 is greedy, with one sample. Defaults: the sampling of Chen et al. 2021 for large k and
    the stops of HumanEval. Limits are of one program: `seconds` on the clock, `memory_mb` of address
    space, `file_kb` of each file and of what it prints.
    """

    samples: Positive = 1
    k: tuple[Positive, ...] = (1,)
    temperature: float = Field(default=0.0, ge=0.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    max_new_tokens: Positive = 512
    stop: tuple[str, ...] = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    seconds: float = Field(default=10.0, gt=0.0, le=600.0)
    memory_mb: int = Field(default=1024, ge=64)
    file_kb: Positive = 1024

    @model_validator(mode="after")
    def _consistent(self) -> CodeSettings:
        if not self.k or max(self.k) > self.samples:
            raise ValueError(f"want k of 1 to samples={self.samples}, got {list(self.k)}")
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"samples={self.samples} would all be the same at temperature 0; set temperature"
            )
        return self


class TaskSettings(Strict):
    """One task. `fewshot` examples from `fewshot_path` stand before each question: the `first` ones of its
    group, or others for each question by `hash` of (seed, question, example). `limit`: at most so many
    questions, chosen by hash of (seed, question). `code`: for the format humaneval only."""

    name: str = Field(pattern=r"^[\w.-]+$")
    format: Format
    path: str = Field(min_length=1)
    fewshot: int = Field(default=0, ge=0)
    fewshot_path: str | None = None
    fewshot_choice: Literal["first", "hash"] = "first"
    seed: int = Field(default=0, ge=0, lt=2**63)
    limit: Positive | None = None
    code: CodeSettings | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TaskSettings:
        if self.fewshot and self.fewshot_path is None:
            raise ValueError(f"fewshot={self.fewshot} needs fewshot_path")
        if self.format == "humaneval" and self.fewshot:
            raise ValueError("format: humaneval takes no fewshot examples")
        if self.format != "humaneval" and self.code is not None:
            raise ValueError(f"code says nothing for format: {self.format}")
        return self

    @property
    def coding(self) -> CodeSettings:
        return self.code or CodeSettings()


class Tasks(Strict):
    """tasks.yaml."""

    tasks: tuple[TaskSettings, ...]

    @model_validator(mode="after")
    def _unique(self) -> Tasks:
        if not self.tasks:
            raise ValueError("no task in it")
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two tasks are named {', '.join(twice)}")
        return self


def read_tasks(path: str | Path) -> Tasks:
    """Checked tasks from a YAML file; paths in it are relative to the folder that you are in."""
    data, root = read_yaml(path)
    return check_model(Tasks, data, str(path), root)


def task_hash(settings: TaskSettings) -> str:
    """32 hex digits over the settings and the content of the files, wherever these lie."""
    plain = settings.model_dump(mode="json", exclude={"path", "fewshot_path"})
    files = [file_hash(path) for path in (settings.path, settings.fewshot_path) if path is not None]
    return hashlib.sha256(json.dumps([plain, files], sort_keys=True).encode()).hexdigest()[:32]


def _key(seed: int, *texts: str) -> int:
    return xxhash.xxh3_64_intdigest("\0".join(texts).encode(), seed=seed)


def sampled(count: int, limit: int | None, seed: int, text: Callable[[int], str]) -> list[int]:
    """The numbers of the rows that are asked, in order; of rows with equal texts the first go first."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(sorted(range(count), key=lambda number: (_key(seed, text(number)), number))[:limit])


def read_examples(kind: str, path: str) -> list[Example]:
    examples = [make_example(kind, row, place) for place, row in read_rows(path)]
    if not examples:
        raise SourceError(f"{path}: empty")
    return examples


def fewshot_text(example: Example, shots: Sequence[Example], settings: TaskSettings) -> str:
    """What stands before the prompt: `description`, then questions of the same group with their answers."""
    if not settings.fewshot:
        return example.description
    same = [shot for shot in shots if shot.group == example.group and shot != example]
    if len(same) < settings.fewshot:
        about = f" of {example.group}" if example.group else ""
        raise SourceError(
            f"{settings.fewshot_path}: want {settings.fewshot} examples{about} beside the question, "
            f"got {len(same)}"
        )
    if settings.fewshot_choice == "hash":
        same.sort(key=lambda shot: _key(settings.seed, example.prompt, shot.prompt))
    answered = [
        shot.prompt + DELIMITER + shot.choices[shot.answer] + BETWEEN for shot in same[: settings.fewshot]
    ]
    return example.description + "".join(answered)


@dataclass(frozen=True)
class ChoicePlan:
    """`examples` and the requests of their choices, one after the other; `cut`: contexts cut to the window."""

    settings: TaskSettings
    examples: tuple[Example, ...]
    requests: tuple[Request, ...]
    cut: int
    hash: str

    @staticmethod
    def of(
        settings: TaskSettings, encode: Callable[[str], list[int]], prefix: int | None, window: int
    ) -> ChoicePlan:
        """`encode`: text to ids with the special tokens that the tokenizer adds by itself."""
        rows = read_examples(settings.format, settings.path)
        asked = sampled(len(rows), settings.limit, settings.seed, lambda number: rows[number].prompt)
        examples = tuple(rows[number] for number in asked)
        shots = read_examples(settings.format, settings.fewshot_path) if settings.fewshot_path else []
        requests, cut = [], 0
        for example in examples:
            context = fewshot_text(example, shots, settings) + example.prompt
            lost = 0
            for choice in example.choices:
                try:
                    first, rest = encode_pair(encode, context, DELIMITER + choice, prefix)
                except ValueError as error:
                    raise SourceError(f"{settings.path}: {example.prompt[:60]!r}: {error}") from error
                request, lost = pair_request(first, rest, window)
                requests.append(request)
            cut += lost > 0
        return ChoicePlan(settings, examples, tuple(requests), cut, task_hash(settings))

    def report(self, scores: Floats) -> dict[str, Any]:
        """The part of a report for this task."""
        groups = [example.group for example in self.examples]
        results = choose(self.examples, scores)
        metrics = results.metrics(np.ones(len(groups), dtype=np.bool_))
        if self.settings.format.startswith("kobest"):
            metrics["f1"] = macro_f1(results.answer, results.chosen["acc"])
        report: dict[str, Any] = {
            "format": self.settings.format,
            "hash": self.hash,
            "documents": len(groups),
            "fewshot": self.settings.fewshot,
            "cut": self.cut,
            "chance": float(np.mean([1 / len(example.choices) for example in self.examples])),
            "metrics": metrics,
        }
        if any(groups):
            report["groups"] = {
                name: {"documents": groups.count(name), **results.metrics(np.asarray([x == name for x in groups]))}
                for name in sorted(set(groups))
            }  # fmt: skip
        return report


@dataclass(frozen=True, eq=False)
class Chosen:
    """By question: the right choice, and the chosen one by rule; each int64 [n]."""

    answer: NDArray[np.int64]
    chosen: dict[str, NDArray[np.int64]]

    def metrics(self, of: NDArray[np.bool_]) -> dict[str, Any]:
        return {name: mean((found == self.answer)[of]) for name, found in self.chosen.items()}


def choose(examples: Sequence[Example], scores: Floats) -> Chosen:
    """`scores`: float64, of all choices of the first question, then of the second, and so on.

    Of equal choices the first is taken.
    """
    rules: dict[str, list[int]] = {"acc": [], "acc_norm": [], "acc_bytes": []}
    first = 0
    for example in examples:
        found = scores[first : first + len(example.choices)]
        first += len(example.choices)
        for name, sizes in (
            ("acc", [1] * len(example.choices)),
            ("acc_norm", [len(choice) for choice in example.choices]),
            ("acc_bytes", [len(choice.encode()) for choice in example.choices]),
        ):
            rules[name].append(int(np.argmax(found / np.asarray(sizes, dtype=np.float64))))
    chosen = {name: np.asarray(numbers, dtype=np.int64) for name, numbers in rules.items()}
    return Chosen(np.asarray([example.answer for example in examples], dtype=np.int64), chosen)


def mean(values: NDArray[Any]) -> dict[str, float | None]:
    """Mean and its standard error (sample standard deviation over sqrt n; None for one value)."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"value": float(np.mean(values)), "stderr": error}


def macro_f1(answer: NDArray[np.int64], chosen: NDArray[np.int64]) -> dict[str, float | None]:
    """Mean over the answers' numbers of 2 tp / (2 tp + fp + fn), as scikit-learn, with its jackknife error."""
    size = int(max(answer.max(), chosen.max())) + 1
    table = np.zeros((size, size), dtype=np.int64)
    np.add.at(table, (answer, chosen), 1)
    value = _f1(table)
    count = len(answer)
    if count < 2:
        return {"value": value, "stderr": None}
    without, weight = [], []
    for place in np.argwhere(table):
        left = table.copy()
        left[tuple(place)] -= 1
        without.append(_f1(left))
        weight.append(table[tuple(place)])
    centre = np.average(without, weights=weight)
    spread = np.average((np.asarray(without) - centre) ** 2, weights=weight)
    return {"value": value, "stderr": math.sqrt((count - 1) * float(spread))}


def _f1(table: NDArray[np.int64]) -> float:
    """`table[answer, chosen]`: counts. Numbers that are neither answer nor chosen do not count."""
    right = np.diag(table)
    both = table.sum(axis=0) + table.sum(axis=1)
    return float(np.mean(2 * right[both > 0] / both[both > 0]))
