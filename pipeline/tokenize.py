"""Stage `tokenize`, the whole: from the corpus of a run, or from files, to rows of token ids and `tokens.json`.

The rows lie in a folder of their own with their own plan, commit records and manifest, so one corpus may be
tokenised in several ways, and the same call goes on after a stop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import xxhash
from rich.console import Console
from rich.markup import escape

from malmoi.operators.tokenizing import Encoder, library_versions

from .cluster import check_reach
from .engine import Counts, EngineKind, Job, run_jobs, start_ray
from .errors import ChangedError, MalmoiError, RecipeError
from .examples import check_columns, examples_source, find_examples, read_examples
from .files import Compression, InputFile
from .identity import libraries, plain
from .lock import only_run
from .manifest import FILE as RUN_MANIFEST
from .manifest import Manifest, Output
from .outcome import add_counts
from .plan import malmoi_version
from .progress import stage_progress
from .ray_place import check_lasting
from .recipe import Run, Tokenize
from .sources import Piece, split_parts
from .storage import Folder, is_local
from .token_manifest import FILE, TokenBook, TokenizerId, TokenManifest, read_token_manifest
from .token_settings import check_settings, prompts_of
from .token_shards import STAGE, TokenPart, shard_name, tokenize_part
from .yaml_file import check_model

PLAN = "plan.json"
FOLDER = "tokens"

_SAMPLED_ROWS = 32
_SAMPLED_FILES = 4


@dataclass(frozen=True)
class TokenPlan:
    """What is to be tokenised into `output`: `source` is the hash of the run or of the files' fingerprints."""

    settings: Tokenize
    output: Folder
    source: str
    parts: tuple[TokenPart, ...]

    @property
    def encoder(self) -> Encoder:
        return self.parts[0].encoder

    @property
    def packing(self) -> str:
        return self.settings.packing or ("concat" if self.settings.template is None else "best_fit")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides the rows."""
        one = self.parts[0]
        return {
            "malmoi": malmoi_version(),
            "settings": self._settings,
            "tokenizer": self.encoder.sha256,
            "prompts": plain(one.prompts.__dict__) if one.prompts is not None else None,
            "source": self.source,
            "cuts": [[[x.file.relpath, x.start, x.stop] for x in part.pieces] for part in self.parts],
            "libraries": self.versions,
        }

    @property
    def _settings(self) -> dict[str, Any]:
        apart = {"tokenizer", *({"part_bytes"} if self.parts[0].corpus else ())}
        return {**self.settings.model_dump(mode="json", exclude=apart), "packing": self.packing}

    @property
    def versions(self) -> dict[str, str]:
        return libraries(()) | library_versions(self.encoder.library)

    @cached_property
    def key(self) -> str:
        return str(xxhash.xxh3_128_hexdigest(json.dumps(plain(self.identity), sort_keys=True).encode()))


def plan_tokens(
    settings: Tokenize,
    inputs: Sequence[str],
    output: str,
    *,
    options: Mapping[str, Any] | None = None,
    output_options: Mapping[str, Any] | None = None,
    one_thread: bool = True,
    name: str = "tokenize",
) -> TokenPlan:
    """Check the settings against the tokenizer and the inputs: the folder of one finished run, or files, folders
    and globs of JSON Lines and Parquet. Reads a little of the first and last files."""
    prompts, columns, needs = prompts_of(settings, name)
    run = Folder(inputs[0], dict(options or {})) if len(inputs) == 1 else None
    corpus = run is not None and run.exists(RUN_MANIFEST)
    if run is not None and corpus:
        files, source = _corpus(run)
        cuts: list[tuple[Piece, ...]] = [(Piece(file, 0, -1),) for file in files]
    else:
        if run is not None and run.exists(PLAN):
            raise MalmoiError(
                f"{run.url}: a run that is not finished (no {RUN_MANIFEST}); run its recipe first"
            )
        files = find_examples(inputs, options)
        source = _fingerprint(files)
        cuts = [x.pieces for x in split_parts(examples_source(inputs, options), files, settings.part_bytes)]
    if not files:
        raise MalmoiError(f"{', '.join(inputs)}: nothing to tokenize: no file holds anything")
    check_columns(files, needs, dict(options or {}))
    encoder = check_settings(settings, name, _sample(files, columns, options))
    part = TokenPart(
        index=0,
        pieces=(),
        corpus=corpus,
        options=dict(options or {}),
        encoder=encoder,
        columns=columns,
        prompts=prompts,
        seq_len=settings.seq_len,
        pack=settings.packing != "none",
        tail=settings.tail,
        long=settings.long,
        append_eos=settings.append_eos,
        bos=settings.bos,
        one_thread=one_thread,
    )
    parts = tuple(replace(part, index=i, pieces=pieces) for i, pieces in enumerate(cuts))
    return TokenPlan(settings, Folder(output, dict(output_options or {})), source, parts)


def _corpus(run: Folder) -> tuple[list[InputFile], str]:
    """The shards of a run with their hashes, and its manifest_hash; ChangedError where one is not there."""
    manifest = Manifest.load(run)
    manifest.verify(run)
    files = []
    for shard in manifest.corpus:
        packed: Compression = "zstd" if shard.path.endswith(".zst") else ""
        kind: Any = "parquet" if shard.path.endswith(".parquet") else "jsonl"
        files.append(InputFile(run.join(shard.path), shard.path, shard.bytes, kind, packed, shard.hash))
    return files, manifest.manifest_hash


def _fingerprint(files: Sequence[InputFile]) -> str:
    found = [[file.relpath, file.size, file.fingerprint] for file in files]
    return str(xxhash.xxh3_128_hexdigest(json.dumps(found).encode()))


def _sample(
    files: Sequence[InputFile], columns: Sequence[str], options: Mapping[str, Any] | None
) -> list[str]:
    """Values of the columns in the first records of a few files, spread over all."""
    step = max(len(files) // _SAMPLED_FILES, 1)
    found: list[str] = []
    for file in files[::step][:_SAMPLED_FILES]:
        first = next(iter(read_examples(file, columns, options=options)), None)
        if first is not None:
            head = first.table.slice(0, _SAMPLED_ROWS)
            found += [x for column in head.columns for x in column.to_pylist() if x]
    return found


def tokenize(
    plan: TokenPlan, *, console: Console, engine: EngineKind = "ray", run: Run | None = None
) -> TokenManifest:
    """Make the rows, or go on where an earlier call stopped; returns at once where that is done.

    ChangedError: the folder holds rows of other settings or another input, or a shard changed meanwhile.
    """
    folder = plan.output
    with only_run(folder) as still_ours:
        _check_plan(folder, plan)
        done = _finished(folder, console)
        if done is not None:
            console.print(f"all done already: {escape(folder.url)} (nothing was read or written)")
            print_rows(done, console, folder.url, None)
            return done
        encoder = plan.encoder
        console.print(f"tokenizer {escape(encoder.name)} by {encoder.library}: {escape(encoder.why)}")
        jobs = [Job(STAGE, shard_name(part.index), tokenize_part, part, plan=plan.key) for part in plan.parts]
        run = run or Run()
        num_cpus = 1
        if engine == "ray":
            check_lasting(folder.url)
            num_cpus = start_ray(run)
            check_reach(_local_paths(plan), run, ".")
            still_ours()  # it may have taken minutes
        if not folder.exists(PLAN):
            folder.write_bytes(PLAN, _text(plan).encode())
        folder.clean_temps()
        begin = time.perf_counter()
        with stage_progress(STAGE, len(jobs), console) as tick:

            def checked(done: Counts) -> None:
                still_ours()
                tick(done)

            counts = run_jobs(folder, jobs, engine=engine, num_cpus=num_cpus, tick=checked, run=run)
        manifest = _manifest(plan, counts)
        manifest.save(folder)
        print_rows(manifest, console, folder.url, time.perf_counter() - begin)
        return manifest


def _local_paths(plan: TokenPlan) -> list[tuple[str, str]]:
    """(key, path) of what lies on a disk rather than in a store; of the input the first file."""
    places = {"output": plan.output.url, "input": plan.parts[0].pieces[0].file.url}
    found = [(key, place) for key, place in places.items() if is_local(place)]
    return [*found, ("tokenize.tokenizer", plan.settings.tokenizer)]


def tokenize_command(
    inputs: Sequence[str],
    settings: Mapping[str, Any],
    columns: Sequence[str],
    out: str | None,
    num_cpus: int | None,
    *,
    console: Console,
    engine: EngineKind = "ray",
    shared_filesystem: bool = True,
) -> TokenManifest:
    """The command: `settings` are those of the recipe's block, `columns` pairs NAME=COLUMN."""
    wrong = [pair for pair in columns if not all(pair.partition("="))]
    if wrong:
        raise RecipeError(f"--column {wrong[0]}: want NAME=COLUMN, for instance question=prompt")
    named = {name: column for name, _, column in (pair.partition("=") for pair in columns)}
    checked = check_model(Tokenize, {**settings, "columns": named}, "tokenize")
    if out is None:
        if len(inputs) != 1 or not Folder(inputs[0]).exists(RUN_MANIFEST):
            raise RecipeError(f"{inputs[0]}: not a finished run; give the folder of the rows with --out")
        out = Folder(inputs[0]).join(FOLDER)
    plan = plan_tokens(checked, inputs, out, one_thread=engine == "ray")
    run = Run(num_cpus=num_cpus, shared_filesystem=shared_filesystem)
    return tokenize(plan, console=console, engine=engine, run=run)


