"""Stage `tokenize`, the jobs: one shard of rows from one shard of a corpus, or from one part of examples.

A shard depends on its input and the settings alone: plain text is one stream through the job, examples are
packed in windows of a fixed number of tokens, cut where examples end. So batches change no byte.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from malmoi.operators.chat import ChatTemplate, encode_chat
from malmoi.operators.packing import IGNORE, Carry, Rows, best_fit, concat, pad
from malmoi.operators.templates import Encoded, Template, encode_segments
from malmoi.operators.tokenizing import Encoder

from .engine import Counts
from .errors import ChangedError
from .examples import examples_source, read_examples
from .files import check_unchanged
from .records import QUARANTINE, Problem
from .sources import Piece
from .storage import Folder
from .token_manifest import GROUP_ROWS
from .written import hash_file

STAGE = "tokenize"
WINDOW_TOKENS = 4 * 1024**2


@dataclass(frozen=True)
class TokenPart:
    """The payload of one job: what it reads, and all that decides its rows.

    `columns`: read from the files, for plain text and chats the one that is meant. `prompts`: None for plain
    text. `corpus`: the files are shards of a run, whose whole content is compared with its hash.
    """

    index: int
    pieces: tuple[Piece, ...]
    corpus: bool
    options: dict[str, Any]
    encoder: Encoder
    columns: tuple[str, ...]
    prompts: Template | ChatTemplate | None
    seq_len: int
    pack: bool
    tail: str
    long: str
    append_eos: bool
    bos: bool
    one_thread: bool

    @property
    def labelled(self) -> bool:
        return self.prompts is not None or self.tail == "pad"

    @property
    def pad_id(self) -> int:
        return self.encoder.eos_id if self.encoder.pad_id is None else self.encoder.pad_id


def shard_name(index: int) -> str:
    return f"shard-{index:05d}"


def row_schema(seq_len: int, *, labelled: bool) -> pa.Schema:
    """input_ids and, where some places are not learned, labels: int32 [seq_len]; doc_starts: list of int32."""
    wide = pa.list_(pa.field("item", pa.int32(), nullable=False), seq_len)
    labels = [("labels", wide)] if labelled else []
    return pa.schema([("input_ids", wide), *labels, ("doc_starts", pa.list_(pa.int32()))])


class RowWriter:
    """Parquet with row groups of exactly GROUP_ROWS rows but for the last, whatever comes at a time."""

    def __init__(self, sink: BinaryIO, schema: pa.Schema, seq_len: int) -> None:
        self.schema, self.seq_len = schema, seq_len
        self.rows = 0
        self._held: list[pa.Table] = []
        leaves = [f"{name}.list.element" for name in schema.names]
        self._writer = pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=False,
            use_byte_stream_split=leaves,
            write_statistics=False,
            data_page_version="2.0",
        )

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.rows % GROUP_ROWS:
            self._flush(self.rows % GROUP_ROWS)
        self._writer.close()

    def write(self, rows: Rows) -> None:
        count = len(rows.input_ids)
        if not count:
            return
        columns: dict[str, pa.Array] = {"input_ids": self._wide(rows.input_ids)}
        if "labels" in self.schema.names:
            columns["labels"] = self._wide(rows.input_ids if rows.labels is None else rows.labels)
        columns["doc_starts"] = pa.ListArray.from_arrays(rows.first.astype(np.int32), rows.starts)
        self._held.append(pa.table(columns, schema=self.schema))
        held = self.rows % GROUP_ROWS + count
        self.rows += count
        self._flush(held - held % GROUP_ROWS)

    def _wide(self, values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(
            pa.array(values.ravel()), type=self.schema.field("input_ids").type
        )

    def _flush(self, rows: int) -> None:
        if rows:
            held = pa.concat_tables(self._held)
            self._writer.write_table(held.slice(0, rows).combine_chunks(), row_group_size=GROUP_ROWS)
            self._held = [held.slice(rows)] if held.num_rows > rows else []


@dataclass
class _Tally:
    """What a job counts, by the names of TokenBook."""

    counts: Counter[str]
    dropped: Counter[str]
    dropped_tokens: Counter[str]

    def drop(self, reason: str, documents: int, tokens: int = 0) -> None:
        for into, number in ((self.dropped, documents), (self.dropped_tokens, tokens)):
            if number:
                into[reason] += int(number)


def tokenize_part(folder: Folder, work: TokenPart) -> Counts:
    """Write `shard-00000.parquet` (and quarantine/ where records could not be read); the counts of its book."""
    if work.one_thread:  # a worker has one CPU; the tokenizers' threads would take all
        os.environ.setdefault("RAYON_NUM_THREADS", "1")
    _check_input(work)
    tally = _Tally(Counter(), Counter(), Counter())
    name = f"{shard_name(work.index)}.parquet"
    schema = row_schema(work.seq_len, labelled=work.labelled)
    problems: list[tuple[str, Problem]] = []
    stream: _Text | _Answers
    with folder.create(name) as sink, RowWriter(sink, schema, work.seq_len) as writer:
        stream = _Text(work, tally, writer) if work.prompts is None else _Answers(work, tally, writer)
        for piece in work.pieces:
            for batch in read_examples(
                piece.file, work.columns, start=piece.start, stop=piece.stop, options=work.options
            ):
                stream.add(batch.table)
                problems += [(piece.file.relpath, problem) for problem in batch.problems]
                tally.counts["documents"] += batch.table.num_rows + len(batch.problems)
        stream.close()
    tally.drop("malformed", len(problems))
    files = [hash_file(folder, name), *_quarantine(folder, work.index, problems)]
    counts = tally.counts
    documents = counts["documents"]
    return {
        "rows": writer.rows,
        "read": documents,
        "kept": documents - sum(tally.dropped.values()),
        "text_bytes": counts["text_bytes"],
        "tokens": counts["tokens"],
        "special": counts["special"],
        "in_rows": counts["in_rows"],
        "padding": writer.rows * work.seq_len - counts["in_rows"],
        "trained": counts["trained"],
        "cut": counts["cut"],
        "dropped": dict(sorted(tally.dropped.items())),
        "dropped_tokens": dict(sorted(tally.dropped_tokens.items())),
        "files": files,
    }


class _Text:
    """Plain text: one stream of documents, chunked."""

    def __init__(self, work: TokenPart, tally: _Tally, writer: RowWriter) -> None:
        self.work, self.tally, self.writer = work, tally, writer
        self.carry = Carry()
        self.before = work.encoder.bos_id if work.bos else None
        self.after = work.encoder.eos_id if work.append_eos else None

    def add(self, table: pa.Table) -> None:
        work, counts = self.work, self.tally.counts
        texts = table.column(work.columns[0])
        counts["text_bytes"] += int(pc.sum(pc.binary_length(texts)).as_py() or 0)
        ids, offsets = work.encoder.encode(texts)
        filled = np.diff(offsets) > 0
        self.tally.drop("empty", int((~filled).sum()))
        documents = int(filled.sum())
        counts["tokens"] += len(ids)
        counts["special"] += documents * ((self.before is not None) + (self.after is not None))
        kept = np.concatenate([offsets[:1], offsets[1:][filled]])  # empty ones end where the one before does
        rows, self.carry = concat(ids, kept, work.seq_len, self.carry, before=self.before, after=self.after)
        self._write(rows)

    def close(self) -> None:
        if self.work.tail == "pad":
            self._write(pad(self.carry, self.work.seq_len, self.work.pad_id))
        else:
            self.tally.drop("tail", len(self.carry.starts), len(self.carry.ids))

    def _write(self, rows: Rows) -> None:
        self.tally.counts["in_rows"] += rows.tokens
        self.tally.counts["trained"] += rows.tokens
        self.writer.write(rows)


class _Answers:
    """Examples: tokenised by a template, long ones dropped or cut, packed window by window."""

    def __init__(self, work: TokenPart, tally: _Tally, writer: RowWriter) -> None:
        self.work, self.tally, self.writer = work, tally, writer
        self.held: list[Encoded] = []
        self.tokens = 0

    def add(self, table: pa.Table) -> None:
        work = self.work
        for column in table.columns:
            self.tally.counts["text_bytes"] += int(pc.sum(pc.binary_length(column)).as_py() or 0)
        bad = np.zeros(table.num_rows, np.bool_)
        if isinstance(work.prompts, ChatTemplate):
            made, bad = encode_chat(
                table.column(work.columns[0]), work.prompts, work.encoder, append_eos=work.append_eos
            )
        else:
            assert work.prompts is not None
            made = encode_segments(table, work.prompts, work.encoder, append_eos=work.append_eos)
        self.tally.drop("bad_messages", int(bad.sum()))
        self._hold(self._fitted(made, bad))

    def _fitted(self, made: Encoded, bad: np.ndarray) -> Encoded:
        """Those that fit into a row, by the recipe's choice cut to it."""
        seq_len, lengths = self.work.seq_len, made.lengths
        self.tally.counts["tokens"] += int(lengths.sum())
        silent = (made.trained == 0) & ~bad
        self.tally.drop("no_answer", int(silent.sum()), int(lengths[silent].sum()))
        good = ~bad & ~silent
        long = good & (lengths > seq_len)
        if self.work.long == "drop":
            self.tally.drop("too_long", int(long.sum()), int(lengths[long].sum()))
            return made.take(good & ~long)
        part = made.take(good, seq_len)
        lost = part.trained == 0
        whole = lengths[good]
        self.tally.drop("prompt_too_long", int(lost.sum()), int(whole[lost].sum()))
        over = (whole > seq_len) & ~lost
        self.tally.counts["cut"] += int(over.sum())
        self.tally.dropped_tokens["cut"] += int((whole - seq_len)[over].sum())
        return part.take(~lost)

    def _hold(self, made: Encoded) -> None:
        self.held.append(made)
        self.tokens += len(made.ids)
        while self.tokens >= WINDOW_TOKENS:
            whole = _joined(self.held)
            count = int(np.searchsorted(whole.offsets, WINDOW_TOKENS))  # up to the one that fills the window
            first = np.arange(len(whole.lengths)) < count
            self._pack(whole.take(first))
            self.held = [whole.take(~first)]
            self.tokens = len(self.held[0].ids)

    def close(self) -> None:
        if self.held:
            self._pack(_joined(self.held))
        if not self.tally.dropped_tokens["cut"]:
            del self.tally.dropped_tokens["cut"]

    def _pack(self, made: Encoded) -> None:
        work = self.work
        rows = best_fit(made.ids, made.labels, made.offsets, work.seq_len, work.pad_id, pack=work.pack)
        self.tally.counts["in_rows"] += rows.tokens
        self.tally.counts["trained"] += int((made.labels != IGNORE).sum())
        self.writer.write(rows)


