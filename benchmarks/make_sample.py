# ruff: noqa: E501  (tables of words)
"""Makes `examples/sample/` from `*.jsonl.zst` with the fields id, source, url, text, lang_hint, license.

    python benchmarks/make_sample.py FOLDER_OR_FILE... [--out examples/sample]

Only sources in `LICENCES` are taken: their text itself is CC0, public domain, CC-BY or Apache-2.0. A document
with something like an e-mail address, a telephone number or an author's name in its front matter is left out.
The choice depends on nothing but the hash of each document's id, so the same folder gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
import zstandard

Doc = dict[str, Any]

# source as named in the folder: (licence of the text, what it is, whose it is and where)
LICENCES = {
    "tf-docs": (
        "CC-BY-4.0 OR Apache-2.0",
        "TensorFlow documentation, prose CC-BY-4.0, code Apache-2.0",
        "The TensorFlow Authors, www.tensorflow.org",
    ),
    "dotnet-docs-ko": (
        "CC-BY-4.0",
        ".NET documentation in Korean",
        "Microsoft and contributors, github.com/dotnet/docs.ko-kr",
    ),
    "sql-docs-ko": (
        "CC-BY-4.0",
        "SQL Server documentation in Korean",
        "Microsoft and contributors, github.com/MicrosoftDocs/sql-docs.ko-kr",
    ),
    "gesetze-de": (
        "Unlicense",
        "German federal laws and ordinances (official works, public domain)",
        "github.com/bundestag/gesetze",
    ),
    "nsmc-review": ("CC0-1.0", "Naver sentiment movie corpus, single reviews", "github.com/e9t/nsmc"),
    "boddari-wikinews": ("CC-BY-2.5", "Korean Wikinews", "Wikinews contributors, ko.wikinews.org"),
    "boddari-book_review01": (
        "CC-BY",
        "book reviews of the National Assembly Library of Korea (no version of CC-BY stated)",
        "www.nanet.go.kr",
    ),
    "bible": (
        "CC0-1.0",
        "chapters of the multilingual Bible parallel corpus; only translations of 1903 and before",
        "github.com/christos-c/bible-corpus",
    ),
}
BIBLES = {"Ukranian-NT": "uk", "Basque-NT": "eu", "Cherokee-NT": "chr"}
PERSONAL = re.compile(
    r"[\w.+-]+@[\w-]+\.\w|(?<![\d.])(?:\+\d{1,3}[ .-]?|\(?0)\d{1,3}\)?[ .-]\d{3,4}[ .-]\d{3,4}(?!\d)"
    r"|^(?:ms\.)?(?:author|reviewer|manager): *(?!\"?(?:dotnet-bot|dotnetcontent|wpickett)?\"?\s*$)",
    re.MULTILINE,
)
DELICATE = re.compile("용의자|피의자|성폭|성추행|살해|살인|자살|구속")


def rank(doc: Doc) -> int:
    return xxhash.xxh64_intdigest(doc["id"].encode(), 7)


def size(doc: Doc) -> int:
    return len(doc["text"].encode())


def read(paths: list[Path]) -> Iterator[Doc]:
    """Documents of the allowed sources, each id once; an old revision (`rank` above 0) is under its source's licence."""
    seen: set[str] = set()
    files = chain(*([x] if x.is_file() else x.rglob("*.jsonl.zst") for x in paths))
    for path in sorted(files, key=lambda x: x.name):
        with path.open("rb") as raw:
            for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), "utf-8"):
                given = json.loads(line)
                revision = given.get("source") == "old-revision"
                origin = given["license"].removeprefix("as ") if revision else given.get("source")
                if origin not in LICENCES or given["id"] in seen or PERSONAL.search(given["text"]):
                    continue
                seen.add(given["id"])
                hint = (given.get("lang_hint") or given["lang"]).removeprefix("name:")
                old = revision or given.get("rank", 0) > 0
                yield {
                    "id": given["id"], "text": given["text"], "url": given.get("url"), "lang_hint": BIBLES.get(hint, hint),
                    "license": LICENCES[origin][0], "origin": origin, "old": old,
                }  # fmt: skip


def pick(docs: Iterable[Doc], count: int, low: int = 0, high: int = 20_000) -> list[Doc]:
    return sorted((x for x in docs if low <= size(x) <= high), key=rank)[:count]


def word_grams(text: str, n: int = 5) -> set[int]:
    words = text.lower().split()
    return {xxhash.xxh64_intdigest(" ".join(words[i : i + n]).encode()) for i in range(len(words) - n + 1)}


