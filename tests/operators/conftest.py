"""The tokenizer of the tests, as the operators use it and as the library itself does."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer):
    from malmoi.operators.tokenizing import load_encoder

    return load_encoder(str(tiny_tokenizer))


@pytest.fixture(scope="module")
def reference(tiny_tokenizer):
    """Text that looks like a control token is text to it."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(tiny_tokenizer / "tokenizer.json"))
    made.encode_special_tokens = True
    return made
