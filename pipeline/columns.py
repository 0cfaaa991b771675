"""Which columns of a source travel along, and with what type."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from .compression import chunks
from .errors import SourceError, TornError
from .files import InputFile, open_footer, open_input
from .recipe import Source

# Written by malmoi itself; a name with a dot looks like a signal.
RESERVED = frozenset(
    {"id", "source", "text", "drop", "language", "language_score", "reason", "duplicate_of"}
    | {"duplicate_source", "similarity", "copies", "num_tokens", "input_ids"}
    | {"epoch", "order key"}
)
_PREFIX = "input_"

SAMPLE_FILES = 32
SAMPLE_BYTES = 256 * 1024
_LATER_BYTES = 64 * 1024
_LONGEST_SAMPLE = 16 * 1024**2

# From no information to the least particular; "json" and "string" both become large_string.
_TYPES = {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}


def travelling_name(name: str) -> str:
    """The name under which a source's column travels; `original_name` takes it back."""
    return f"{_PREFIX}{name}" if _clashes(name) else name


def original_name(name: str) -> str:
    stripped = name.removeprefix(_PREFIX)
    return stripped if stripped != name and _clashes(stripped) else name


def _clashes(name: str) -> bool:
    while name.startswith(_PREFIX) and name not in RESERVED:
        name = name.removeprefix(_PREFIX)
    return name in RESERVED or "." in name


def kind_of_type(kind: pa.DataType) -> str:
    """null, bool, int64, float64, string or json: what a Parquet column's values become."""
    if pa.types.is_dictionary(kind):
        return kind_of_type(kind.value_type)
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return "int64"
    if pa.types.is_floating(kind):
        return "float64"
    return "json" if pa.types.is_nested(kind) else "string"


def is_text(kind: pa.DataType) -> bool:
    """Whether a Parquet column can be a text: a string, bytes that may be UTF-8, or a dictionary of it."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in (*tests, *binary))


def is_id(kind: pa.DataType) -> bool:
    """Whether a Parquet column can be an id: a text or a number; one that holds nothing may be meant so."""
    return is_text(kind) or kind_of_type(kind) in ("int64", "float64", "null") or kind == pa.uint64()


def _kind_of_value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "string"
    if isinstance(value, float):
        return "float64"
    return "string" if isinstance(value, str) else "json"


def _unify(first: str, second: str) -> str:
    if first == second or second == "null":
        return first
    if first == "null":
        return second
    return "float64" if {first, second} == {"int64", "float64"} else "string"


def _columns(source: Source, file: InputFile) -> dict[str, str] | SourceError:
    """Kinds of the columns of one file, in the file's order; the error where its lines are no records."""
    try:
        if file.format == "parquet":
            return {field.name: kind_of_type(field.type) for field in _parquet_schema(source, file)}
        return _jsonl_columns(source, file)
    except OSError as error:
        raise SourceError(f"source {source.name}: {file.url}: cannot be read ({error})") from error


def _parquet_schema(source: Source, file: InputFile) -> pa.Schema:
    try:
        with open_footer(file, source.storage_options) as handle:
            schema = pq.read_schema(handle)
    except pa.ArrowException as error:
        raise SourceError(f"source {source.name}: {file.url}: not a Parquet file ({error})") from error
    place = schema.get_field_index(source.text)
    if place < 0:
        raise _missing(source, "text", source.text, schema.names, file.url)
    if not is_text(schema.field(place).type):
        raise SourceError(
            f"source {source.name}: {file.url}: column {source.text} holds {schema.field(place).type}, "
            "not text; name the text column with `text`"
        )
    if source.id is not None and source.id not in schema.names:
        raise _missing(source, "id", source.id, schema.names, file.url)
    if source.id is not None and not is_id(kind := schema.field(source.id).type):
        raise SourceError(
            f"source {source.name}: {file.url}: column {source.id} holds {kind}, no ids; name a column of text or "
            "numbers with `id`, or leave it out"
        )
    return schema