def similar_pairs(docs: list[Doc], low: float) -> list[tuple[float, int, int]]:
    """All (Jaccard of word 5-grams, i, j) with i < j and at least `low`."""
    grams = [word_grams(x["text"]) for x in docs]
    holders: dict[int, list[int]] = defaultdict(list)
    shared: Counter[tuple[int, int]] = Counter()
    for j, of_j in enumerate(grams):
        shared.update((i, j) for gram in of_j for i in holders[gram])
        for gram in of_j:
            holders[gram].append(j)
    found = ((n / len(grams[i] | grams[j]), i, j) for (i, j), n in shared.items())
    return sorted((x for x in found if x[0] >= low), key=lambda x: (-x[0], x[1], x[2]))


def revisions(docs: list[Doc], near: int, middling: int, alone: int) -> tuple[list[Doc], list[Doc]]:
    """Current documents and old revisions: `near` pairs at 0.8 and above, `middling` in 0.4..0.8, and some alone.

    One document of a pair at least is an old revision; both may be.
    """
    docs = sorted(docs, key=rank)
    wanted = {"near": near, "middling": middling}
    chosen: dict[str, Doc] = {}
    for similarity, i, j in sorted(similar_pairs(docs, 0.4), key=lambda x: rank(docs[x[1]])):
        kind = "near" if similarity >= 0.8 else "middling"
        a, b = docs[i], docs[j]
        revised = a["old"] or b["old"]
        if wanted[kind] and revised and similarity < 1.0 and not {a["id"], b["id"]} & chosen.keys():
            wanted[kind] -= 1
            chosen |= {a["id"]: a, b["id"]: b}
    rest = [x for x in docs if x["id"] not in chosen and not x["old"]]
    everything = sorted([*chosen.values(), *rest[:alone]], key=rank)
    return [x for x in everything if not x["old"]], [x for x in everything if x["old"]]


def repeated_share(doc: Doc) -> float:
    lines = [x for x in doc["text"].split("\n") if x.strip()]
    return 1 - len(set(lines)) / max(1, len(lines))


def choose(docs: list[Doc]) -> dict[str, list[Doc]]:
    """File name to documents."""
    by = defaultdict(list)
    for doc in docs:
        by[doc["origin"], doc["lang_hint"]].append(doc)
    tf = {lang: found for (origin, lang), found in by.items() if origin == "tf-docs"}
    english = pick(tf["en"], 400, high=18_000)
    multi = [pick(tf["ja"], 45, 1000), pick(tf["zh"], 45, 300, 16_000), pick(tf["ko"], 25, 1000, 16_000)]
    multi += [pick(tf["es"], 9, high=60_000), pick(tf["pt"], 30, high=40_000)]
    microsoft = [x for x in by["dotnet-docs-ko", "ko"] + by["sql-docs-ko", "ko"] if size(x) <= 6000]
    korean, korean_old = revisions(microsoft, near=30, middling=16, alone=20)
    dull = sorted((x for x in microsoft if size(x) >= 1500 and not x["old"]), key=repeated_share)[-15:]
    held = {x["id"] for x in korean}
    korean += [x for x in dull if x["id"] not in held]
    laws, laws_old = revisions([x for x in by["gesetze-de", "de"] if 700 <= size(x) <= 9000], 30, 12, 60)
    laws += pick(by["gesetze-de", "de"], 25, high=650)
    news = pick((x for x in by["boddari-wikinews", "ko"] if not DELICATE.search(x["text"])), 130, 400, 6000)
    bible = [pick(by["bible", lang], 20, high=9000) for lang in BIBLES.values()]
    mirror = [x | {"id": f"mirror-{x['id']}"} for x in pick(english, 12, 2500)]
    return {
        "docs-en.jsonl.zst": english,
        "docs-multi.jsonl.gz": list(chain(*multi)),
        "docs-ko.jsonl": korean,
        "docs-ko-old.jsonl.zst": korean_old,
        "laws-de.parquet": laws,
        "laws-de-old.parquet": [x for x in laws_old],
        "news-ko.jsonl.gz": news,
        "books-ko.jsonl.zst": pick(by["boddari-book_review01", "ko"], 30),
        "reviews-ko.jsonl.zst": pick(by["nsmc-review", "ko"], 900),
        "bible.jsonl.zst": list(chain(*bible)),
        "mirror.jsonl.gz": mirror,
    }


def record(doc: Doc) -> Doc:
    return {k: doc[k] for k in ("id", "text", "url", "lang_hint", "license", "origin")}


def lines(docs: Iterable[Doc]) -> bytes:
    return b"".join(json.dumps(record(x), ensure_ascii=False).encode() + b"\n" for x in docs)


def save(path: Path, docs: list[Doc]) -> None:
    if path.suffix == ".parquet":
        fields = [(k, pa.large_string()) for k in record(docs[0])]
        table = pa.Table.from_pylist([record(x) for x in docs], pa.schema(fields))
        pq.write_table(table, path, row_group_size=48, compression="zstd", compression_level=19)
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.ZstdCompressor(level=19).compress(lines(docs)))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines(docs), 9, mtime=0))
    else:
        path.write_bytes(lines(docs))


