"""The recipe: what a run reads, does and writes, as strict frozen models.

A recipe has two halves. `run` says how it is executed (CPUs, batch size), `output` and the options of storage where
things lie: these may change between two runs of the same output. All else decides the output and is part of the run's
identity, but for `tokenize`, whose rows have one of their own, and `on_alarm` and `partitions` of `dedup`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from .steps import as_steps


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Source(Strict):
    """A named source of documents. `path`: files, folders, globs or fsspec URLs, relative to the recipe."""

    name: str = Field(pattern=r"^[\w.-]+$")
    path: Annotated[tuple[str, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
    format: Literal["auto", "jsonl", "parquet"] = "auto"
    text: str = "text"
    id: str | None = None
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    storage_options: dict[str, Any] = Field(default_factory=dict)


class ExactDedup(Strict):
    """Documents whose normalised text has the same 128-bit hash."""

    enabled: bool = True


class FuzzyDedup(Strict):
    """MinHash LSH with verified removal; the fields are those of `malmoi.operators.MinHash` but for `measure`:
    what must reach the threshold, the Jaccard similarity or how much of the smaller document is in the larger.
    """

    enabled: bool = True
    measure: Literal["jaccard", "containment"] = "jaccard"
    ngram: Literal["word", "char"] = "word"
    ngram_size: int = Field(default=5, ge=1)
    num_perm: int = Field(default=112, ge=1)
    bands: int = Field(default=14, ge=1)
    rows: int = Field(default=8, ge=1)
    threshold: float = Field(default=0.8, gt=0.0, le=1.0)
    seed: int = 1


class Dedup(Strict):
    """Which copy stays: the columns of `prefer` in turn, larger first; then the source's name and a hash of the
    id, smaller first.

    A source or language that loses more than `alarm_share` of its documents is named in the summary and the
    manifest; `on_alarm: stop` ends the run there. `partitions`: of the shuffle, else by the size of the input;
    neither is part of the run's identity. `against`: earlier runs that were made with `save_index`; `policy`: what
    their documents do.
    """

    exact: ExactDedup = ExactDedup()
    fuzzy: FuzzyDedup = FuzzyDedup()
    quality: str | None = None
    alarm_share: float = Field(default=0.5, gt=0.0, le=1.0)
    on_alarm: Literal["warn", "stop"] = "warn"
    partitions: int | None = Field(default=None, ge=1, le=65536)
    against: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = ()
    policy: Literal["keep_old", "keep_best", "report_only"] = "keep_old"
    save_index: bool = False
    prefer: tuple[Literal["quality", "length", "priority"], ...] = ("quality", "length", "priority")


class Mixture(Strict):
    """Shares of the corpus by the values of column `by`; see `malmoi.operators.mixture`."""

    by: str = "source"
    method: Literal["as_is", "given", "temperature", "unimax"] = "as_is"
    weights: dict[str, float] = Field(default_factory=dict)
    temperature: float = Field(default=1.0, gt=0.0)
    max_epochs: float = Field(default=1.0, gt=0.0)
    budget: int | None = Field(default=None, ge=1)
    unit: Literal["documents", "bytes", "tokens"] = "bytes"
    choose: Literal["hash", "quality"] = "hash"
    quality: str | None = None
    tokenizer: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Mixture:
        if (self.method == "given") != bool(self.weights):
            raise ValueError("weights go with method: given, and with no other method")
        bad = [name for name, weight in self.weights.items() if not 0.0 <= weight < float("inf")]
        if bad or (self.weights and not any(self.weights.values())):
            raise ValueError(f"want weights of 0 and more, not all 0, got {self.weights}")
        if self.choose == "quality" and self.quality is None:
            raise ValueError("choose: quality needs quality: the column to order by")
        return self


class Write(Strict):
    format: Literal["parquet", "jsonl.zst"] = "parquet"
    shard_bytes: int = Field(default=256 * 1024**2, ge=1024)
    shuffle: bool = True
    compression_level: int = Field(default=3, ge=1, le=19)
    signals: bool = False


class TemplateSegment(Strict):
    """A piece of a prompt template; see `malmoi.operators.templates.Segment`."""

    text: str = Field(min_length=1)
    trained: bool = False
    when: str = ""
    unless: str = ""

    # A prompt's white space at its ends is meant.
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


class Tokenize(Strict):
    """Rows of token ids from the corpus or from examples; not part of the identity of the run before it.

    `tokenizer`: a tokenizer.json or a folder with one; `eos`: its token, where it names none. Without `template`
    plain text: documents one after the other (`concat`), each followed by eos and, with `bos`, after bos; the
    last row of a shard, which is not full, is dropped or padded (`tail`). With `template` (`korean`, `alpaca`,
    `chatml`, `chat` for the tokenizer's own, or segments) examples with labels on the answers: whole examples
    in rows by `best_fit`, or a row each (`none`); those longer than a row are dropped or cut (`long`).
    `columns`: what the template, or text, calls a column: the column's name in the files. `part_bytes`: of
    files other than a run's shards, which are one job each.
    """

    tokenizer: str = Field(min_length=1)
    seq_len: int = Field(default=2048, ge=2, lt=2**24)
    eos: str | None = None
    append_eos: bool = True
    bos: bool = False
    packing: Literal["concat", "best_fit", "none"] | None = None
    tail: Literal["drop", "pad"] = "drop"
    template: str | tuple[TemplateSegment, ...] | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    long: Literal["drop", "cut"] = "drop"
    part_bytes: int = Field(default=64 * 1024**2, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Tokenize:
        known = ("concat",) if self.template is None else ("best_fit", "none")
        if self.packing is not None and self.packing not in known:
            kind = "plain text" if self.template is None else "a template"
            raise ValueError(f"packing: {self.packing} is not for {kind}; there: {', '.join(known)}")
        return self


class Run(Strict):
    """How to execute; never part of the run's identity.

    `resources`, `label`: where jobs run, as Ray's custom resources (held by each job beside its CPU) and label
    selectors. `shared_filesystem`: local paths are mounted on every node. `wait_for_nodes`: seconds.
    `batch_timeout_s`: a worker that judges one batch for longer is ended and its records are tried apart, each
    for at most `record_timeout_s`.
    """

    num_cpus: int | None = Field(default=None, ge=1)
    resources: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    label: dict[str, str] = Field(default_factory=dict)
    shared_filesystem: bool = False
    wait_for_nodes: float = Field(default=0.0, ge=0.0)
    batch_rows: int = Field(default=4096, ge=1)
    batch_bytes: int = Field(default=32 * 1024**2, ge=1)
    batch_timeout_s: float = Field(default=600.0, gt=0.0)
    record_timeout_s: float = Field(default=60.0, gt=0.0)


class Recipe(Strict):
    name: str = Field(pattern=r"^[\w.-]+$")
    output: str = Field(min_length=1)
    output_options: dict[str, Any] = Field(default_factory=dict, repr=False)
    seed: int = Field(default=0, ge=0, lt=2**63)
    sources: tuple[Source, ...] = Field(min_length=1)
    part_bytes: int = Field(default=64 * 1024**2, ge=1)
    max_record_bytes: int = Field(default=128 * 1024**2, ge=1)
    steps: Annotated[tuple[dict[str, dict[str, Any] | None] | str, ...], BeforeValidator(as_steps)] = ()
    dedup: Dedup = Dedup()
    mixture: Mixture = Mixture()
    write: Write = Write()
    tokenize: Tokenize | None = None
    run: Run = Run()
    _folder: str = PrivateAttr(default=".")

    @property
    def folder(self) -> str:
        """What relative input paths are relative to: the folder of the file that it was read from, else `.`."""
        return self._folder

    @staticmethod
    def from_file(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Of a YAML file with `key.sub=value` overrides, checked whole; RecipeError says what is wrong."""
        from .config import load_recipe

        recipe = load_recipe(path, overrides)
        recipe._folder = str(Path(path).parent)
        return recipe
