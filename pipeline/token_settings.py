"""The `tokenize` block of a recipe against the tokenizer and the templates, before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from malmoi.operators.chat import CHATML, ChatTemplate, load_chat_template
from malmoi.operators.config import did_you_mean
from malmoi.operators.templates import TEMPLATES, Segment, Template, rename
from malmoi.operators.tokenizing import Encoder, load_encoder

from .errors import RecipeError
from .recipe import Tokenize

CHAT = "chat"
TEXT = "text"
MESSAGES = "messages"


def check_settings(settings: Tokenize, name: str, sample: Sequence[str] = ()) -> Encoder:
    """The tokenizer, its libraries compared on `sample`; RecipeError where it or the template is wrong."""
    try:
        encoder = load_encoder(settings.tokenizer, sample, eos=settings.eos)
        if settings.bos and encoder.bos_id is None:
            raise ValueError("bos: the tokenizer names no token that begins a document")
        _prompts(settings)
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(f"{name}: {error}") from error
    return encoder


Prompts = tuple[Template | ChatTemplate | None, tuple[str, ...], tuple[str, ...]]


def prompts_of(settings: Tokenize, name: str) -> Prompts:
    """(template, the columns that it reads, those of them that must be there); RecipeError where it is wrong."""
    try:
        return _prompts(settings)
    except (ValueError, ImportError) as error:
        raise RecipeError(f"{name}: {error}") from error


def _prompts(settings: Tokenize) -> Prompts:
    given, columns = settings.template, settings.columns
    if given is None or given == CHAT or (given == "chatml" and MESSAGES in columns):
        one = TEXT if given is None else MESSAGES
        for wrong in sorted(set(columns) - {one}):
            raise ValueError(f"columns: no column {wrong!r}; there: {one}")
        read = (columns.get(one, one),)
        if given == CHAT:
            return load_chat_template(settings.tokenizer), read, read
        return (None if given is None else ChatTemplate(CHATML)), read, read
    if isinstance(given, str):
        if given not in TEMPLATES:
            raise ValueError(f"template: no {given!r}{did_you_mean(given, [*TEMPLATES, CHAT])}")
        template = TEMPLATES[given]
    else:
        template = Template("own", tuple(Segment(**x.model_dump()) for x in given))
        template = replace(template, optional=tuple(x for y in given for x in (y.when, y.unless) if x))
    template = rename(template, columns)
    return template, template.columns, template.needs
