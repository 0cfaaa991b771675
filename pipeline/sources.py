"""Parts of a source and how they are read: what one task of the first stage works on.

A part is one or more pieces: a byte range of a JSON Lines file (a record belongs to the range in which its first
byte lies; of a compressed file it is a range of what it holds) or a range of row groups of a Parquet file. Parts
depend on the files and on `part_bytes` alone.

To read from the middle of a compressed file it is unpacked from its beginning, zstd at some twenty times the speed of
the filter stage (865 MB/s beside 38), gzip at seven. So one is cut only where few files would leave CPUs idle, and into
few pieces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise

import pyarrow as pa

from .columns import infer_extras, original_name
from .compression import CHUNK, from_byte, text_bytes
from .errors import ChangedError, SourceError
from .files import InputFile, check_unchanged, find_files, open_input
from .json_blocks import Block, blocks
from .jsonl import read_block
from .parquet_in import read_row_groups, row_group_bytes
from .recipe import Source
from .records import Batch, Problem, Shape, quarantine_table

__all__ = ["Batch", "InputFile", "Part", "Piece", "find_files", "infer_extras", "read_part", "split_parts"]

_FULL = 0.75  # of the rows or bytes of a batch: it does not wait for more
_WHOLE = -1
_LEAST_BYTES = 256  # of a byte range; one part a byte would be of no use
COMPRESSED_TIMES = 4  # text is about four times its size as .gz or .zst: parts of both are alike in work
_CUT_PIECES, _MOST_PIECES = 32, 16  # of all the compressed files of a source together, and of one


@dataclass(frozen=True)
class Piece:
    """A range of a file: bytes of JSON Lines (decompressed), row groups of Parquet; `stop` -1: to the end."""

    file: InputFile
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """`index`: number over all sources; `source`: its name; `pieces` in the files' order."""

    index: int
    source: str
    pieces: tuple[Piece, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self))  # ASCII: a path need not be UTF-8

    @staticmethod
    def from_json(text: str) -> Part:
        fields = json.loads(text)
        pieces = tuple(Piece(InputFile(**p["file"]), p["start"], p["stop"]) for p in fields["pieces"])
        return Part(fields["index"], fields["source"], pieces)


