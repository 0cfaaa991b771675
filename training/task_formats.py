"""Benchmarks as their published JSONL has them, turned into prompts and choices with the words of lm-eval 0.4.

The text of every prompt has to agree with lm-eval to the byte, white space included, or figures cannot be
compared with published ones: KoBEST's BoolQ has a space at its end before the space that precedes a choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from malmoi.pipeline.errors import SourceError

NO_YES = ("아니오", "예")
LETTERS = ("A", "B", "C", "D")
CONNECTORS = {"원인": " 왜냐하면", "결과": " 그래서"}


@dataclass(frozen=True)
class Example:
    """`choices[answer]` is right. `group`: a subject, "" for none; `description`: before everything else."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    group: str = ""
    description: str = ""


Row = Mapping[str, Any]


def _number(value: Any, count: int) -> int:
    """The number of a choice, given as a number, as its digits or as a letter."""
    if isinstance(value, str) and value.strip() in LETTERS[:count]:
        return LETTERS.index(value.strip())
    number = int(value)
    if not 0 <= number < count or isinstance(value, float):
        raise ValueError(f"want one of 0 to {count - 1}, got {value!r}")
    return number


def _mmlu(row: Row) -> Example:
    """Hendrycks et al. 2021. question, choices [4], answer, subject."""
    choices = [str(choice) for choice in row["choices"]]
    if len(choices) != len(LETTERS):
        raise ValueError(f"want 4 choices, got {len(choices)}")
    listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    subject = str(row.get("subject") or "")
    about = f" about {subject.replace('_', ' ')}" if subject else ""
    return Example(
        prompt=f"{row['question'].strip()}{listed}\nAnswer:",
        choices=LETTERS,
        answer=_number(row["answer"], len(LETTERS)),
        group=subject,
        description=f"The following are multiple choice questions (with answers){about}.\n\n",
    )


def _clean(text: str) -> str:
    """Without the marks of WikiHow."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _hellaswag(row: Row) -> Example:
    """Zellers et al. 2019. activity_label, ctx_a, ctx_b, endings [4], label."""
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = tuple(_clean(ending) for ending in row["endings"])
    return Example(_clean(context), endings, _number(row["label"], len(endings)))


def _boolq(row: Row) -> Example:
    """KoBEST (Jang et al. 2022). paragraph, question, label."""
    prompt = f"{row['paragraph']} 질문: {row['question']} 답변: "
    return Example(prompt, NO_YES, _number(row["label"], 2))


def _copa(row: Row) -> Example:
    """KoBEST. premise, question (원인 or 결과), alternative_1, alternative_2, label."""
    connector = CONNECTORS.get(row["question"].strip())
    if connector is None:
        raise ValueError(f"want 원인 or 결과 in question, got {row['question']!r}")
    choices = (str(row["alternative_1"]), str(row["alternative_2"]))
    return Example(f"{row['premise']} {connector}", choices, _number(row["label"], 2))


def _wic(row: Row) -> Example:
    """KoBEST. word, context_1, context_2, label."""
    prompt = (
        f"문장1: {row['context_1']} 문장2: {row['context_2']} 두 문장에서 {row['word']}가 같은 뜻으로 쓰였나?"
    )
    return Example(prompt, NO_YES, _number(row["label"], 2))


def _kobest_hellaswag(row: Row) -> Example:
    """KoBEST. context, ending_1 to ending_4, label."""
    choices = tuple(str(row[f"ending_{number}"]) for number in range(1, 5))
    return Example(f"문장: {row['context']}", choices, _number(row["label"], 4))


def _sentineg(row: Row) -> Example:
    """KoBEST. sentence, label."""
    return Example(f"문장: {row['sentence']} 긍부정:", ("부정", "긍정"), _number(row["label"], 2))


def _plain(row: Row) -> Example:
    """For data of one's own: prompt, choices, answer; group if there are some."""
    choices = tuple(str(choice) for choice in row["choices"])
    return Example(
        str(row["prompt"]), choices, _number(row["answer"], len(choices)), str(row.get("group") or "")
    )


FORMATS: dict[str, Callable[[Row], Example]] = {
    "plain": _plain,
    "mmlu": _mmlu,
    "hellaswag": _hellaswag,
    "kobest_boolq": _boolq,
    "kobest_copa": _copa,
    "kobest_wic": _wic,
    "kobest_hellaswag": _kobest_hellaswag,
    "kobest_sentineg": _sentineg,
}


def make_example(kind: str, row: Row, place: str) -> Example:
    """SourceError that names `place` (file:line) where a row is not of the format `kind`."""
    try:
        example = FORMATS[kind](row)
    except KeyError as error:
        raise SourceError(f"{place}: {kind} needs {error.args[0]!r}; there are {', '.join(row)}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise SourceError(f"{place}: not of the format {kind} ({error})") from error
    if len(example.choices) < 2 or not all(example.choices):
        raise SourceError(f"{place}: want two choices or more, none of them empty, got {example.choices}")
    return example
