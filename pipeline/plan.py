"""The plan of a run: everything that can be known and refused before a document is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa
import xxhash

from malmoi.operators.config import did_you_mean
from malmoi.operators.contract import LANGUAGE, Operator
from malmoi.operators.exact import ID_SCHEME, TEXT_SCHEME
from malmoi.operators.minhash import MinHash
from malmoi.operators.thresholds import VERSION as THRESHOLDS_VERSION
from malmoi.operators.token_count import TokenCount

from .columns import infer_extras
from .config import build_steps, check_columns
from .errors import RecipeError, SourceError
from .files import InputFile, find_files
from .filtering import FilterPart, KeySpec, documents_schema
from .identity import FORMAT, identity_of, libraries, plain
from .recipe import Recipe, Source
from .saved import Index, open_index
from .scatter import held_bytes
from .sources import COMPRESSED_TIMES, Part, split_parts
from .token_settings import check_settings, prompts_of

# Measured with benchmarks/memory.py, peak resident set, 250 MB to 2 GB of web text (docs/performance.md):
# 200 documents with all rules: interpreter, Arrow, compiled kernels, language model ...
WORKER_BASE_BYTES = 380 * 1024**2
# ... run.batch_rows=100000: bytes held per byte of text in a batch (text, Arrow copies, words, hashes, signals) ...
BATCH_FACTOR = 24
# ... no steps, 2 GB: per byte of text that is put in order and written.
ORDER_FACTOR = 3
# Measured with benchmarks/dedup_growth.py: 570 MB at a million documents, 1,197 at ten; a mixture takes 60 bytes more.
DRIVER_BASE_BYTES = 520 * 1024**2
KEY_BYTES_PER_DOCUMENT = 150
ASSUMED_DOCUMENT_BYTES = 1500


@dataclass(frozen=True)
class SourcePlan:
    """One source of the recipe with its files and parts."""

    source: Source
    files: tuple[InputFile, ...]
    extras: pa.Schema
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def text_bytes(self) -> int:
        """Estimated bytes uncompressed."""
        packed = sum(file.size for file in self.files if file.compression or file.format == "parquet")
        return self.size + (COMPRESSED_TIMES - 1) * packed


@dataclass(frozen=True)
class Plan:
    """A checked recipe with its operators, inputs and parts; parts are numbered over all sources."""

    recipe: Recipe
    base: str
    steps: tuple[Operator, ...]
    sources: tuple[SourcePlan, ...]
    extras: pa.Schema
    keys: KeySpec

    @cached_property
    def against(self) -> tuple[Index, ...]:
        """The saved indexes of earlier runs, oldest first; RecipeError where one cannot be used."""
        recipe = self.recipe
        options = recipe.output_options
        return tuple(
            open_index(place, self.base, self.keys.minhash, options) for place in recipe.dedup.against
        )

    @property
    def num_parts(self) -> int:
        return sum(len(source.parts) for source in self.sources)

    @property
    def documents(self) -> pa.Schema:
        """Schema of the kept and dropped documents."""
        return documents_schema(self.extras, self.steps)

    def jobs(self) -> list[FilterPart]:
        """The filter stage's payloads, in the parts' order."""
        return [
            FilterPart(
                part=part,
                source=planned.source,
                base=self.base,
                source_extras=planned.extras,
                extras=self.extras,
                steps=self.steps,
                keys=self.keys,
                run=self.recipe.run,
                max_record_bytes=self.recipe.max_record_bytes,
            )
            for planned in self.sources
            for part in planned.parts
        ]

    @property
    def worker_bytes(self) -> int:
        """Estimated peak memory of one worker process, which filters a batch or orders a shard."""
        batch = min(self.recipe.run.batch_bytes, max(source.text_bytes for source in self.sources))
        ordered = held_bytes(self.recipe.write, sum(source.text_bytes for source in self.sources))
        return WORKER_BASE_BYTES + max(BATCH_FACTOR * batch, ORDER_FACTOR * ordered)

    @property
    def driver_bytes(self) -> int:
        """Estimated peak memory of the process that holds the keys of all documents."""
        documents = sum(source.text_bytes for source in self.sources) // ASSUMED_DOCUMENT_BYTES
        return DRIVER_BASE_BYTES + documents * KEY_BYTES_PER_DOCUMENT

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides the output; two runs with the same identity give the same bytes. Made once."""
        apart = {"run", "output", "output_options", "tokenize"}  # the rows of tokens have a plan of their own
        recipe = self.recipe.model_dump(mode="json", exclude=apart)
        for source in recipe["sources"]:
            source.pop("storage_options", None)
        for key in ("on_alarm", "partitions"):  # how, not what
            recipe["dedup"].pop(key)
        return {
            "format": FORMAT,
            "malmoi": malmoi_version(),
            "recipe": recipe,
            "operators": [identity_of(step) for step in self.steps],
            "schemes": {
                "id": ID_SCHEME,
                "exact": TEXT_SCHEME,
                "thresholds": str(THRESHOLDS_VERSION),
                "candidates": "buckets of 64, 64 rounds" if self.keys.minhash else None,
                "minhash": self.keys.minhash.scheme if self.keys.minhash else None,
            },
            "inputs": [
                {
                    "source": planned.source.name,
                    "file": file.relpath,
                    "bytes": file.size,
                    "fingerprint": file.fingerprint,
                }
                for planned in self.sources
                for file in planned.files
            ],
            "against": [index.hash for index in self.against],
            "parts": self.num_parts,
            "cuts": self._cuts,
            "columns": {field.name: str(field.type) for field in self.extras},
            "libraries": libraries(self.steps),
        }

    @cached_property
    def key(self) -> str:
        """xxh3_128 of the identity, in every commit record: work for another plan is never taken for ours."""
        return str(xxhash.xxh3_128_hexdigest(json.dumps(plain(self.identity), sort_keys=True).encode()))

    @property
    def _cuts(self) -> str:
        """xxh3_128 of where the input is cut into parts, and with which columns each source is read."""
        cuts = [
            [part.index, [[piece.file.relpath, piece.start, piece.stop] for piece in part.pieces]]
            for planned in self.sources
            for part in planned.parts
        ]
        columns = [[planned.source.name, str(planned.extras)] for planned in self.sources]
        return str(xxhash.xxh3_128_hexdigest(json.dumps([cuts, columns]).encode()))


