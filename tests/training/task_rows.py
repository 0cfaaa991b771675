"""A few questions in each format, for the tests of tasks."""

from __future__ import annotations

import random

WORDS = [
    "말모이",
    "사전",
    "낱말",
    "하늘이",
    "푸르다",
    "the",
    "words",
    "of",
    "a",
    "dictionary",
    "漢字",
    "12",
    "text",
]


def words(rng, most):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def make(kind, count, seed=0):
    """Rows as the published files have them."""
    rng = random.Random(f"{kind}{seed}")
    makers = {
        "mmlu": lambda i: {
            "question": f" {words(rng, 8)}? ", "choices": [words(rng, 3) for _ in range(4)],
            "answer": rng.randrange(4), "subject": "high_school_biology",
        },
        "hellaswag": lambda i: {
            "activity_label": "Baking", "ctx_a": f"{words(rng, 6)} [header] x [title] y.", "ctx_b": words(rng, 2),
            "endings": [f"{words(rng, 9)} [substeps]  end" for _ in range(4)], "label": str(rng.randrange(4)),
        },
        "kobest_boolq": lambda i: {
            "paragraph": words(rng, 20), "question": words(rng, 5), "label": rng.randrange(2)
        },
        "kobest_copa": lambda i: {
            "premise": words(rng, 8), "question": ["원인", "결과"][i % 2], "alternative_1": words(rng, 5),
            "alternative_2": words(rng, 5), "label": rng.randrange(2),
        },
        "kobest_wic": lambda i: {
            "word": "말", "context_1": words(rng, 8), "context_2": words(rng, 8), "label": rng.randrange(2)
        },
        "kobest_hellaswag": lambda i: {
            "context": words(rng, 20), **{f"ending_{k}": words(rng, 6) for k in range(1, 5)},
            "label": rng.randrange(4),
        },
        "kobest_sentineg": lambda i: {"sentence": words(rng, 8), "label": rng.randrange(2)},
    }  # fmt: skip
    return [makers[kind](i) for i in range(count)]


FORMATS = (
    "mmlu", "hellaswag",
    "kobest_boolq", "kobest_copa", "kobest_wic", "kobest_hellaswag", "kobest_sentineg",
)  # fmt: skip
