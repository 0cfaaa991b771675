"""Conversations through the chat template that comes with a tokenizer, with labels on what the assistant says.

The template (Jinja, in a sandbox, without a clock) is rendered up to each answer and with it; where the one is the
beginning of the other, the difference is what is learned. A template that changes what it said before (one
that drops earlier thoughts, say) leaves the last answer to learn from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .packing import IGNORE
from .templates import Encoded
from .token_count import tokenizer_path
from .tokenizing import Encoder

# Around the number of a control token that a message writes out: noncharacters, which no text should hold.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_HELD = re.compile(f"{_OPEN}(\\d+){_CLOSE}")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class ChatTemplate:
    """`source`: Jinja as transformers has it; `tokens`: (name, text) of bos_token, eos_token and so on."""

    source: str
    tokens: tuple[tuple[str, str], ...] = ()

    def render(self, messages: Messages, *, answer: bool) -> str:
        """`answer`: with what asks for the next one. ValueError where the template refuses or fails."""
        from jinja2.exceptions import TemplateError

        try:
            return str(
                _compiled(self.source).render(
                    messages=messages, add_generation_prompt=answer, **dict(self.tokens)
                )
            )
        except (TemplateError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
            raise ValueError(f"the chat template fails: {error}") from error


def load_chat_template(tokenizer: str, name: str = "default") -> ChatTemplate:
    """From chat_template.jinja or tokenizer_config.json beside the tokenizer; ValueError where there is none."""
    folder = tokenizer_path(tokenizer).parent
    try:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        config = {}
    source = config.get("chat_template")
    if isinstance(source, list):
        source = {str(x["name"]): x["template"] for x in source}.get(name)
    file = folder / "chat_template.jinja"
    if file.is_file():
        source = file.read_text(encoding="utf-8")
    if not isinstance(source, str):
        raise ValueError(
            f"tokenizer {str(folder)!r} has no chat template (chat_template.jinja or tokenizer_config.json); use "
            "another template: korean, alpaca, chatml"
        )
    tokens = []
    for key, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            tokens.append((key, text))
    _compiled(source)
    return ChatTemplate(source, tuple(tokens))


def encode_chat(
    conversations: pa.Array | pa.ChunkedArray,
    template: ChatTemplate,
    encoder: Encoder,
    *,
    append_eos: bool = True,
) -> tuple[Encoded, NDArray[np.bool_]]:
    """Examples of JSON lists of {role, content}, and which of them cannot be used (bool [rows], no tokens).

    An example that has no answer cannot be used either. Loops over examples: a template is a program.
    """
    held = re.compile("|".join(re.escape(x) for x, _ in encoder.control) or r"(?!)")
    numbers = {text: i for i, (text, _) in enumerate(encoder.control)}
    inner_controls = encoder.inner is not None and encoder.inner.controls
    texts: list[str] = []
    runs: list[
        list[tuple[bool, int]]
    ] = []  # (trained, index of a text) or (trained, -1 - id of a control token)
    bad = np.zeros(len(conversations), np.bool_)
    for row, raw in enumerate(conversations.to_pylist()):
        mine: list[tuple[bool, int]] = []
        try:
            messages = _messages(raw, held, numbers)
            for trained, text in _spans(messages, template):
                _cut(text, trained, held, encoder, texts, mine)
        except (ValueError, RecursionError):
            bad[row], mine = True, []
        runs.append(mine)
    behind = np.zeros(len(texts), np.bool_)
    for mine in runs:
        for (_, before), (_, what) in pairwise(mine):
            behind[max(what, 0)] |= what >= 0 and (before >= 0 or inner_controls)
    ids, offsets = encoder.encode_behind(pa.array(texts, pa.large_string()), behind)
    pieces = np.split(ids, offsets[1:-1])
    return _assembled(runs, pieces, encoder.eos_id if append_eos else None), bad


@cache
def _compiled(source: str) -> Any:
    try:
        from jinja2.exceptions import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ImportError("chat templates need jinja2; run `pip install 'malmoi[tokenize]'`") from error

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = refuse
    try:
        return made.from_string(source)
    except TemplateError as error:
        raise ValueError(f"the chat template is no Jinja: {error}") from error


def _messages(raw: str | None, held: re.Pattern[str], numbers: dict[str, int]) -> Messages:
    """The messages with control tokens in their texts hidden; ValueError where they are none."""
    found = json.loads(raw or "null")
    good = isinstance(found, list) and found and all(isinstance(x, dict) for x in found)
    if not good or not all(isinstance(x.get("role"), str) for x in found):
        raise ValueError("want a list of {role, content}")
    said = [x.get("content") or x.get("tool_calls") for x in found if x["role"] == "assistant"]
    if not any(x.strip() if isinstance(x, str) else x for x in said):
        raise ValueError("no answer")

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            return held.sub(lambda match: f"{_OPEN}{numbers[match[0]]}{_CLOSE}", value)
        if isinstance(value, list):
            return [hide(x) for x in value]
        return {key: hide(x) for key, x in value.items()} if isinstance(value, dict) else value

    # Parquet gives every message the keys of all, null where it has none; templates ask whether a key is there.
    there = [{key: value for key, value in x.items() if value is not None or key == "content"} for x in found]
    return [{"content": "", **hide(x)} for x in there]


def _spans(messages: Messages, template: ChatTemplate) -> list[tuple[bool, str]]:
    """(trained, text) of a conversation up to its last answer."""
    turns = [i for i, x in enumerate(messages) if x["role"] == "assistant"]
    whole = template.render(messages[: turns[-1] + 1], answer=False)
    spans: list[tuple[bool, str]] = []
    done = 0
    for turn in turns:
        prompt = template.render(messages[:turn], answer=True)
        said = template.render(messages[: turn + 1], answer=False)
        if said.startswith(prompt) and whole.startswith(said) and len(prompt) >= done:
            spans += [(False, whole[done : len(prompt)]), (True, said[len(prompt) :])]
            done = len(said)
        elif turn == turns[-1]:
            raise ValueError("the template does not go on from its prompt to the answer")
    return [span for span in spans if span[1]]


def _cut(
    text: str,
    trained: bool,
    held: re.Pattern[str],
    encoder: Encoder,
    texts: list[str],
    into: list[tuple[bool, int]],
) -> None:
    """Add the runs of a text: its control tokens, and what lies between with hidden ones written out again."""
    control = dict(encoder.control)
    place = 0
    for match in [*held.finditer(text), None]:
        plain = text[place : match.start() if match else len(text)]
        if plain:
            into.append((trained, len(texts)))
            texts.append(_HELD.sub(lambda found: _written(found, encoder), plain))
        if match:
            into.append((trained, -1 - control[match[0]]))
            place = match.end()


def _written(found: re.Match[str], encoder: Encoder) -> str:
    number = int(found[1]) if len(found[1]) < 9 else len(encoder.control)
    return encoder.control[number][0] if number < len(encoder.control) else found[0]


def _assembled(
    runs: Sequence[Sequence[tuple[bool, int]]], pieces: Sequence[NDArray[np.int32]], eos: int | None
) -> Encoded:
    ids: list[NDArray[np.int32]] = []
    labels: list[NDArray[np.int32]] = []
    lengths = np.zeros(len(runs), np.int64)
    for row, mine in enumerate(runs):
        ends = eos is not None and bool(mine) and (True, -1 - eos) not in mine
        for trained, what in [*mine, *([(True, -1 - (eos or 0))] if ends else [])]:
            piece = pieces[what] if what >= 0 else np.array([-1 - what], np.int32)
            ids.append(piece)
            labels.append(piece if trained else np.full(len(piece), IGNORE, np.int32))
            lengths[row] += len(piece)
    nothing = np.zeros(0, np.int32)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Encoded(np.concatenate([nothing, *ids]), np.concatenate([nothing, *labels]), offsets)
