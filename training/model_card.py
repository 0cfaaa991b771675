"""README.md of an exported model: what it is, how it was made, what it was trained on, how it did, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.token_manifest import TokenManifest, read_token_manifest

from .trained import Trained, said

REPORT = "evaluation.json"

_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""
_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}", dtype="{dtype}")
model = PeftModel.from_pretrained(base, "{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""
_QLORA = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

four_bits = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="{quant_type}", bnb_4bit_use_double_quant={double_quant},
    bnb_4bit_compute_dtype="{dtype}",
)
base = AutoModelForCausalLM.from_pretrained("{base}", dtype="{dtype}", quantization_config=four_bits)
model = PeftModel.from_pretrained(base, "{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""
_BOTTLENECK = """from malmoi.training.bottleneck import with_bottlenecks
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}", dtype="{dtype}")
model = with_bottlenecks(base, "{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""


@dataclass(frozen=True)
class Export:
    """`name`: of the folder; `whole`: a model that stands alone (trained in full, or merged), not an adapter."""

    trained: Trained
    name: str
    whole: bool


def tokens_of(trained: Trained) -> TokenManifest | None:
    """The manifest of the rows; None where it is gone, or no longer the one that was trained on."""
    data = trained.recipe.data
    try:
        found = read_token_manifest(data.path, data.storage_options)
    except (MalmoiError, OSError):
        return None
    return found if found.tokens_hash == trained.record["data_hash"] else None


def model_card(export: Export, tokens: TokenManifest | None) -> str:
    recipe = export.trained.recipe
    parts = [
        _front_matter(export),
        f"# {export.name}",
        _what(export),
        "## Made from\n\n" + _table(_origin(export, tokens)),
        "## Training\n\n" + _table(_training(export)) + "\n\nWhat decided the weights, of the recipe:\n\n```yaml\n"
        + yaml.safe_dump(told(export.trained.record["decisive"]), sort_keys=False, allow_unicode=True) + "```",
        "## Evaluation\n\n" + _evaluation(evaluation(export.trained)),
        f"## Use\n\n```python\n{_usage(export)}\n```",
    ]  # fmt: skip
    if recipe.method.kind == "bottleneck" and not export.whole:
        parts.append(
            "The adapter is a module of malmoi (peft has none of its kind), which has to be installed."
        )
    return "\n\n".join(parts) + "\n"


def _front_matter(export: Export) -> str:
    recipe = export.trained.recipe
    fields: dict[str, Any] = {"library_name": "transformers" if export.whole else "peft"}
    if recipe.model.path is not None:
        fields["base_model"] = base_name(recipe.model.path)
    fields["pipeline_tag"] = "text-generation"
    fields["tags"] = ["malmoi", recipe.method.kind]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---"


def _what(export: Export) -> str:
    recipe = export.trained.recipe
    kind = recipe.method.kind
    if recipe.model.path is not None:
        start = f"from `{base_name(recipe.model.path)}`"
    else:
        start = "from random weights"
    if kind == "full":
        return f"A language model trained in full {start} by malmoi."
    how = (
        "merged into the weights" if export.whole else "an adapter, which needs the model that it began from"
    )
    return f"A language model trained {start} by malmoi with the method {kind}; {how}."


def _origin(export: Export, tokens: TokenManifest | None) -> dict[str, str]:
    record = export.trained.record
    rows = {"rows (tokens_hash)": f"`{record['data_hash']}`"}
    if tokens is None:
        rows["corpus"] = "the manifest of the rows is not there any more"
    else:
        what = "corpus (manifest_hash)" if tokens.kind == "text" else "examples (hash)"
        rows[what] = f"`{tokens.source}`"
        rows["tokens in the rows"] = f"{tokens.tokens:,} in {tokens.rows:,} rows of {tokens.seq_len:,}"
        rows["tokenizer"] = f"{tokens.tokenizer.name}, {tokens.tokenizer.vocab_size:,} ids"
    rows["tokenizer.json (sha256)"] = f"`{record['tokenizer_sha256']}`"
    return rows


def _training(export: Export) -> dict[str, str]:
    trained = export.trained
    state, recipe = trained.state, trained.recipe
    rows = {
        "recipe": f"{recipe.name}, identity `{trained.record['identity']}`, seed {recipe.seed}",
        "method": recipe.method.kind,
        "steps": f"{trained.step:,} of {int(trained.record['steps']):,}",
        "tokens seen": f"{int(state['tokens']):,}",
        "loss at the last step (nats a token)": f"{state['loss']:.4f}",
    }
    result = trained.record["result"]
    if result is not None:
        some, total = int(result["trained_parameters"]), int(result["parameters"])
        rows["trained parameters"] = f"{some:,} of {total:,} ({some / total:.3%})"
    if state.get("heldout_loss") is not None:
        rows["held-out loss (nats a token)"] = f"{state['heldout_loss']:.4f}"
    rows["versions"] = ", ".join(f"{name} {number}" for name, number in trained.record["versions"].items())
    return rows


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def evaluation(trained: Trained) -> dict[str, Any] | None:
    """The report that `malmoi evaluate` left beside the weights; None where there is none."""
    try:
        return dict(json.loads(trained.run.read_bytes(f"{trained.part}/{REPORT}")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise MalmoiError(f"{trained.place}/{REPORT}: not a report of malmoi evaluate ({error})") from error


def _evaluation(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return "Not evaluated beyond the losses above."
    parts = []
    if "heldout" in report:
        held = report["heldout"]
        lines = [
            "| held-out text | documents | bytes | loss (nats a token) | bits per byte |",
            "|---|--:|--:|--:|--:|",
        ]
        for name, row in [("all", held["all"]), *held["sources"].items()]:
            lines.append(
                f"| {name} | {row['documents']:,} | {row['bytes']:,} | {_figure(row['loss'], row['loss_stderr'])} "
                f"| {_figure(row['bits_per_byte'], row['bits_per_byte_stderr'])} |"
            )
        parts += [
            "\n".join(lines),
            f"Held-out text: hash `{held['hash']}`, window {held['window']:,} tokens.",
        ]
    if "tasks" in report:
        lines = ["| task | questions | metric | value | chance |", "|---|--:|---|--:|--:|"]
        for name, task in report["tasks"].items():
            chance = f"{task['chance']:.3f}" if task.get("chance") is not None else ""
            for metric, figure in task["metrics"].items():
                value = _figure(figure["value"], figure["stderr"])
                lines.append(f"| {name} | {task['documents']:,} | {metric} | {value} | {chance} |")
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, f"By malmoi evaluate; {REPORT} has all of it."])


def _figure(value: float | None, error: float | None) -> str:
    """With its standard error; as in the terminal."""
    if value is None:
        return "-"
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _usage(export: Export) -> str:
    recipe = export.trained.recipe
    if export.whole:
        return _MODEL.format(folder=export.name)
    text = {"bottleneck": _BOTTLENECK, "qlora": _QLORA}.get(recipe.method.kind, _ADAPTER)
    return text.format(
        folder=export.name,
        base=base_name(str(recipe.model.path)),
        dtype=recipe.model.dtype,
        quant_type=recipe.method.quant_type,
        double_quant=recipe.method.double_quant,
    )


def base_name(path: str) -> str:
    """A folder's own name: where it lay is nobody's business."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def told(decisive: Mapping[str, Any]) -> dict[str, Any]:
    """What decided the weights, without keys that say nothing, and of each path the last name alone."""
    plain: dict[str, Any] = json.loads(json.dumps({**decisive, "method": said(decisive["method"])}))
    for part, key in (("model", "path"), ("data", "tokenizer")):
        if plain[part].get(key):
            plain[part][key] = base_name(plain[part][key])
    return dict(_without_null(plain))


def _without_null(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {key: _without_null(value) for key, value in values.items() if value is not None}