def _finished(folder: Folder, console: Console) -> TokenManifest | None:
    if not folder.exists(FILE):
        return None
    manifest = read_token_manifest(folder.url, folder.options)
    try:
        manifest.verify(folder)
    except ChangedError as error:
        console.print(f"these rows were finished, but not all are there; mending:\n{escape(str(error))}")
        folder.remove(FILE)
        return None
    return manifest


def _text(plan: TokenPlan) -> str:
    return json.dumps(plain(plan.identity), indent=1, ensure_ascii=False) + "\n"


def _check_plan(folder: Folder, plan: TokenPlan) -> None:
    """ChangedError naming what differs where the folder holds rows of another plan."""
    now = plain(plan.identity)
    if not folder.exists(PLAN):
        return
    try:
        before = dict(json.loads(folder.read_bytes(PLAN)))
    except ValueError as error:
        raise ChangedError(f"{folder.join(PLAN)}: not a plan ({error}); choose another folder") from error
    but = ("libraries", "malmoi") if folder.exists(FILE) else ()
    lines = [
        f"  {key}: was {_short(before.get(key))}, is {_short(now.get(key))}"
        for key in sorted({*before, *now} - set(but))
        if before.get(key) != now.get(key)
    ]
    if lines:
        raise ChangedError(
            f"{folder.url}: holds rows of other settings or another input; choose another folder, or delete it:\n"
            + "\n".join(lines)
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) < 300 else text[:300] + " ..."


