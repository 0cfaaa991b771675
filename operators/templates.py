"""From examples of instruction data to token ids with labels on the answers only.

A template is a list of segments: text with columns in braces, learned or not. What is learned and what is not are
tokenised apart, so that a prompt has the ids that it has when a model is asked. Control tokens count as
such where a template writes them, never where a column's text does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .packing import IGNORE
from .tokenizing import Encoder

Ints = NDArray[np.int32]
Offsets = NDArray[np.int64]
Mask = NDArray[np.bool_]

_COLUMN = re.compile(r"\{([A-Za-z_][\w.-]*)\}")


@dataclass(frozen=True)
class Segment:
    """`text`: `{column}` stands for the value of a column, all else for itself. `trained`: with labels.

    `when`, `unless`: the segment is there only for examples in which that column is not empty, or is.
    """

    text: str
    trained: bool = False
    when: str = ""
    unless: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_COLUMN.findall(self.text)))


@dataclass(frozen=True)
class Template:
    """`optional`: columns that an example may lack; ValueError where nothing is trained."""

    name: str
    segments: tuple[Segment, ...]
    optional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not any(segment.trained and segment.columns for segment in self.segments):
            raise ValueError(f"template {self.name}: want a trained segment with a column, got none")

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the order of their first use."""
        named = (name for x in self.segments for name in (*x.columns, x.when, x.unless) if name)
        return tuple(dict.fromkeys(named))

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name not in self.optional)


@dataclass(frozen=True)
class Encoded:
    """Examples one after the other: ids, labels int32 [N] (IGNORE where nothing is learned), offsets int64
    [rows + 1]. An example without an answer (or without anything at all) has no tokens."""

    ids: Ints
    labels: Ints
    offsets: Offsets

    @property
    def lengths(self) -> Offsets:
        return np.diff(self.offsets)

    @property
    def trained(self) -> Offsets:
        """int64 [rows]: tokens with a label."""
        return _sums(self.labels != IGNORE, self.offsets)

    def take(self, keep: Mask, most: int | None = None) -> Encoded:
        """The examples of a mask, each cut to its first `most` tokens."""
        lengths = self.lengths[keep]
        lengths = lengths if most is None else np.minimum(lengths, most)
        places = _ranges(self.offsets[:-1][keep], lengths)
        return Encoded(self.ids[places], self.labels[places], _offsets(lengths))


# Segments of the templates that come along. Alpaca: github.com/tatsu-lab/stanford_alpaca, train.py.
_ASK = "Below is an instruction that describes a task"
_DO = "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
TEMPLATES: Mapping[str, Template] = {
    "korean": Template(
        "korean",
        (
            Segment("[질문] {question}\n"),
            Segment("[내용] {context}\n", when="context"),
            Segment("[답변]"),
            Segment(" {answer}", trained=True),
        ),
        ("context",),
    ),
    "alpaca": Template(
        "alpaca",
        (
            Segment(f"{_ASK}, paired with an input that provides further context. ", when="input"),
            Segment(f"{_ASK}. ", unless="input"),
            Segment(_DO),
            Segment("### Input:\n{input}\n\n", when="input"),
            Segment("### Response:\n"),
            Segment("{output}", trained=True),
        ),
        ("input",),
    ),
    "chatml": Template(
        "chatml",
        (
            Segment("<|im_start|>system\n{system}<|im_end|>\n", when="system"),
            Segment("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"),
            Segment("{answer}<|im_end|>", trained=True),
            Segment("\n"),
        ),
        ("system",),
    ),
}


def rename(template: Template, columns: Mapping[str, str]) -> Template:
    """The template with other columns: `{"question": "q"}` reads `q` where it says `{question}`."""
    for name in columns:
        if name not in template.columns:
            raise ValueError(
                f"template {template.name}: no column {name!r}; it has {', '.join(template.columns)}"
            )

    def other(name: str) -> str:
        return columns.get(name, name)

    segments = tuple(
        Segment(
            _COLUMN.sub(lambda found: "{" + other(found[1]) + "}", x.text),
            x.trained,
            other(x.when),
            other(x.unless),
        )
        for x in template.segments
    )
    return Template(template.name, segments, tuple(other(name) for name in template.optional))


def encode_segments(
    table: pa.Table, template: Template, encoder: Encoder, *, append_eos: bool = True
) -> Encoded:
    """The examples of a table (columns large_string; one that is absent counts as empty).

    `append_eos`: the answer ends with eos, learned, unless it ends with it already.
    """
    control = dict(encoder.control)
    runs: list[tuple[bool, Ints, Offsets]] = []
    goes_on = np.zeros(table.num_rows, np.bool_)  # the next text of an example does not begin one
    for trained, pieces in _runs(template.segments, control):
        if isinstance(pieces, _Control):
            there = _there(table, pieces.when, pieces.unless)
            runs.append((trained, np.full(int(there.sum()), pieces.id, np.int32), _offsets(there)))
            goes_on = np.where(there, encoder.inner is not None and encoder.inner.controls, goes_on)
        else:
            text = _joined(table, pieces)
            runs.append((trained, *encoder.encode_behind(text, goes_on)))
            goes_on |= pc.greater(pc.binary_length(text), 0).to_numpy(zero_copy_only=False)
    if append_eos:
        runs = _with_eos(runs, encoder.eos_id, table.num_rows)
    made = _interleave(runs, table.num_rows)
    answers = [name for x in template.segments if x.trained for name in x.columns]
    answered = np.zeros(table.num_rows, np.bool_)
    for name in answers:
        answered |= _there(table, name, "")
    return _emptied(made, ~answered)