def split_parts(source: Source, files: list[InputFile], part_bytes: int, first: int = 0) -> list[Part]:
    """Cut large files and join small ones into parts of about `part_bytes`, numbered from `first`.

    Meant are bytes uncompressed, of compressed JSON Lines an estimate. A row group cannot be cut and compressed
    files only into so many pieces, so a part may be larger. Reads the footers of the Parquet files and the heads
    of compressed ones that may be cut; raises SourceError where one cannot be read.
    """
    filled = [file for file in files if file.size]
    most = min(_MOST_PIECES, _CUT_PIECES // max(sum(bool(file.compression) for file in filled), 1))
    with ThreadPoolExecutor(16) as pool:
        units = pool.map(lambda file: _units(source, file, part_bytes, most), filled)
        parts: list[list[Piece]] = []
        room = 0
        for piece, size in (unit for found in units for unit in found):
            if not parts or size > room:
                parts.append([])
                room = part_bytes
            last = parts[-1][-1] if parts[-1] else None
            if last is not None and last.file == piece.file and last.stop == piece.start:
                parts[-1][-1] = Piece(piece.file, last.start, piece.stop)
            else:
                parts[-1].append(piece)
            room -= size
    return [Part(first + i, source.name, tuple(pieces)) for i, pieces in enumerate(parts)]


def _units(source: Source, file: InputFile, part_bytes: int, most: int) -> list[tuple[Piece, int]]:
    """The smallest pieces that a file is cut into, with their bytes uncompressed; of a compressed one `most`."""
    part_bytes = max(part_bytes, _LEAST_BYTES)
    try:
        if file.format == "parquet":
            groups = row_group_bytes(file, source.storage_options)
            return [(Piece(file, i, i + 1), size) for i, size in enumerate(groups)]
        size = file.size * (COMPRESSED_TIMES if file.compression else 1)
        if file.compression and most > 1:
            with open_input(file.url, source.storage_options) as handle:
                size = text_bytes(handle, file.compression, file.size)
        count = min(-(-size // part_bytes), most if file.compression else size)
    except (OSError, pa.ArrowException) as error:
        kind = "Parquet" if file.format == "parquet" else "JSON Lines"
        raise SourceError(
            f"source {source.name}: {file.url}: not a readable {kind} file ({error})"
        ) from error
    if count <= 1:
        return [(Piece(file, 0, _WHOLE), size)]
    edges = [size * i // count for i in range(count + 1)]
    if file.compression:  # only an estimate: the last one takes the rest
        edges[-1] = _WHOLE
    return [(Piece(file, a, b), size // count) for a, b in pairwise(edges)]


def read_part(
    part: Part,
    source: Source,
    extras: pa.Schema,
    *,
    base: str = "",
    batch_rows: int = 4096,
    batch_bytes: int = 32 * 1024**2,
    max_record_bytes: int = 128 * 1024**2,
) -> Iterator[Batch]:
    """The records of a part in the files' order, in batches of at most `batch_rows` rows.

    Tables have the columns id, source, text (large_string) and `extras`, exactly so; an id is the record's
    own (`source.id`; a number as its digits), else `<relpath>#<offset>`, see `records.place_ids`. A batch is
    closed at about `batch_bytes`; about three times that is held, or five times the largest record. Batch
    sizes change neither the rows nor their order. `base` is not used: the files of a part are absolute.

    Raises ChangedError where a file is gone or not what it was at the plan, SourceError where it cannot be
    read; a record that cannot be used is a row of the quarantine table.
    """
    names = tuple((original_name(field.name), field) for field in extras)
    held: list[tuple[pa.Table, pa.Table]] = []
    rows = size = 0
    checked: set[str] = set()
    for piece in part.pieces:
        shape = Shape(source.name, piece.file.relpath, source.text, source.id or "", names, max_record_bytes)
        if piece.file.url not in checked:
            check_unchanged(source, piece.file)
            checked.add(piece.file.url)
        for table, problems in _read_piece(piece, source, shape, batch_rows, batch_bytes):
            if rows + table.num_rows > batch_rows:
                yield from _batches(held, batch_rows, batch_bytes)
                held, rows, size = [], 0, 0
            held.append((table, quarantine_table(problems, shape)))
            rows, size = rows + table.num_rows, size + table.nbytes
            if rows >= batch_rows * _FULL or size >= batch_bytes * _FULL:
                yield from _batches(held, batch_rows, batch_bytes)
                held, rows, size = [], 0, 0
    yield from _batches(held, batch_rows, batch_bytes)


def _read_piece(
    piece: Piece, source: Source, shape: Shape, batch_rows: int, batch_bytes: int
) -> Iterator[tuple[pa.Table, list[Problem]]]:
    file, options = piece.file, source.storage_options
    try:
        if file.format == "parquet":
            yield from read_row_groups(file.url, options, piece.start, piece.stop, shape)
            return
        with open_input(file.url, options) as handle:
            stop = None if piece.stop == _WHOLE else piece.stop
            chunk_bytes = min(CHUNK, max(batch_bytes // 8, 4096))
            pieces = from_byte(handle, file.compression, max(piece.start - 1, 0), chunk_bytes)
            limit = shape.max_record_bytes
            for event in blocks(pieces, piece.start, stop, batch_bytes, limit, batch_rows):
                if isinstance(event, Block):
                    yield read_block(event, shape)
                else:
                    yield shape.schema.empty_table(), [event]
    except FileNotFoundError as error:
        raise ChangedError(f"source {source.name}: {file.url}: vanished while it was read") from error
    except OSError as error:
        raise SourceError(f"source {source.name}: {file.url}: cannot be read ({error})") from error


def _batches(held: list[tuple[pa.Table, pa.Table]], batch_rows: int, batch_bytes: int) -> Iterator[Batch]:
    """What is held as one batch, or as several of about one size; the quarantined rows go with the first."""
    if not held:
        return
    tables, bad = zip(*held, strict=True)
    table, quarantine = pa.concat_tables(tables).combine_chunks(), pa.concat_tables(bad)
    if not table.num_rows and not quarantine.num_rows:
        return
    average = table.nbytes // max(table.num_rows, 1) + 1
    most = max(1, min(batch_rows, 2 * batch_bytes // average))  # Parquet may unpack to far more than it said
    step = max(1, -(-table.num_rows // max(1, -(-table.num_rows // most))))
    for start in range(0, max(table.num_rows, 1), step):
        yield Batch(table.slice(start, step), quarantine if start == 0 else quarantine.slice(0, 0))
