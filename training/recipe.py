"""The recipe of a training run, as strict frozen models.

`workers`, `log`, `checkpoint` and the others of `_EXECUTION` say how and where it is executed and may change when a run
goes on; the rest decides the weights and is part of the run's identity (`identity`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from malmoi.pipeline.yaml_file import check_model, read_yaml

Kind = Literal[
    "full", "lora", "qlora", "dora", "prefix", "prompt", "p_tuning", "llama_adapter", "ia3", "bottleneck"
]
Dtype = Literal["bfloat16", "float32"]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]

PROMPT_KINDS = ("prefix", "prompt", "p_tuning")
# Which keys of `method` say something for which kind.
_LOW_RANK = ("rank", "alpha", "dropout", "target_modules")
_QUANT = ("quant_type", "double_quant", "quant_storage")
METHOD_KEYS: dict[str, tuple[str, ...]] = {
    "full": (),
    "lora": _LOW_RANK,
    "qlora": (*_LOW_RANK, *_QUANT),
    "dora": _LOW_RANK,
    "prefix": ("num_virtual_tokens", "reparameterization", "encoder_hidden_size"),
    "prompt": ("num_virtual_tokens",),
    "p_tuning": ("num_virtual_tokens", "reparameterization", "encoder_hidden_size", "dropout"),
    "llama_adapter": ("num_virtual_tokens", "adapter_layers"),
    "ia3": ("target_modules",),
    "bottleneck": ("bottleneck_size", "dropout"),
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class DataSettings(Strict):
    """`path`: a folder that `malmoi tokenize` wrote. `tokenizer`: where given, it has to be the manifest's.

    The last `holdout` share of the rows is never trained on; its loss is measured every `evaluate_every` steps.
    """

    path: str = Field(min_length=1)
    storage_options: dict[str, Any] = Field(default_factory=dict, repr=False)
    tokenizer: str | None = None
    holdout: Share = 0.0
    evaluate_every: Positive | None = None
    evaluate_rows: Positive = 64

    @model_validator(mode="after")
    def _consistent(self) -> DataSettings:
        if self.evaluate_every is not None and not self.holdout:
            raise ValueError(f"evaluate_every={self.evaluate_every} needs holdout above 0")
        return self


class ModelShape(Strict):
    """Sizes of a model that starts from random weights. `vocab_size`: by default the tokenizer's, rounded up to
    64; `max_positions`: by default the length of the rows; `head_dim`: hidden_size / num_heads."""

    family: Literal["llama", "qwen3"]
    hidden_size: Positive
    intermediate_size: Positive
    num_layers: Positive
    num_heads: Positive
    num_kv_heads: Positive | None = None
    head_dim: Positive | None = None
    vocab_size: Positive | None = None
    max_positions: Positive | None = None
    rope_theta: float = Field(default=10000.0, gt=0.0)
    tie_embeddings: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> ModelShape:
        kv_heads = self.num_kv_heads or self.num_heads
        if self.num_heads % kv_heads:
            raise ValueError(f"num_heads={self.num_heads} is no multiple of num_kv_heads={kv_heads}")
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} is no multiple of num_heads={self.num_heads}")
        return self


class ModelSettings(Strict):
    """Either `path`, a folder of a Hugging Face model with its weights, or `config`, a random one.

    `attention`: `sdpa` and `eager` are plain causal over a row; `packed` and `varlen` see no other document of
    the row (`packed`: SDPA by document, any device; `varlen`: one kernel, CUDA and bfloat16 only). `auto` is
    `sdpa`, but where rows hold several examples of instruction data one of the other two. `dtype`: that of the
    computation; weights that are trained in full are kept in float32 beside it.
    """

    path: str | None = None
    config: ModelShape | None = None
    attention: Literal["auto", "sdpa", "eager", "packed", "varlen"] = "auto"
    dtype: Dtype = "bfloat16"

    @model_validator(mode="after")
    def _one_of(self) -> ModelSettings:
        if (self.path is None) == (self.config is None):
            raise ValueError("want one of path and config, got " + ("none" if self.path is None else "both"))
        return self


class MethodSettings(Strict):
    """What is trained. A key that says nothing for `kind` is refused (`METHOD_KEYS`).

    Defaults: rank 16, alpha 2 x rank (LoRA, Hu et al. 2021, uses alpha >= rank), all linear layers (QLoRA,
    Dettmers et al. 2023); NF4 with double quantisation, stored as bfloat16 so that FSDP2 sees one dtype.
    """

    kind: Kind = "full"
    rank: Positive = 16
    alpha: float | None = Field(default=None, gt=0.0)
    dropout: Share = 0.0
    target_modules: Literal["all-linear"] | tuple[str, ...] | None = None
    num_virtual_tokens: Positive = 20
    reparameterization: Literal["none", "mlp", "lstm"] | None = None
    encoder_hidden_size: Positive | None = None
    adapter_layers: Positive | None = None
    bottleneck_size: Positive = 64
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    quant_storage: Literal["bfloat16", "float32", "uint8"] = "bfloat16"

    @model_validator(mode="after")
    def _keys_of_kind(self) -> MethodSettings:
        known = METHOD_KEYS[self.kind]
        wrong = sorted(self.model_fields_set - {"kind", *known})
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)} says nothing for kind: {self.kind}; known there: {', '.join(known) or 'none'}"
            )
        if self.kind == "p_tuning" and self.reparameterization != "lstm" and self.dropout:
            raise ValueError("dropout of kind: p_tuning is between the layers of reparameterization: lstm")
        if self.kind == "prefix" and self.reparameterization == "lstm":
            raise ValueError("reparameterization: lstm goes with kind: p_tuning; prefix has none and mlp")
        if self.kind == "p_tuning" and self.reparameterization == "none":
            raise ValueError(
                "kind: p_tuning has reparameterization mlp and lstm, got none; kind: prompt has none"
            )
        return self

    @property
    def lora_alpha(self) -> float:
        return 2.0 * self.rank if self.alpha is None else self.alpha


class OptimizerSettings(Strict):
    """AdamW with decoupled weight decay (Loshchilov & Hutter 2019); matrices decay, vectors do not.

    `paged_adamw_8bit` is that of bitsandbytes, on one device or with replicas, not with sharded weights.
    Betas (0.9, 0.95) are those of GPT-3 and Llama.
    """

    name: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    lr: float = Field(default=3e-4, gt=0.0)
    betas: tuple[Share, Share] = (0.9, 0.95)
    weight_decay: float = Field(default=0.1, ge=0.0)
    eps: float = Field(default=1e-8, gt=0.0)


class ScheduleSettings(Strict):
    """`warmup`: a share of all steps below 1, else a number of steps. `decay`: the last share of the steps, in
    which `wsd` falls. Formulas: `malmoi.training.schedule`."""

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: float = Field(default=0.01, ge=0.0)
    decay: float = Field(default=0.2, gt=0.0, le=1.0)
    min_lr_ratio: float = Field(default=0.1, ge=0.0, le=1.0)


class BatchSettings(Strict):
    """`rows`: of one optimiser step over all workers; it does not change with their number, so neither do the
    steps. `rows_per_device`: at most so many at once; the rest is gradient accumulation."""

    rows: Positive = 8
    rows_per_device: Positive = 8


class LossSettings(Strict):
    """`chunk_tokens`: logits are made for so many positions at a time; 0 makes all of them at once."""

    chunk_tokens: int = Field(default=1024, ge=0)


class CheckpointSettings(Strict):
    """`keep_best` keeps so many of the lowest held-out loss beside the `keep_last` newest."""

    every_steps: Positive = 500
    keep_last: Positive = 2
    keep_best: int = Field(default=0, ge=0)
    asynchronous: bool = True


class LogSettings(Strict):
    every_steps: Positive = 10
    tensorboard: bool = False


class WorkerSettings(Strict):
    """`num_workers`: a number, or [least, most] for a cluster that grows and shrinks. A worker takes one GPU or
    none. `max_failures`: restarts before the run gives up; -1 for no limit. `sharding`: `fsdp` shares the
    weights out, `ddp` gives all of them to each worker. `autoscaling`: nodes come when they are asked for, so
    what the cluster lacks now is waited for. `shared_filesystem`: local paths are mounted on every node.
    """

    num_workers: Positive | tuple[Positive, Positive] = 1
    gpus_per_worker: Literal[0, 1] = 0
    cpus_per_worker: float = Field(default=1.0, gt=0.0)
    max_failures: int = Field(default=3, ge=-1)
    sharding: Literal["fsdp", "ddp"] = "fsdp"
    autoscaling: bool = False
    shared_filesystem: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> WorkerSettings:
        least, most = self.range
        if least > most:
            raise ValueError(f"want num_workers [least, most], got [{least}, {most}]")
        return self

    @property
    def range(self) -> tuple[int, int]:
        given = self.num_workers
        return given if isinstance(given, tuple) else (given, given)


class TrainRecipe(Strict):
    """One of `steps`, `epochs` (over the rows trained on) and `tokens` says how long the run is."""

    name: str = Field(pattern=r"^[\w.-]+$")
    output: str = Field(min_length=1)
    output_options: dict[str, Any] = Field(default_factory=dict, repr=False)
    seed: int = Field(default=0, ge=0, lt=2**63)
    data: DataSettings
    model: ModelSettings
    method: MethodSettings = MethodSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    steps: Positive | None = None
    epochs: float | None = Field(default=None, gt=0.0)
    tokens: Positive | None = None
    batch: BatchSettings = BatchSettings()
    clip_norm: float = Field(default=1.0, ge=0.0)
    loss: LossSettings = LossSettings()
    compile: Literal["none", "block"] = "none"
    activation_checkpointing: bool = False
    checkpoint: CheckpointSettings = CheckpointSettings()
    log: LogSettings = LogSettings()
    workers: WorkerSettings = WorkerSettings()

    @model_validator(mode="after")
    def _consistent(self) -> TrainRecipe:
        given = [name for name in ("steps", "epochs", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"want one of steps, epochs and tokens, got {', '.join(given) or 'none'}")
        kind, attention = self.method.kind, self.model.attention
        if kind in PROMPT_KINDS and attention in ("packed", "varlen"):
            raise ValueError(
                f"model.attention={attention} does not go with method.kind={kind}: virtual tokens stand before "
                "the first document only; use rows of one document and attention: sdpa"
            )
        if kind == "prefix" and self.activation_checkpointing:
            raise ValueError("method.kind=prefix does not go with activation_checkpointing")
        if attention == "varlen" and not self.workers.gpus_per_worker:
            raise ValueError(
                "model.attention=varlen runs on CUDA only; use packed, or workers.gpus_per_worker=1"
            )
        if (
            (kind, self.optimizer.name) == ("full", "paged_adamw_8bit")
            and self.workers.range[1] > 1
            and self.workers.sharding == "fsdp"
        ):
            raise ValueError(
                "optimizer.name=paged_adamw_8bit needs whole tensors; with more than one worker use adamw, or "
                "workers.sharding=ddp"
            )
        if self.workers.range[1] > self.batch.rows:
            raise ValueError(
                f"batch.rows={self.batch.rows} are fewer than {self.workers.range[1]} workers; give each a row"
            )
        if self.checkpoint.keep_best and self.data.evaluate_every is None:
            raise ValueError("checkpoint.keep_best needs data.holdout and data.evaluate_every")
        return self


# What says only how and where a run is executed. Learning rate and length of a run are not among them: the
# schedule depends on both.
_EXECUTION = (
    "output",
    "output_options",
    "workers",
    "log",
    "checkpoint",
    "compile",
    "activation_checkpointing",
)


def decisive(recipe: TrainRecipe) -> dict[str, Any]:
    """What decides the weights, as JSON values; a run that goes on has to have the same."""
    data = recipe.model_dump(mode="json", exclude=set(_EXECUTION))
    for part, name in (("data", "storage_options"), ("data", "path"), ("batch", "rows_per_device")):
        data[part].pop(name)  # the rows themselves are known by their hash
    return data


def identity(recipe: TrainRecipe) -> str:
    """16 hex digits over what decides the weights."""
    return hashlib.sha256(json.dumps(decisive(recipe), sort_keys=True).encode()).hexdigest()[:16]


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())


def read_recipe(path: str | Path, overrides: Iterable[str] = ()) -> TrainRecipe:
    """A checked recipe from a YAML file; its paths are relative to the folder that you are in.

    Raises RecipeError with a line for each problem.
    """
    data, root = read_yaml(path, overrides)
    recipe = check_model(TrainRecipe, data, str(path), root)
    places = {"path": _absolute(recipe.data.path)}
    if recipe.data.tokenizer is not None:
        places["tokenizer"] = _absolute(recipe.data.tokenizer)
    update: dict[str, Any] = {
        "output": _absolute(recipe.output),
        "data": recipe.data.model_copy(update=places),
    }
    if recipe.model.path is not None:
        update["model"] = recipe.model.model_copy(update={"path": _absolute(recipe.model.path)})
    return recipe.model_copy(update=update)
