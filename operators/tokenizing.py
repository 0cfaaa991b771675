"""From text to token ids with a tokenizer.json that lies on this machine.

Two libraries read the file. fastokens is twenty times faster and more (benchmarks/tokens.py); it is taken where its ids
equal those of `tokenizers`, the reference, on hard texts and on a sample of the text at hand, checked in every run.

What looks like a control token in a text ("<|endoftext|>" on a web page) is encoded as the characters that it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .normalise import text_array, text_buffers
from .token_count import tokenizer_path

Library = Literal["fastokens", "tokenizers"]
Ids = NDArray[np.int32]
Offsets = NDArray[np.int64]

_BATCH_BYTES = 4 * 1024**2
_REFERENCE_BYTES = 256 * 1024  # of a sample's text, as the reference is slow
_INSTALL = "run `pip install 'malmoi[tokenize]'`"

# Names of the token that ends a document, for a tokenizer that does not say which of its own it is.
_EOS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<|eos|>",
    "<eos>",
    "<|im_end|>",
    "[EOS]",
    "<end_of_turn>",
)

_HARD = (
    "",
    " ",
    "\n\n \n",
    "a  b   c\td\r\n e ",
    "Don't WE'LL they're 1,234,567.89 x=-1e-9; 0xFF",
    "def f(x):\n        return x[1:-1]  # comment\n",
    "말모이는 조선어학회가 엮으려던 사전이다.",
    "\u1106\u1161\u11af\u1106\u1169\u110b\u1175 NFD",
    "漢字とかなと한글과 Latin mixed 12時34分",
    "👩‍👩‍👧‍👦🇰🇷🏳️‍🌈 emoji",
    "\u200b\u00a0\u3000\ufeff zero width",
    "\x00\x01\x7f controls",
    "ﬁ ① Å Å é é ẛ̣",
    "=" * 300 + " " * 300 + "a" * 300,
)

_MARKS = ("\x01", "\n")

_lock = threading.Lock()
_backends: dict[tuple[str, str, str], Any] = {}


@dataclass(frozen=True)
class Inner:
    """How text is encoded that does not begin a text: behind `mark`, whose `ids` are then left out.

    `controls`: also behind a control token no space is put.
    """

    mark: str
    ids: tuple[int, ...]
    controls: bool


@dataclass(frozen=True)
class Encoder:
    """A tokenizer as `load_encoder` found it; picklable, the file is read again where it is used.

    `library`: which one encodes, and `why`; `vocab_size`: one more than the largest id; `control`: the special
    tokens (text, id), none of which `encode` ever gives; `inner`: of a tokenizer that puts a space before a text.
    """

    path: str
    name: str
    sha256: str
    library: Library
    why: str
    vocab_size: int
    eos_id: int
    bos_id: int | None
    pad_id: int | None
    control: tuple[tuple[str, int], ...] = field(repr=False)
    inner: Inner | None = None

    def encode_behind(self, texts: pa.Array, behind: NDArray[np.bool_]) -> tuple[Ids, Offsets]:
        """`encode`, but texts of `behind` go on where another text ends, and so get no space before them."""
        if self.inner is None or not behind.any():
            return self.encode(texts)
        empty = pa.scalar("", pa.large_string())
        marks = pc.if_else(pa.array(behind), pa.scalar(self.inner.mark, pa.large_string()), empty)
        ids, offsets = self.encode(pc.binary_join_element_wise(marks, texts, empty))
        ahead = np.where(behind, len(self.inner.ids), 0)
        lengths = np.diff(offsets) - ahead
        keep = np.ones(len(ids), np.bool_)
        for place in range(len(self.inner.ids)):
            keep[offsets[:-1][behind] + place] = False
        return ids[keep], np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    def encode(self, texts: pa.Array | pa.ChunkedArray) -> tuple[Ids, Offsets]:
        """(ids int32 [N], offsets int64 [rows + 1]): row i has ids[offsets[i]:offsets[i + 1]]; null has none.

        No special tokens are added and none are recognised. ValueError where the file has changed.
        """
        column = text_array(texts)
        column = column.fill_null("") if column.null_count else column
        _, places = text_buffers(column)
        all_ids: list[Ids] = []
        lengths = np.zeros(len(column), np.int64)
        row = 0
        while row < len(column):
            after = int(np.searchsorted(places, places[row] + _BATCH_BYTES, side="right")) - 1
            after = min(max(after, row + 1), len(column))
            ids, offsets = self._flat(column.slice(row, after - row).to_pylist())
            all_ids.append(ids)
            lengths[row:after] = np.diff(offsets)
            row = after
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return (np.concatenate(all_ids) if all_ids else np.zeros(0, np.int32)), offsets

    def _flat(self, texts: list[str]) -> tuple[Ids, Offsets]:
        ids, offsets = _encode(self._backend, self.library, texts)
        held = self._is_control[ids]
        if not held.any():
            return ids, offsets
        rows = np.unique(np.searchsorted(offsets, np.flatnonzero(held), side="right") - 1)
        pieces = np.split(ids, offsets[1:-1])
        for i in rows.tolist():  # a model whose vocabulary gives a control token for its text: very rare
            pieces[i] = self._apart(texts[i])
        lengths = np.array([len(piece) for piece in pieces], np.int64)
        return np.concatenate(pieces), np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    def _apart(self, text: str) -> Ids:
        """Encode with every special token of the text cut after its first character."""
        tokens = "|".join(re.escape(token) for token, _ in self.control)
        cuts = [0, *(found.start() + 1 for found in re.finditer(tokens, text)), len(text)]
        parts = [text[start:stop] for start, stop in pairwise(cuts)]
        ids, _ = _encode(self._backend, self.library, parts)
        return ids[~self._is_control[ids]]

    @cached_property
    def _is_control(self) -> NDArray[np.bool_]:
        table = np.zeros(self.vocab_size, np.bool_)
        table[[number for _, number in self.control]] = True
        return table

    @property
    def _backend(self) -> Any:
        key = (self.path, self.sha256, self.library)
        with _lock:
            if key not in _backends:
                content = _read(Path(self.path))
                if (now := _sha256(content)) != self.sha256:
                    raise ValueError(
                        f"tokenizer {self.path!r} changed since it was loaded (sha256 {now[:16]}, "
                        f"was {self.sha256[:16]})"
                    )
                _backends[key] = _open(self.library, _patched(content, dict(self.control)))
            return _backends[key]


def load_encoder(path: str, sample: Sequence[str] = (), *, eos: str | None = None) -> Encoder:
    """The tokenizer of a tokenizer.json, or of the folder that holds one; `eos`: its token, else found.

    `sample`: texts on which both libraries have to agree (at most 256 KiB of them are used) besides hard ones.
    ImportError if `tokenizers` is missing, FileNotFoundError if the file is, ValueError if it is no tokenizer,
    or has no token that ends a document.
    """
    file = tokenizer_path(path).resolve()
    content = _read(file)
    try:
        data = json.loads(content)
        model, added = data["model"], {x["content"]: int(x["id"]) for x in data.get("added_tokens") or []}
        if not isinstance(model, dict):
            raise TypeError("its model is no mapping")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"tokenizer {str(file)!r} is not a tokenizer.json: {error!r}") from error
    special = {x["content"] for x in data.get("added_tokens") or [] if x.get("special")}
    special -= _unknown(model)  # a model gives it for a character that it lacks, which is no control
    reference = _open_reference(content, file)
    known = reference.get_vocab(with_added_tokens=True)
    named = _named(file.parent)
    end = _eos_token(file, eos, named, special, known)
    roles = {"eos": end, "bos": named.get("bos_token"), "pad": named.get("pad_token")}
    ids = {role: known[token] for role, token in roles.items() if token is not None and token in known}
    control = {
        token: known[token] for token in sorted(special | {roles[x] or "" for x in ids}) if token in known
    }
    vocab_size = max([*known.values(), *added.values()]) + 1
    sha256 = _sha256(content)
    patched = _patched(content, control)
    library, why = _choose(patched, control, sample)
    name = file.parent.name if file.name == "tokenizer.json" else file.name
    return Encoder(
        str(file), name, sha256, library, why, vocab_size,
        ids["eos"], ids.get("bos"), ids.get("pad"), tuple(control.items()), _inner(patched, end),
    )  # fmt: skip


def library_versions(library: str) -> dict[str, str]:
    """The version of the library that encodes, for the manifest."""
    try:
        return {library: version(library)}
    except PackageNotFoundError:
        return {library: "unknown"}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise FileNotFoundError(
            f"tokenizer {str(file)!r} cannot be read ({error.strerror});"
            " give the path of a tokenizer.json or of a folder that holds one"
        ) from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _named(folder: Path) -> dict[str, str]:
    """eos_token, bos_token, pad_token as the files beside the tokenizer name them."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            content = json.loads((folder / name).read_bytes())
        except (OSError, ValueError):
            continue
        for role in ("eos_token", "bos_token", "pad_token"):
            value = content.get(role) if isinstance(content, dict) else None
            token = value.get("content") if isinstance(value, dict) else value
            if isinstance(token, str) and token:
                found[role] = token
    return found