@dataclass(frozen=True)
class _Control:
    """A control token of the template, with the conditions of its segment."""

    id: int
    when: str
    unless: str


@dataclass(frozen=True)
class _Piece:
    """Text of a segment (`{column}` for a column) with its conditions."""

    text: str
    when: str
    unless: str


def _runs(
    segments: Sequence[Segment], control: Mapping[str, int]
) -> list[tuple[bool, _Control | list[_Piece]]]:
    """(trained, control token or the pieces that are tokenised as one text), in order."""
    split = re.compile("(" + "|".join(map(re.escape, sorted(control, key=len, reverse=True))) + ")")
    runs: list[tuple[bool, _Control | list[_Piece]]] = []
    for segment in segments:
        for text in split.split(segment.text) if control else [segment.text]:
            if not text:
                continue
            if text in control:
                runs.append((segment.trained, _Control(control[text], segment.when, segment.unless)))
                continue
            piece = _Piece(text, segment.when, segment.unless)
            last = runs[-1] if runs else None
            if last is not None and last[0] == segment.trained and isinstance(last[1], list):
                last[1].append(piece)
            else:
                runs.append((segment.trained, [piece]))
    return runs


def _column(table: pa.Table, name: str) -> pa.Array:
    """large_string without nulls; empty where the table lacks the column."""
    if name not in table.column_names:
        return pa.array(np.full(table.num_rows, ""), pa.large_string())
    return pc.fill_null(table.column(name).cast(pa.large_string()), "").combine_chunks()


def _there(table: pa.Table, when: str, unless: str) -> Mask:
    """bool [rows]: `when` is not empty (white space counts as empty) and `unless` is."""
    keep = np.ones(table.num_rows, np.bool_)
    for name, wanted in ((when, True), (unless, False)):
        if name:
            filled = pc.greater(pc.binary_length(pc.utf8_trim_whitespace(_column(table, name))), 0)
            keep &= np.asarray(filled.to_numpy(zero_copy_only=False), np.bool_) == wanted
    return keep


def _joined(table: pa.Table, pieces: Sequence[_Piece]) -> pa.Array:
    """large_string [rows]: the pieces of each example, one after the other."""
    empty = pa.scalar("", pa.large_string())
    parts = []
    for piece in pieces:
        split = _COLUMN.split(piece.text)  # text, column, text, column, ..., text
        values = [
            _column(table, x) if i % 2 else pa.scalar(x, pa.large_string()) for i, x in enumerate(split)
        ]
        text = pc.binary_join_element_wise(*values, empty)
        if isinstance(text, pa.Scalar):
            text = pa.repeat(text, table.num_rows)
        there = _there(table, piece.when, piece.unless)
        parts.append(text if there.all() else pc.if_else(pa.array(there), text, empty))
    return pc.binary_join_element_wise(*parts, empty)


def _with_eos(
    runs: list[tuple[bool, Ints, Offsets]], eos: int, rows: int
) -> list[tuple[bool, Ints, Offsets]]:
    """eos after the last answer of each example, unless that has one; what follows it is left out."""
    answered, has = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    kept = []
    for trained, ids, offsets in reversed(runs):
        lengths = np.diff(offsets)
        last = trained & (lengths > 0) & ~answered
        answered |= last
        has |= last & (_sums(ids == eos, offsets) > 0)
        kept.append((trained, ids[np.repeat(answered, lengths)], _offsets(np.where(answered, lengths, 0))))
    end = (True, np.full(int((~has).sum()), eos, np.int32), _offsets(~has))
    return [*reversed(kept), end]


def _interleave(runs: Sequence[tuple[bool, Ints, Offsets]], rows: int) -> Encoded:
    """The runs of each example, one after the other."""
    lengths = np.stack([np.diff(offsets) for _, _, offsets in runs], axis=1)
    begin = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths.ravel())])
    ids = np.empty(int(begin[-1]), np.int32)
    labels = np.full(len(ids), IGNORE, np.int32)
    for number, (trained, values, _) in enumerate(runs):
        places = _ranges(begin[number : -1 : len(runs)], lengths[:, number])
        ids[places] = values
        if trained:
            labels[places] = values
    return Encoded(ids, labels, begin[:: len(runs)] if rows else np.zeros(1, np.int64))


def _emptied(made: Encoded, empty: Mask) -> Encoded:
    if not empty.any():
        return made
    lengths = np.where(empty, 0, made.lengths)
    places = _ranges(made.offsets[:-1], lengths)
    return Encoded(made.ids[places], made.labels[places], _offsets(lengths))


def _ranges(begin: Offsets, lengths: Offsets) -> Offsets:
    """The places begin[i], begin[i] + 1, ..., lengths[i] of them, for all i."""
    ends = np.cumsum(lengths)
    places = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(begin - (ends - lengths), lengths)
    return np.asarray(places, np.int64)


def _offsets(lengths: NDArray[np.int64] | Mask) -> Offsets:
    total: Offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return total


def _sums(flags: Mask, offsets: Offsets) -> Offsets:
    total = _offsets(flags)
    return np.asarray(total[offsets[1:]] - total[offsets[:-1]], np.int64)
