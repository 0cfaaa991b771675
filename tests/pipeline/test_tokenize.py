"""From text to rows: every token once, the same bytes however it is run, and what is wrong is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from rich.console import Console
from tokenizers import Tokenizer

from malmoi.operators.packing import IGNORE
from malmoi.pipeline import examples, token_shards, tokenize
from malmoi.pipeline.config import load_recipe, parse_recipe
from malmoi.pipeline.errors import ChangedError, MalmoiError, RecipeError, SourceError
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.recipe import Tokenize
from malmoi.pipeline.storage import Folder
from malmoi.pipeline.token_manifest import read_token_manifest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples/recipes/demo.yaml"
QUIET = Console(quiet=True)
TEXTS = [
    "말모이는 사전이다.",
    "",
    "one <|eos|> text",
    "漢字 과 한글",
    "🎉",
    "\u1106\u1161\u11af",
    "long " * 300,
]


def run(inputs, out, tokenizer, *, engine="local", **settings):
    made = Tokenize(tokenizer=str(tokenizer), **settings)
    inputs = [str(x) for x in (inputs if isinstance(inputs, list) else [inputs])]
    plan = tokenize.plan_tokens(made, inputs, str(out), one_thread=engine == "ray")
    return tokenize.tokenize(plan, console=QUIET, engine=engine)


def rows_of(folder):
    """(input_ids, labels or None) of all shards, checked against the manifest."""
    manifest = read_token_manifest(str(folder))
    manifest.verify(Folder(str(folder)), deep=True)
    tables = [pq.read_table(folder / x.path) for x in manifest.shards]
    for table, shard in zip(tables, manifest.shards, strict=True):
        assert table.num_rows == shard.rows
        for starts in table["doc_starts"].to_pylist():
            assert starts[0] == 0
            assert starts == sorted(set(starts))
            assert starts[-1] < manifest.seq_len
    table = pa.concat_tables(tables)
    ids = np.array(table["input_ids"].to_pylist(), np.int32).reshape(-1, manifest.seq_len)
    labels = np.array(table["labels"].to_pylist(), np.int32) if "labels" in table.column_names else None
    return ids, labels


def files(folder):
    """What has to be the same byte for byte."""
    names = [*folder.glob("*.parquet"), *folder.glob("quarantine/*"), folder / "tokens.json"]
    return {str(name.relative_to(folder)): name.read_bytes() for name in names}


def write(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    lines = "".join(x if isinstance(x, str) else json.dumps(x, ensure_ascii=False) + "\n" for x in rows)
    data = lines.encode()
    path.write_bytes(zstandard.ZstdCompressor().compress(data) if path.suffix == ".zst" else data)
    return path


@pytest.fixture(scope="module")
def reference(tiny_tokenizer):
    made = Tokenizer.from_file(str(tiny_tokenizer / "tokenizer.json"))
    made.encode_special_tokens = True
    return lambda text: made.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def rows(demo, tiny_tokenizer, tmp_path_factory):
    """The demo's corpus in rows of 64 tokens."""
    out = tmp_path_factory.mktemp("rows") / "tokens"
    run(demo.path, out, tiny_tokenizer, seq_len=64)
    return out


def test_a_corpus(demo, rows, reference):
    manifest = read_token_manifest(str(rows))
    ids, labels = rows_of(rows)
    assert (labels, manifest.kind, manifest.packing) == (None, "text", "concat")
    assert manifest.source == demo.manifest.manifest_hash
    assert len(manifest.shards) == len(demo.manifest.corpus) > 1
    done = 0
    for shard, output in zip(demo.manifest.corpus, manifest.shards, strict=True):
        stream = []
        for text in pq.read_table(demo.path / shard.path)["text"].to_pylist():
            stream += [*reference(text), 0]
        assert output.rows == len(stream) // 64
        assert ids[done : done + output.rows].ravel().tolist() == stream[: output.rows * 64]
        done += output.rows
    assert done == len(ids) == manifest.rows
    assert manifest.book.documents == sum(x.rows for x in demo.manifest.corpus)
    assert manifest.book.text_bytes == demo.manifest.text_bytes
    assert manifest.book.padding == 0