def _eos_token(
    file: Path, eos: str | None, named: dict[str, str], special: set[str], known: dict[str, int]
) -> str:
    given = eos or named.get("eos_token")
    if given is not None:
        if given not in known:
            raise ValueError(f"tokenizer {str(file)!r}: eos {given!r} is not in its vocabulary")
        return given
    found = [token for token in _EOS if token in special]
    if not found:
        shown = ", ".join(map(repr, sorted(special)[:8])) or "none"
        raise ValueError(
            f"tokenizer {str(file)!r} names no token that ends a document (special tokens: {shown}); "
            "give one with `eos`"
        )
    return found[0]


def _unknown(model: dict[str, Any]) -> set[str]:
    """The token for what is not in the vocabulary."""
    if isinstance(model.get("unk_token"), str):
        return {model["unk_token"]}
    number = model.get("unk_id")  # of Unigram, whose vocabulary is a list of (token, score)
    return {model["vocab"][number][0]} if isinstance(number, int) else set()


def _patched(content: bytes, control: dict[str, int]) -> str:
    """The tokenizer as JSON without truncation and padding, every control token marked as special."""
    data = json.loads(content)
    data["truncation"] = data["padding"] = None
    added = data.get("added_tokens") or []
    for token in added:
        token["special"] = bool(token.get("special")) or token["content"] in control
    held = {token["content"] for token in added}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added += [{"id": i, "content": token, **plain} for token, i in control.items() if token not in held]
    data["added_tokens"] = sorted(added, key=lambda token: int(token["id"]))
    return json.dumps(data, ensure_ascii=False)