def broken(docs: list[Doc]) -> bytes:
    """Two good records among ten that a reader must set aside."""
    good = [json.dumps(record(x), ensure_ascii=False).encode() for x in docs]
    bad = [
        good[2][: len(good[2]) // 2],
        b'{"id": "broken-utf8", "text": "caf\xe9 au lait, written as Latin-1"}',
        b'{"id": "broken-no-text", "title": "a record without a text"}',
        b'{"id": "broken-null", "text": null}',
        b'{"id": "broken-number", "text": 42}',
        b'["a", "list", "is", "not", "a", "record"]',
        b'"a bare string"',
        b'{"id": "broken-two"} {"text": "two objects on one line"}',
        b"{'id': 'broken-quotes', 'text': 'single quotes are not JSON'}",
        b"not JSON at all",
    ]
    return b"\n".join([good[0], *bad[:5], good[1], *bad[5:]]) + b"\n"


def readme(files: dict[str, list[Doc]], folder: Path) -> str:
    """The sample's README: what each file holds, whose text it is, and what is in it to be found."""
    everything = list(chain(*files.values()))
    pairs = similar_pairs(everything, 0.4)
    same = Counter(x["text"] for x in everything)
    languages = Counter(x["lang_hint"] for x in everything)
    rows = []
    for name, docs in files.items():
        origins = ", ".join(f"{k} {v}" for k, v in sorted(Counter(x["origin"] for x in docs).items()))
        rows.append(f"| `{name}` | {len(docs)} | {sum(map(size, docs)):,} | {origins} |")
    used = sorted({x["origin"] for x in everything})
    origin_rows = [f"| {k} | {LICENCES[k][1]} | {LICENCES[k][2]} | {LICENCES[k][0]} |" for k in used]
    stored = sum(x.stat().st_size for x in folder.iterdir() if x.suffix != ".md")
    near = sum(0.8 <= x[0] < 1 for x in pairs)
    return f"""# The sample

Real text in {len(languages)} languages, for `make demo` and for tests: {len(everything):,} documents,
{sum(map(size, everything)):,} bytes of text, {stored:,} bytes as stored. Made by `benchmarks/make_sample.py`; each record
carries its own `license`, `origin` and, where there is one, `url`. Documents holding something like an e-mail address or
a telephone number, or naming a person as author in their front matter, were left out.

| file | documents | bytes of text | origins |
|---|--:|--:|---|
{chr(10).join(rows)}
| `broken.jsonl` | 2 | - | nsmc-review; ten further lines are deliberately malformed, see below |

| origin | what | whose, where | licence of the text |
|---|---|---|---|
{chr(10).join(origin_rows)}

Documents by language (as declared by the origin): {", ".join(f"{k} {v}" for k, v in languages.most_common())}.

What there is to be found, counted by the script over all files but `broken.jsonl`:

- Near-duplicates: `docs-ko-old` and `laws-de-old` are real older revisions of documents in `docs-ko` and `laws-de`.
  {near} pairs of documents have a Jaccard similarity of word 5-grams (lower case, split at white space) of at least 0.8
  and below 1, {sum(x[0] < 0.8 for x in pairs)} pairs lie in 0.4 to 0.8.
- Exact duplicates: {sum(v - 1 for v in same.values() if v > 1)} documents repeat the text of another one. {len(files["mirror.jsonl.gz"])} of them are `mirror`, documents of
  `docs-en` repeated on purpose under another id; the others are short reviews and laws that occur more than once by nature.
- Junk: {sum(len(x["text"]) < 50 for x in everything)} documents of fewer than 50 characters (reviews), laws of which only the title is left,
  {sum(repeated_share(x) > 0.3 and size(x) > 500 for x in everything)} documents (over 500 bytes) in which more than 0.3 of the lines that are not blank repeat another, and pages of the
  documentation that are mostly code or tables.
- `broken.jsonl`: a truncated record, a byte that is not UTF-8, a record without `text`, `text` null, `text` a number, a list, a bare
  string, two objects on one line, single quotes, and no JSON at all. They belong into quarantine, each with its reason.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("examples/sample"))
    args = parser.parse_args()
    docs = list(read(args.paths))
    if not docs:
        sys.exit(f"{args.paths}: no document of an allowed source in *.jsonl.zst")
    files = choose(docs)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, chosen in files.items():
        save(args.out / name, chosen)
    spare = [x for x in docs if x["origin"] == "nsmc-review"]
    (args.out / "broken.jsonl").write_bytes(broken(sorted(spare, key=rank)[900:903]))
    (args.out / "README.md").write_text(readme(files, args.out), encoding="utf-8")


if __name__ == "__main__":
    main()
