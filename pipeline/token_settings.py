"""The `tokenize` block of a recipe against the tokenizer and the templates, before anything is read."""

from __future__ import annotations

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


def check_settings(settings: Tokenize, name: str) -> Encoder:
    """The tokenizer; RecipeError where it or the template is wrong, before anything is read."""
    try:
        encoder = load_encoder(settings.tokenizer, eos=settings.eos)
        if settings.bos and encoder.bos_id is None:
            raise ValueError("bos: the tokenizer names no token that begins a document")
        prompts_of(settings)
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(f"{name}: {error}") from error
    return encoder


def prompts_of(settings: Tokenize) -> tuple[Template | ChatTemplate | None, tuple[str, ...], tuple[str, ...]]:
    """(template, the columns that it reads, those of them that must be there)."""
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
