"""Counting tokens with the user's own tokenizer."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from .analysis import text_column
from .contract import TEXT, Kind, with_columns
from .normalise import text_buffers

NUM_TOKENS = "num_tokens"
_BATCH_BYTES = 1 << 20  # an encoding takes about a hundred bytes a token, so only so much text at once

_tokenizers: dict[tuple[str, int, int], Any] = {}
_loading = threading.Lock()


def tokenizer_path(tokenizer: str) -> Path:
    """The tokenizer.json itself, or the one in the folder that is named."""
    path = Path(tokenizer).expanduser()
    return path / "tokenizer.json" if path.is_dir() else path


def load_tokenizer(tokenizer: str) -> Any:
    """The `tokenizers.Tokenizer`, read once per process and file state, without truncation and padding.

    ImportError if the package `tokenizers` is missing, FileNotFoundError if the file is, ValueError if it is
    no tokenizer.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(
            "counting tokens needs the package tokenizers; run `pip install 'malmoi[tokenize]'`"
        ) from error
    path = tokenizer_path(tokenizer)
    try:
        state = os.stat(path)
    except OSError as error:
        raise FileNotFoundError(
            f"tokenizer {str(path)!r} cannot be read ({error.strerror});"
            " give the path of a tokenizer.json or of a folder that holds one"
        ) from error
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    with _loading:
        if key not in _tokenizers:
            try:
                made = Tokenizer.from_file(str(path))
            except Exception as error:  # the library raises plain Exception
                raise ValueError(f"tokenizer {str(path)!r} is not a tokenizer.json: {error}") from error
            made.no_truncation()
            made.no_padding()
            made.encode_special_tokens = True  # "<|endoftext|>" written in a document is text, not control
            _tokenizers[key] = made
        return _tokenizers[key]


@dataclass(frozen=True)
class TokenCount:
    """Adds `num_tokens` (int64): tokens of the text alone, no special tokens added.

    `tokenizer`: path of a `tokenizer.json`, or of a folder with one. What looks like a special token
    in a text is counted as the text that it is. The library uses the threads that TOKENIZERS_PARALLELISM and
    RAYON_NUM_THREADS allow. Errors as in `load_tokenizer`, at the first call or at `check()`.
    """

    name: ClassVar[str] = "token_count"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "signal"
    reference: ClassVar[str] = "Hugging Face tokenizers, encode_batch_fast"

    tokenizer: str

    def __post_init__(self) -> None:
        if not self.tokenizer:
            raise ValueError("tokenizer: want the path of a tokenizer.json, got ''")

    @property
    def needs(self) -> tuple[str, ...]:
        return (TEXT,)

    @property
    def adds(self) -> pa.Schema:
        return pa.schema([pa.field(NUM_TOKENS, pa.int64())])

    @property
    def files(self) -> tuple[str, ...]:
        """The tokenizer file, for the plan (is it there?) and the manifest (which bytes were it?)."""
        return (str(tokenizer_path(self.tokenizer)),)

    def check(self) -> None:
        """Load the tokenizer; errors as in `load_tokenizer`."""
        load_tokenizer(self.tokenizer)

    def __call__(self, table: pa.Table) -> pa.Table:
        encode = load_tokenizer(self.tokenizer).encode_batch_fast
        texts = text_column(table)
        _, offsets = text_buffers(texts)
        counts = np.zeros(len(texts), np.int64)
        row = 0
        while row < len(texts):
            after = int(np.searchsorted(offsets, offsets[row] + _BATCH_BYTES, side="right")) - 1
            after = min(max(after, row + 1), len(texts))
            encoded = encode(texts.slice(row, after - row).to_pylist(), add_special_tokens=False)
            counts[row:after] = [len(one) for one in encoded]
            row = after
        return with_columns(table, [(NUM_TOKENS, pa.array(counts))])