def _jsonl_columns(source: Source, file: InputFile) -> dict[str, str] | SourceError:
    sample = _sample(source, file).removeprefix(b"\xef\xbb\xbf")
    kinds: dict[str, str] = {}
    records = 0
    for line in (*sample.splitlines(), *_later_lines(source, file)):
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                records += 1
                for name in filter(_encodes, record):
                    kinds[name] = _unify(kinds.get(name, "null"), _kind_of_value(record[name]))
    if not records and sample.strip():
        if sample.lstrip().startswith(b"["):
            mend = "it is a JSON array: make one object a line of it, for instance with jq -c '.[]'"
        else:
            mend = "want one JSON object a line"
        return SourceError(f"source {source.name}: {file.url}: no record in its first lines; {mend}")
    return kinds


def _encodes(name: str) -> bool:
    """Whether a name is UTF-8; half of a surrogate pair in a key makes a record unusable, not a column."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sample(source: Source, file: InputFile) -> bytes:
    """The first whole lines: at least one, or 16 MiB."""
    held: list[bytes] = []
    size, whole = 0, False
    with open_input(file.url, source.storage_options, block_bytes=SAMPLE_BYTES) as handle:
        pieces = chunks(handle, file.compression, SAMPLE_BYTES)
        with suppress(TornError):
            for piece in pieces:
                held.append(piece)
                size += len(piece)
                whole = whole or b"\n" in piece
                if size >= (SAMPLE_BYTES if whole else _LONGEST_SAMPLE):
                    return b"".join(held)[: b"".join(held).rfind(b"\n") + 1]
    return b"".join(held)


def _later_lines(source: Source, file: InputFile) -> list[bytes]:
    """Whole lines from the middle and the end of a plain file that is longer than its sample."""
    if file.compression or file.size <= SAMPLE_BYTES:
        return []
    lines: list[bytes] = []
    with open_input(file.url, source.storage_options, block_bytes=_LATER_BYTES) as handle:
        for start in (file.size // 2, file.size - _LATER_BYTES):
            handle.seek(start)
            piece = handle.read(_LATER_BYTES)
            whole = piece[piece.find(b"\n") + 1 : piece.rfind(b"\n") + 1]
            lines += whole.splitlines()
    return lines


def _missing(source: Source, role: str, name: str, there: Iterable[str], place: str) -> SourceError:
    names = list(there)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {role}: {close[0]}?" if close else f"name it with `{role}`"
    return SourceError(
        f"source {source.name}: {place}: no column {name!r}; {hint} (columns: {', '.join(names) or 'none'})"
    )


def _spread(files: list[InputFile]) -> list[InputFile]:
    """At most SAMPLE_FILES of the files that hold anything, evenly spread, the first and last among them."""
    filled = [file for file in files if file.size]
    if len(filled) <= SAMPLE_FILES:
        return filled
    return [filled[i * (len(filled) - 1) // (SAMPLE_FILES - 1)] for i in range(SAMPLE_FILES)]


def infer_extras(source: Source, files: list[InputFile]) -> pa.Schema:
    """The columns that travel along (all but text and id) with their types, in the order of first sight.

    From the footers of Parquet files and, of JSON Lines files, the first 256 KiB and (where not compressed)
    64 KiB each at the middle and the end; 32 files at most. Types that differ become double, else
    large_string; nested values become large_string of JSON, dates and decimals large_string; a column of
    nulls large_string. A name that malmoi writes itself gets `input_` before it. A column that appears only
    outside the sample does not travel.
    Raises SourceError where the text or id column is missing, or no file's first lines hold a record.
    """
    sampled = _spread(files)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda file: _columns(source, file), sampled))
    found = [columns for columns in answers if isinstance(columns, dict)]
    for error in answers:
        if isinstance(error, SourceError) and not any(found):  # one such file among others is for quarantine
            raise error
    kinds: dict[str, str] = {}
    for columns in found:
        for name, kind in columns.items():
            kinds[name] = _unify(kinds.get(name, "null"), kind)
    for role, wanted in (("text", source.text), ("id", source.id)):
        if wanted is not None and kinds and wanted not in kinds:
            raise _missing(source, role, wanted, kinds, sampled[0].url)
    extras = [name for name in kinds if name not in (source.text, source.id)]
    return pa.schema(
        [pa.field(travelling_name(name), _TYPES.get(kinds[name], pa.large_string())) for name in extras]
    )