def _manifest(plan: TokenPlan, counts: list[Counts]) -> TokenManifest:
    total = add_counts(counts)
    numbers = ("kept", "tokens", "special", "in_rows", "rows", "padding", "trained", "text_bytes", "cut")
    book = TokenBook(
        documents=total["read"],
        dropped=total.get("dropped", {}),
        dropped_tokens=total.get("dropped_tokens", {}),
        **{name: total[name] for name in numbers},
    )
    if not book.rows:
        reasons = {**book.dropped_tokens, **book.dropped}
        shown = ", ".join(f"{name}: {book.dropped.get(name, 0):,} documents" for name in reasons)
        raise MalmoiError(
            f"tokenize: not one row of {plan.settings.seq_len:,} tokens from {book.documents:,} documents with "
            f"{book.tokens:,} tokens (dropped: {shown or 'none'}); lower seq_len, or tail: pad, or long: cut"
        )
    encoder = plan.encoder
    tokenizer = TokenizerId(
        encoder.name, encoder.sha256, encoder.vocab_size, encoder.eos_id, encoder.bos_id, encoder.pad_id
    )
    shards = [
        Output(name, size, digest, one["rows"], one["text_bytes"], one["in_rows"])
        for one in counts
        for name, size, digest in one["files"]
        if not name.startswith("quarantine/")
    ]
    return TokenManifest(
        kind="text" if plan.settings.template is None else "sft",
        seq_len=plan.settings.seq_len,
        packing=plan.packing,
        tokenizer=tokenizer,
        encoder=encoder.library,
        source=plan.source,
        settings=plan.identity["settings"],
        versions={"malmoi": plan.identity["malmoi"], **plan.versions},
        book=book,
        shards=tuple(shards),
    )


def print_rows(manifest: TokenManifest, console: Console, place: str, seconds: float | None) -> None:
    """What was made of what, in a few lines."""
    book = manifest.book
    fill = book.in_rows / max(book.rows * manifest.seq_len, 1)
    speed = (
        ""
        if seconds is None
        else f", {seconds:.1f} s, {book.tokens / max(seconds, 1e-9) / 1e6:,.2f} M tokens/s"
    )
    lines = [
        f"{book.rows:,} rows of {manifest.seq_len:,} tokens ({manifest.packing}, {fill:.1%} filled{speed})",
        f"{book.documents:,} documents, {book.kept:,} kept"
        + "".join(f", {count:,} {name}" for name, count in book.dropped.items())
        + (f", {book.cut:,} cut" if book.cut else ""),
        f"{book.tokens:,} tokens of text + {book.special:,} around documents = {book.in_rows:,} in rows"
        + "".join(f" + {count:,} {name}" for name, count in book.dropped_tokens.items())
        + (f"; {book.trained:,} with a label" if manifest.kind == "sft" else ""),
        f"Rows     {place} ({manifest.tokens_hash[:16]})",
    ]
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)