def malmoi_version() -> str:
    try:
        return version("malmoi")
    except PackageNotFoundError:
        return "unknown"


def make_plan(recipe: Recipe, base: str = ".", name: str = "recipe") -> Plan:
    """Check the recipe against its inputs: columns, paths, models. Reads headers, no documents' text."""
    steps = build_steps(recipe, name)
    sources: list[SourcePlan] = []
    first = 0
    for source in recipe.sources:
        files = tuple(find_files(source, base))
        extras = infer_extras(source, list(files))
        parts = tuple(split_parts(source, list(files), recipe.part_bytes, first))
        first += len(parts)
        sources.append(SourcePlan(source, files, extras, parts))
    if not any(planned.parts for planned in sources):
        names = ", ".join(planned.source.name for planned in sources)
        raise SourceError(f"{name}: nothing to read: every file is empty (sources: {names})")
    extras = unify([planned.extras for planned in sources])
    if recipe.mixture.tokenizer:
        steps = (*steps, TokenCount(tokenizer=recipe.mixture.tokenizer))
    check_columns(steps, {"id", "source", "text", *extras.names}, name)
    there = set(documents_schema(extras, steps).names)
    quality = _quality(recipe, name)
    _check_weights(recipe, name)
    for key, column in (("mixture.by", recipe.mixture.by), ("quality", quality)):
        if column is not None and column not in there:
            raise RecipeError(f"{name}: {key}: no column {column!r}; there: {', '.join(sorted(there))}")
    if quality is not None:
        kind = documents_schema(extras, steps).field(quality).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise RecipeError(f"{name}: quality: column {quality!r} is {kind}, want a column of numbers")
    if recipe.mixture.unit == "tokens" and "num_tokens" not in there:
        raise RecipeError(
            f"{name}: mixture.unit: tokens needs mixture.tokenizer: the path of a tokenizer.json"
        )
    if recipe.mixture.by == LANGUAGE and LANGUAGE not in there:
        raise RecipeError(f"{name}: mixture.by: language needs the step language_id")
    keys = KeySpec(minhash_of(recipe), recipe.dedup.exact.enabled, recipe.mixture.by, quality)
    for step in steps:
        _load_models(step, name)
    if recipe.tokenize is not None:
        check_settings(recipe.tokenize, name)
        for column in prompts_of(recipe.tokenize, name)[2]:
            if column not in there:
                raise RecipeError(
                    f"{name}: tokenize: no column {column!r}{did_you_mean(column, list(there))}"
                )
    made = Plan(recipe, base, steps, tuple(sources), extras, keys)
    _ = made.against  # refused here, before a document is read
    return made


def _check_weights(recipe: Recipe, name: str) -> None:
    """With weights by source, exactly the recipe's sources have one; other groups are known only later."""
    weights, known = recipe.mixture.weights, [source.name for source in recipe.sources]
    if not weights or recipe.mixture.by != "source":
        return
    for wrong in sorted(set(weights) - set(known)):
        raise RecipeError(f"{name}: mixture.weights: no source {wrong!r}{did_you_mean(wrong, known)}")
    for missing in sorted(set(known) - set(weights)):
        raise RecipeError(f"{name}: mixture.weights: source {missing!r} has no weight; 0 leaves it out")


def _load_models(step: Operator, name: str) -> None:
    check = getattr(step, "check", None)
    if check is not None:
        try:
            check()
        except (OSError, ValueError, ImportError) as error:
            raise RecipeError(f"{name}: {step.name}: {error}") from error


def _quality(recipe: Recipe, name: str) -> str | None:
    dedup, mixture = recipe.dedup.quality, recipe.mixture.quality
    if dedup and mixture and dedup != mixture:
        raise RecipeError(f"{name}: dedup.quality={dedup!r} and mixture.quality={mixture!r}: want one column")
    return dedup or mixture


def minhash_of(recipe: Recipe) -> MinHash | None:
    """The MinHash of the recipe's fuzzy deduplication, None where it is off."""
    fuzzy = recipe.dedup.fuzzy
    if not fuzzy.enabled:
        return None
    try:
        return MinHash(**fuzzy.model_dump(exclude={"enabled", "measure"}))
    except ValueError as error:
        raise RecipeError(f"dedup.fuzzy: {error}") from error


def unify(schemas: list[pa.Schema]) -> pa.Schema:
    """The union of the sources' extra columns; types that differ become double, else large_string."""
    fields: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            before = fields.get(field.name, field.type)
            if before != field.type:
                numbers = all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in (before, field.type))
                before = pa.float64() if numbers else pa.large_string()
            fields[field.name] = before
    return pa.schema([pa.field(name, fields[name]) for name in sorted(fields)])
