"""What tests of all folders share."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A shell's background job ignores Ctrl-C and so does all that it starts; the commands under test must not.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE of 600 tokens, made here; eos <|eos|> is 0."""
    spec = importlib.util.spec_from_file_location("make_tokenizer", ROOT / "benchmarks/make_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = (ROOT / "examples/sample/docs-ko.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    texts = [json.loads(line)["text"] for line in lines] + ["the words of a text in English, and 123 numbers"]
    return module.train(texts, tmp_path_factory.mktemp("tokenizer") / "tiny", vocab_size=600)
