"""Held-out loss and bits per byte, by source and by language.

Bits per byte do not depend on the tokenizer: nats of all tokens of a document, given what comes before them
in it, over ln 2 and its UTF-8 bytes. The first token is given what stands between documents in pretraining
(`evaluate_model.load_tokenizer` says which token). A document that is longer than the window is read through
strided windows: each token is scored once, with at least `window - stride` tokens before it from the second
window on.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from malmoi.pipeline import manifest
from malmoi.pipeline.errors import MalmoiError, SourceError
from malmoi.pipeline.storage import Folder

from .local_rows import file_hash, read_rows
from .scoring import Floats, Ints, Request

COLUMNS = ("id", "text", "source", "language")


@dataclass(frozen=True)
class Document:
    text: str
    source: str
    language: str

    @property
    def bytes(self) -> int:
        return len(self.text.encode())


@dataclass(frozen=True)
class Heldout:
    """What is scored. `hash`: of the files' content; `documents`: in the order of the files."""

    documents: tuple[Document, ...]
    files: tuple[str, ...]
    hash: str


def heldout_files(given: Sequence[str]) -> list[str]:
    """Files as they are; of a run's folder the shards of its corpus, checked against the manifest."""
    files: list[str] = []
    for place in given:
        folder = Folder(place)
        if folder.exists(manifest.FILE):
            made = manifest.Manifest.load(folder)
            made.verify(folder)
            files += made.corpus_files(folder)
        elif folder.exists("tokens.json"):
            raise SourceError(
                f"{place}: holds tokens; bits per byte need text: give the run that they are of"
            )
        else:
            files.append(place)
    return files


def read_heldout(given: Sequence[str], limit: int | None = None, seed: int = 0) -> Heldout:
    """The documents of files (columns text, and where there are source and language) or runs.

    A document without a source has its file's name up to the first dot. `limit`: at most so many of each
    source, chosen by hash of (text, seed). SourceError: no text, or nothing to score.
    """
    files = heldout_files(given)
    documents = [document for path in files for document in _documents(path)]
    if limit is not None:
        documents = _limited(documents, limit, seed)
    if not any(document.text for document in documents):
        raise SourceError(f"{', '.join(given)}: no document with text")
    digest = hashlib.sha256(json.dumps([[file_hash(path) for path in files], limit, seed]).encode())
    return Heldout(tuple(documents), tuple(files), digest.hexdigest()[:32])


def _documents(path: str) -> Iterator[Document]:
    stem = path.rpartition("/")[2].partition(".")[0]
    for place, row in read_rows(path, COLUMNS):
        text = row.get("text")
        if not isinstance(text, str):
            raise SourceError(f"{place}: want a string in text, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SourceError(f"{place}: text has half a surrogate pair at {error.start}") from error
        yield Document(text, str(row.get("source") or stem), str(row.get("language") or "unknown"))


def _limited(documents: Iterable[Document], limit: int, seed: int) -> list[Document]:
    chosen: dict[str, list[tuple[int, int]]] = {}
    listed = list(documents)
    for number, document in enumerate(listed):
        key = xxhash.xxh3_64_intdigest(document.text.encode(), seed=seed)
        chosen.setdefault(document.source, []).append((key, number))
    kept = sorted(number for keys in chosen.values() for _, number in heapq.nsmallest(limit, keys))
    return [listed[number] for number in kept]


def windows(tokens: Sequence[int] | Ints, prefix: int, window: int, stride: int) -> list[Request]:
    """Requests that score each token once. `window`: tokens that the model sees; 1 <= stride <= window."""
    if not 1 <= stride <= window:
        raise MalmoiError(f"want 1 <= stride <= window={window}, got stride={stride}")
    whole = np.concatenate([np.asarray([prefix]), np.asarray(tokens)]).astype(np.int32)
    count = len(whole) - 1
    requests = []
    done = 0
    while done < count:
        end = min(count, done + (stride if done else window))
        first = max(0, end - window)
        requests.append(Request(whole[first : end + 1], done + 1 - first))
        done = end
    return requests


def ratio(parts: Floats, wholes: Floats) -> tuple[float | None, float | None]:
    """sum(parts) / sum(wholes) and its standard error, documents being the sample.

    The linearised variance of a ratio estimator (Cochran, Sampling Techniques, 1977, section 6.4):
    n / (n - 1) * sum((part - ratio * whole)^2) / sum(wholes)^2. None for fewer than two documents, and both
    where all wholes are 0.
    """
    total = float(wholes.sum())
    if not total:
        return None, None
    value = float(parts.sum()) / total
    if len(parts) < 2:
        return value, None
    rest = parts - value * wholes
    variance = len(parts) / (len(parts) - 1) * float((rest**2).sum())
    return value, math.sqrt(variance) / total


@dataclass(frozen=True, eq=False)
class Scored:
    """By document: `nats` (>= 0), `tokens`, `bytes`, each float64 [n]."""

    nats: Floats
    tokens: Floats
    bytes: Floats


def figures(scored: Scored, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """Of the chosen documents: counts, loss in nats per token, bits per byte, standard errors of both."""
    nats, tokens, size = scored.nats[chosen], scored.tokens[chosen], scored.bytes[chosen]
    loss, loss_error = ratio(nats, tokens)
    bits, bits_error = ratio(nats / math.log(2), size)
    return {
        "documents": int(chosen.sum()),
        "tokens": int(tokens.sum()),
        "bytes": int(size.sum()),
        "loss": loss,
        "loss_stderr": loss_error,
        "bits_per_byte": bits,
        "bits_per_byte_stderr": bits_error,
    }


@dataclass(frozen=True)
class HeldoutPlan:
    """The requests of all documents; `owners[i]`: the document, by number, that request i belongs to."""

    requests: tuple[Request, ...]
    owners: tuple[int, ...]
    prefix: int
    window: int
    stride: int

    @staticmethod
    def of(
        heldout: Heldout, encode: Callable[[list[str]], list[Ints]], prefix: int, window: int, stride: int
    ) -> HeldoutPlan:
        """`encode`: ids of texts without special tokens, and with none made from the text itself."""
        requests: list[Request] = []
        owners: list[int] = []
        for number, ids in enumerate(encode([document.text for document in heldout.documents])):
            found = windows(ids, prefix, window, stride)
            requests += found
            owners += [number] * len(found)
        return HeldoutPlan(tuple(requests), tuple(owners), prefix, window, stride)

    def report(self, heldout: Heldout, scores: Floats) -> dict[str, Any]:
        """The part `heldout` of a report: figures of all documents, of each source, of each language."""
        count = len(heldout.documents)
        tokens = [len(request.tokens) - request.start for request in self.requests]
        scored = Scored(
            nats=-np.bincount(self.owners, weights=scores, minlength=count).astype(np.float64),
            tokens=np.bincount(self.owners, weights=tokens, minlength=count).astype(np.float64),
            bytes=np.asarray([document.bytes for document in heldout.documents], dtype=np.float64),
        )
        by = {
            "sources": [document.source for document in heldout.documents],
            "languages": [document.language for document in heldout.documents],
        }
        return {
            "hash": heldout.hash,
            "files": [path.rpartition("/")[2] for path in heldout.files],
            "prefix_token": self.prefix,
            "window": self.window,
            "stride": self.stride,
            "all": figures(scored, np.ones(count, dtype=np.bool_)),
            **{
                key: {
                    name: figures(scored, np.asarray([x == name for x in names]))
                    for name in sorted(set(names))
                }
                for key, names in by.items()
            },
        }