def _open_reference(content: bytes, file: Path) -> Any:
    try:
        return _open("tokenizers", content.decode())
    except ImportError as error:
        raise ImportError(f"tokenizing needs the package tokenizers; {_INSTALL}") from error
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"tokenizer {str(file)!r} is not a tokenizer.json: {error}") from error


def _open(library: str, content: str) -> Any:
    if library == "fastokens":
        from fastokens import Tokenizer as Fast

        return Fast.from_json_str(content)
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(content)
    made.encode_special_tokens = True
    return made


def _inner(content: str, end: str) -> Inner | None:
    """None where a text is encoded alike wherever it stands (all but tokenizers in the manner of SentencePiece).

    `end`: a control token. A mark is a character that joins nothing behind it.
    """
    data = json.loads(content)
    if not (_puts_space(data.get("normalizer")) or _puts_space(data.get("pre_tokenizer"))):
        return None
    made = _open("tokenizers", content)
    texts = [text for text in (*_HARD, *_MARKS, "a", "가") if text]
    for mark in _MARKS:
        ids = made.encode(mark, add_special_tokens=False).ids
        found = [made.encode(mark + x, add_special_tokens=False) for x in texts]
        if ids and all(x.ids[: len(ids)] == ids and x.offsets[len(ids) - 1][1] == len(mark) for x in found):
            alone = made.encode("a", add_special_tokens=False).ids
            made.encode_special_tokens = False
            behind = made.encode(f"{end}a", add_special_tokens=False).ids[1:]
            return Inner(mark, tuple(ids), behind != alone)
    return None


def _puts_space(part: Any) -> bool:
    """Whether a normaliser or pre-tokeniser puts a space, or what stands for one, before each text."""
    if isinstance(part, list):
        return any(map(_puts_space, part))
    if not isinstance(part, dict):
        return False
    scheme = part.get("prepend_scheme", "always" if part.get("add_prefix_space") else "never")
    return part.get("type") == "Prepend" or scheme != "never" or any(map(_puts_space, part.values()))


def _encode(backend: Any, library: str, texts: list[str]) -> tuple[Ids, Offsets]:
    if library == "fastokens":
        raw, places = backend.encode_batch_flat(texts, split_special_tokens=True)
        return np.frombuffer(raw, np.int32), np.frombuffer(places, np.int64)
    encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
    lengths = np.array([len(one) for one in encoded], np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    ids = [np.asarray(one.ids, np.int32) for one in encoded]
    return (np.concatenate(ids) if ids else np.zeros(0, np.int32)), offsets


def _choose(content: str, control: dict[str, int], sample: Sequence[str]) -> tuple[Library, str]:
    """(library, why): fastokens where it is there, reads the file and gives the reference's ids."""
    texts = [*_HARD, *control, *(f"a{token} b{token}{token}" for token in list(control)[:16])]
    room = _REFERENCE_BYTES
    for text in sample:
        texts.append(text[: max(room, 0)])
        room -= len(text.encode("utf-8", "replace"))
        if room <= 0:
            break
    try:
        fast = _open("fastokens", content)
        got = _encode(fast, "fastokens", texts)
    except ImportError:
        return "tokenizers", f"fastokens is not installed; {_INSTALL}"
    except Exception as error:  # what it does not support, it says in many ways
        return "tokenizers", f"fastokens does not read this tokenizer ({error})"
    want = _encode(_open("tokenizers", content), "tokenizers", texts)
    pieces = [np.split(ids, offsets[1:-1]) for ids, offsets in (got, want)]
    differ = sum(not np.array_equal(a, b) for a, b in zip(*pieces, strict=True))
    if differ:
        return "tokenizers", f"fastokens gives other ids on {differ} of {len(texts)} texts"
    return "fastokens", f"the ids of {len(texts)} texts equal those of tokenizers"