def test_the_file(rows):
    file = pq.ParquetFile(rows / "shard-00000.parquet")
    meta = file.metadata
    assert file.schema_arrow.field("input_ids").type == pa.list_(pa.field("item", pa.int32(), False), 64)
    sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    assert set(sizes[:-1]) <= {256}
    assert len(sizes) == -(-meta.num_rows // 256)
    column = meta.row_group(0).column(0)
    assert (column.compression, "BYTE_STREAM_SPLIT" in column.encodings) == ("ZSTD", True)
    assert not column.has_dictionary_page


def test_batches_and_a_stop_change_no_byte(demo, rows, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(examples, "_BATCH_ROWS", 3)
    real, calls = tokenize.tokenize_part, []

    def stops(folder, work):
        calls.append(work.index)
        if len(calls) == 2:
            raise MalmoiError("stopped")
        return real(folder, work)

    monkeypatch.setattr(tokenize, "tokenize_part", stops)
    with pytest.raises(MalmoiError, match="stopped"):
        run(demo.path, tmp_path / "t", tiny_tokenizer, seq_len=64)
    assert not (tmp_path / "t/tokens.json").exists()
    run(demo.path, tmp_path / "t", tiny_tokenizer, seq_len=64)
    assert calls.count(0) == 1, "what was committed is not done again"
    assert files(tmp_path / "t") == files(rows)
    before = len(calls)
    run(demo.path, tmp_path / "t", tiny_tokenizer, seq_len=64)
    assert len(calls) == before, "all done already"


@pytest.mark.ray
def test_on_ray(demo, rows, tiny_tokenizer, tmp_path, ray_here):
    run(demo.path, tmp_path / "t", tiny_tokenizer, seq_len=64, engine="ray")
    assert files(tmp_path / "t") == files(rows)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.zst", "parquet"])
@pytest.mark.parametrize(("tail", "bos"), [("drop", False), ("pad", True)])
def test_text_files(tmp_path, tiny_tokenizer, reference, ending, tail, bos):
    path = tmp_path / f"in/texts.{ending}"
    if ending == "parquet":
        path.parent.mkdir()
        pq.write_table(pa.table({"body": TEXTS}), path)
    else:
        write(path, [{"body": text} for text in TEXTS])
    out = tmp_path / "out"
    manifest = run(path.parent, out, tiny_tokenizer, seq_len=16, tail=tail, bos=bos, columns={"text": "body"})
    stream = [x for text in TEXTS if text for x in [*[1] * bos, *reference(text), 0]]
    ids, labels = rows_of(out)
    full = len(stream) // 16 * 16
    assert manifest.book.dropped.get("empty") == 1
    if tail == "drop":
        assert labels is None
        assert ids.ravel().tolist() == stream[:full]
        assert manifest.book.dropped_tokens == {"tail": len(stream) - full}
    else:
        padding = [2] * (-len(stream) % 16)
        assert ids.ravel().tolist() == stream + padding
        assert labels.ravel().tolist() == stream + [IGNORE] * len(padding)
        assert manifest.book.padding == len(padding)


EXAMPLES = [
    {"q": "말모이?", "context": "사전", "answer": "네 <|eos|>"},
    {"q": "b", "answer": "no " * 30},
    {"q": "c " * 60, "answer": "yes"},
    {"q": "d", "context": None, "answer": ""},
    {"q": "🎉", "context": "", "answer": "party", "more": [1]},
    "broken line\n",
    {"q": "e", "answer": "짧다"},
]


@pytest.mark.parametrize("long", ["drop", "cut"])
@pytest.mark.parametrize("packing", ["best_fit", "none"])
def test_examples(tmp_path, tiny_tokenizer, long, packing):
    write(tmp_path / "in/a.jsonl", EXAMPLES)
    out = tmp_path / "out"
    settings = {"template": "korean", "columns": {"question": "q"}, "long": long, "packing": packing}
    manifest = run(tmp_path / "in", out, tiny_tokenizer, seq_len=48, **settings)
    ids, labels = rows_of(out)
    book = manifest.book
    assert manifest.kind == "sft"
    assert book.documents == 7
    gone = {"too_long": 2} if long == "drop" else {"prompt_too_long": 1}
    assert book.dropped == {**gone, "malformed": 1, "no_answer": 1}
    assert book.cut == (long == "cut")
    assert book.kept == 3 + book.cut
    assert (labels != IGNORE).sum() == book.trained
    assert (ids[labels != IGNORE] == labels[labels != IGNORE]).all()
    assert (ids == 0).sum() == 3, "one eos each, none from the text or from what was cut"
    assert len(ids) == (book.kept if packing == "none" else book.rows)
    bad = pq.read_table(out / "quarantine").to_pylist()
    assert [(x["file"], x["raw"]) for x in bad] == [("a.jsonl", b"broken line")]


def test_windows_and_parts(tmp_path, tiny_tokenizer, monkeypatch):
    """A window is cut where its tokens are full, not where a batch ends; parts are byte ranges."""
    many = [{"question": f"number {i}", "answer": "word " * (i % 7 + 1)} for i in range(200)]
    write(tmp_path / "in/a.jsonl", many)
    monkeypatch.setattr(token_shards, "WINDOW_TOKENS", 500)
    settings = {"template": "korean", "seq_len": 64}
    run(tmp_path / "in", tmp_path / "one", tiny_tokenizer, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(examples, "_BLOCK_BYTES", 300)
        run(tmp_path / "in", tmp_path / "two", tiny_tokenizer, **settings)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    parts = run(tmp_path / "in", tmp_path / "three", tiny_tokenizer, **settings, part_bytes=2000)
    assert len(parts.shards) > 2
    assert parts.book.trained == read_token_manifest(str(tmp_path / "one")).book.trained
    assert parts.book.kept == 200


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_talks(tmp_path, tiny_tokenizer, ending):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    given = [{"talk": talk}, {"talk": talk * 2}, {"talk": None}]
    path = tmp_path / f"in/a.{ending}"
    if ending == "jsonl":
        write(path, given)
    else:
        path.parent.mkdir()
        pq.write_table(pa.Table.from_pylist(given), path)
    settings = {"template": "chatml", "columns": {"messages": "talk"}, "seq_len": 80}
    manifest = run(path, tmp_path / "out", tiny_tokenizer, **settings)
    ids, labels = rows_of(tmp_path / "out")
    assert manifest.book.dropped == {"bad_messages": 1}
    assert manifest.book.rows == 1
    assert (labels == 4).sum() == 3, "<|im_end|> of each answer is learned"
    assert (ids == 3).sum() == 6


def test_own_template(tmp_path, tiny_tokenizer):
    write(tmp_path / "a.jsonl", [{"q": "x", "a": "y"}, {"q": "x", "a": "y", "hint": "z"}])
    prompt = [{"text": "Q: {q}\n"}, {"text": "({hint})", "when": "hint"}, {"text": "A:"}]
    own = [*prompt, {"text": " {a}", "trained": True}]
    run(tmp_path / "a.jsonl", tmp_path / "out", tiny_tokenizer, seq_len=16, template=own, packing="none")
    ids, _ = rows_of(tmp_path / "out")
    shown = Tokenizer.from_file(str(tiny_tokenizer / "tokenizer.json")).decode_batch(ids.tolist())
    assert shown == ["Q: x\nA: y", "Q: x\n(z)A: y"]


def test_in_a_recipe(tmp_path, tiny_tokenizer, run_here):
    write(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])
    sources = [{"name": "s", "path": str(tmp_path / "in.jsonl")}]
    settings = {"tokenizer": str(tiny_tokenizer), "seq_len": 16}
    ran = run_here(tmp_path / "run", {"sources": sources, "tokenize": settings})
    ids, _ = rows_of(tmp_path / "run/tokens")
    assert len(ids) > 2
    assert "tokenize" not in ran.manifest.recipe
    again = run_here(tmp_path / "run", {"sources": sources, "tokenize": settings})
    assert again.manifest == ran.manifest
    without = run_here(tmp_path / "run", {"sources": sources})
    assert without.manifest.manifest_hash == ran.manifest.manifest_hash
    with pytest.raises(ChangedError, match=r"(?s)holds rows of other settings.*settings: was"):
        run_here(tmp_path / "run", {"sources": sources, "tokenize": {**settings, "seq_len": 8}})


def test_the_plan_of_a_recipe_without_it_is_what_it_was(tiny_tokenizer):
    plain = make_plan(load_recipe(DEMO), str(DEMO.parent))
    rows = make_plan(load_recipe(DEMO, [f"tokenize={{tokenizer: {tiny_tokenizer}}}"]), str(DEMO.parent))
    assert plain.key == rows.key
    assert "tokenize" not in plain.identity["recipe"]


WRONG = {
    "tokenizer": ({"tokenizer": "/none"}, "cannot be read"),
    "template": ({"template": "koraen"}, "did you mean 'korean'"),
    "column": ({"columns": {"txt": "x"}}, "no column 'txt'"),
    "no chat template": ({"template": "chat"}, "has no chat template"),
    "nothing trained": ({"template": [{"text": "{q}"}]}, "want a trained segment"),
    "absent column": ({"template": "alpaca"}, "no column 'instruction'"),
    "seq_len 1": ({"seq_len": 1}, "greater than or equal to 2"),
    "packing": ({"packing": "best_fit"}, "packing: best_fit is not for plain text; there: concat"),
    "eos": ({"eos": "<|end|>"}, r"eos '<\|end\|>' is not in its vocabulary"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_recipe_is_told_at_the_plan(tiny_tokenizer, what):
    settings, said = WRONG[what]
    data = {"name": "t", "output": "x", "sources": [{"name": "s", "path": "docs-ko.jsonl"}]}
    data["tokenize"] = {"tokenizer": str(tiny_tokenizer), **settings}

    def plan():
        return make_plan(parse_recipe(data), str(ROOT / "examples/sample"))

    with pytest.raises(RecipeError, match=said):
        plan()


def test_no_row_comes_out(tmp_path, tiny_tokenizer):
    path = write(tmp_path / "a.jsonl", [{"text": "short"}])
    with pytest.raises(MalmoiError, match=r"not one row of 512 tokens from 1 documents .*tail: 1 documents"):
        run(path, tmp_path / "out", tiny_tokenizer, seq_len=512)
    assert run(path, tmp_path / "pad", tiny_tokenizer, seq_len=512, tail="pad").rows == 1


def test_inputs_that_cannot_be(tmp_path, tiny_tokenizer, demo):
    write(tmp_path / "in/a.jsonl", [{"body": "x"}])
    with pytest.raises(SourceError, match="no column 'text'; known: body"):
        run(tmp_path / "in", tmp_path / "out", tiny_tokenizer)
    with pytest.raises(SourceError, match="nothing there"):
        run(tmp_path / "none", tmp_path / "out", tiny_tokenizer)
    shutil.copytree(demo.path, tmp_path / "run")
    (tmp_path / "run/manifest.json").unlink()
    with pytest.raises(MalmoiError, match="not finished"):
        run(tmp_path / "run", tmp_path / "out", tiny_tokenizer)


def test_a_first_file_that_shows_no_columns(tmp_path, tiny_tokenizer):
    """One without records, and one whose first record is longer than what is looked at."""
    write(tmp_path / "in/a.jsonl", [])
    write(tmp_path / "in/b.jsonl.zst", [{"text": "말모이 " * 200_000}])
    write(tmp_path / "in/c.jsonl", [{"text": "사전"}])
    assert run(tmp_path / "in", tmp_path / "out", tiny_tokenizer, seq_len=512).book.documents == 2
    write(tmp_path / "in/c.jsonl", [{"body": "사전"}])
    with pytest.raises(SourceError, match=r"c\.jsonl: no column 'text'; known: body"):
        run(tmp_path / "in", tmp_path / "other", tiny_tokenizer)


def test_what_changed_meanwhile(tmp_path, tiny_tokenizer, demo, rows):
    shutil.copytree(demo.path, tmp_path / "run")
    shard = tmp_path / "run" / demo.manifest.corpus[1].path
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ChangedError, match=f"{shard.name}: not the shard that the run wrote"):
        run(tmp_path / "run", tmp_path / "out", tiny_tokenizer, seq_len=64)
    shutil.copytree(tiny_tokenizer, tmp_path / "other")
    text = (tmp_path / "other/tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "other/tokenizer.json").write_text(text + "\n", encoding="utf-8")
    shutil.copytree(rows, tmp_path / "rows")
    with pytest.raises(ChangedError, match="tokenizer: was"):
        run(demo.path, tmp_path / "rows", tmp_path / "other", seq_len=64)


def test_a_shard_of_rows_that_changed(tmp_path, rows, demo, tiny_tokenizer):
    shutil.copytree(rows, tmp_path / "rows")
    folder = Folder(str(tmp_path / "rows"))
    path = tmp_path / "rows/shard-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    manifest = read_token_manifest(folder.url)
    with pytest.raises(ChangedError, match=r"shard-00001\.parquet: .* bytes, want"):
        manifest.verify(folder)
    path.write_bytes(whole[:-1] + b"x")
    manifest.verify(folder)
    with pytest.raises(ChangedError, match=r"shard-00001\.parquet: content changed"):
        manifest.verify(folder, deep=True)
    path.unlink()
    run(demo.path, tmp_path / "rows", tiny_tokenizer, seq_len=64)
    assert path.read_bytes() == whole, "made again"


def test_the_manifest_of_tokens(tmp_path, rows):
    with pytest.raises(MalmoiError, match="not there, so these are no finished rows"):
        read_token_manifest(str(tmp_path))
    manifest = read_token_manifest(str(rows))
    manifest.check_tokenizer(manifest.tokenizer.sha256, "t")
    with pytest.raises(ChangedError, match="tokenizer other: not the one that made these rows"):
        manifest.check_tokenizer("0" * 64, "other")
    text = (rows / "tokens.json").read_text(encoding="utf-8")
    for content, said in (
        (text.replace('"seq_len": 64', '"seq_len": 65', 1), "changed since it was written"),
        (text.replace('"format_version": 1', '"format_version": 2'), "format 2"),
        ("{}", "not a manifest of tokens"),
        ("no", "not a manifest of tokens"),
    ):
        (tmp_path / "tokens.json").write_text(content, encoding="utf-8")
        with pytest.raises(MalmoiError, match=said):
            read_token_manifest(str(tmp_path))


def test_the_command(tmp_path, cli, demo, tiny_tokenizer, monkeypatch):
    real = tokenize.tokenize

    def here(plan, *, console, engine, run):
        return real(plan, console=console, engine="local", run=run)

    monkeypatch.setattr(tokenize, "tokenize", here)
    out = tmp_path / "rows"
    said = cli("tokenize", demo.path, "--tokenizer", tiny_tokenizer, "--seq-len", 64, "--out", out)
    assert (said.code, said.err) == (0, "")
    assert "tokenizer tiny by fastokens: the ids of" in said.out
    assert "100.0% filled" in said.out
    assert "M tokens/s" in said.out
    assert (
        "all done already"
        in cli("tokenize", demo.path, "--tokenizer", tiny_tokenizer, "--seq-len", 64, "--out", out).out
    )
    write(tmp_path / "in/a.jsonl", EXAMPLES)
    examples_of = ["tokenize", tmp_path / "in", "--tokenizer", tiny_tokenizer, "--template", "korean"]
    said = cli(
        *examples_of, "--column", "question=q", "--seq-len", 48, "--long", "cut", "--out", tmp_path / "sft"
    )
    assert (said.code, said.err) == (0, "")
    assert "1 cut" in said.out
    assert "give the folder of the rows with --out" in cli(*examples_of).err
    assert "want NAME=COLUMN" in cli(*examples_of, "--column", "q", "--out", tmp_path / "x").err
    assert "cannot be read" in cli("tokenize", demo.path, "--tokenizer", tmp_path / "none").err