def _joined(parts: list[Encoded]) -> Encoded:
    lengths = np.concatenate([part.lengths for part in parts])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    ids, labels = (np.concatenate([getattr(part, x) for part in parts]) for x in ("ids", "labels"))
    return Encoded(ids, labels, offsets)


def _check_input(work: TokenPart) -> None:
    """ChangedError where a file that is to be read is not what it was at the plan."""
    for file in dict.fromkeys(piece.file for piece in work.pieces):
        if not work.corpus:
            check_unchanged(examples_source([file.url], work.options), file)
            continue
        place, _, name = file.url.rpartition("/")
        try:
            _, size, found = hash_file(Folder(place or "/", work.options), name)
        except FileNotFoundError as error:
            raise ChangedError(f"{file.url}: a shard of the corpus is gone; run its recipe again") from error
        if found != file.fingerprint:
            raise ChangedError(
                f"{file.url}: not the shard that the run wrote ({size:,} bytes with xxh3_128 {found}, want "
                f"{file.size:,} with {file.fingerprint}); run its recipe again"
            )


def _quarantine(
    folder: Folder, index: int, problems: list[tuple[str, Problem]]
) -> list[tuple[str, int, str]]:
    if not problems:
        return []
    rows = [
        {
            "source": STAGE, "file": file, "offset": x.offset, "length": x.length,
            "reason": f"quarantine.{x.reason}", "detail": x.detail, "raw": x.raw,
        }
        for file, x in problems
    ]  # fmt: skip
    name = f"quarantine/{shard_name(index)}.parquet"
    with folder.create(name) as sink:
        pq.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE), sink, compression="zstd")
    return [hash_file(folder, name)]
