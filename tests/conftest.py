"""What tests of all folders share."""

from __future__ import annotations

import ast
import importlib.util
import json
import signal
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A shell's background job ignores Ctrl-C and so does all that it starts; the commands under test must not.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# `make test` has two processes for the tests (pytest-xdist). One of them runs the tests that start Ray, one after the
# other. The other one begins with those of training, which need few kernels, so that not both compile the same ones.
# Who is done first takes of what is left, file by file.


@cache
def _ray_tests(file: str) -> frozenset[str]:
    """The functions of a file that are marked `ray`; "" stands for all. The process that gives out the tests reads
    the files, since it imports none."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            found |= {""} if "mark.ray" in ast.unparse(node.value) else set()
        elif isinstance(node, ast.FunctionDef) and "pytest.mark.ray" in map(ast.unparse, node.decorator_list):
            found.add(node.name)
    return frozenset(found)


def _group(nodeid: str) -> str:
    file, _, test = nodeid.partition("::")
    return "ray" if _ray_tests(file) & {"", test.partition("[")[0]} else file


def _order(group: str) -> int:
    return 0 if group == "ray" else 1 if group.startswith("tests/training/") else 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = _group
    return scheduler


def pytest_collection_modifyitems(config, items):
    for item in items:
        assert (item.get_closest_marker("ray") is not None) == (_group(item.nodeid) == "ray"), item.nodeid
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _order(_group(item.nodeid)))


@pytest.fixture(scope="module")
def s3():
    """fsspec options of a running S3 server without a bucket. What it holds stays, also for other modules."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    server.stop()


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE of 600 tokens, made here; eos <|eos|> is 0."""
    spec = importlib.util.spec_from_file_location("make_tokenizer", ROOT / "benchmarks/make_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = (ROOT / "examples/sample/docs-ko.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    texts = [json.loads(line)["text"] for line in lines] + ["the words of a text in English, and 123 numbers"]
    return module.train(texts, tmp_path_factory.mktemp("tokenizer") / "tiny", vocab_size=600)
