"""What a run decides of documents, slowly and from docs/recipe.md and docs/deduplication.md alone: every pair is
compared, there are no signatures, no bands and no hashes of text; amounts are fractions."""

from __future__ import annotations

import math
import struct
import unicodedata
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import regex
import xxhash

ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]"
WORD = regex.compile(
    rf"{ALONE}\p{{M}}*|(?:(?!{ALONE})[\p{{L}}\p{{N}}_])(?:(?!{ALONE})[\p{{L}}\p{{N}}_\u200c]|\p{{M}})*"
)
CHOICE = 0x6D69787475726521


class Document(NamedTuple):
    source: str
    id: str
    text: str
    quality: float
    priority: int

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.id


class Removed(NamedTuple):
    survivor: tuple[str, str]
    similarity: float
    exact: bool


def normalise(text: str) -> str:
    text = regex.sub("\r\n|[\r\v\f\x85\u2028\u2029]", "\n", text)
    kept = [c for c in text if c in "\n\t" or (unicodedata.category(c) != "Cc" and c != "\ufeff")]
    return unicodedata.normalize("NFC", "".join(kept))


def collapse(text: str) -> str:
    return regex.sub(r"\p{White_Space}+", " ", text).strip(" ")


def shingles(text: str, ngram: str, size: int) -> set[tuple[str, ...]]:
    units = WORD.findall(text.lower()) if ngram == "word" else list(collapse(text.lower()))
    return {tuple(units[i : i + size]) for i in range(max(len(units) - size + 1, min(len(units), 1)))}


def id_hash(document: Document | tuple[str, str]) -> tuple[int, int]:
    """(lo, hi)"""
    name = "\0".join(document[:2]).encode()
    return xxhash.xxh64_intdigest(name, 0), xxhash.xxh64_intdigest(name, 1)


def best_first(documents: Iterable[Document], prefer: Iterable[str]) -> list[Document]:
    columns: dict[str, Callable[[Document], float]] = {
        "quality": lambda d: -d.quality if d.quality == d.quality else math.inf,
        "length": lambda d: -len(d.text),
        "priority": lambda d: -d.priority,
    }
    return sorted(documents, key=lambda d: (*(columns[x](d) for x in prefer), d.source, *id_hash(d)[::-1]))


def deduplicate(
    order: list[Document], ngram: str, size: int, measure: str, threshold: float, old: int = 0
) -> dict[tuple[str, str], Removed]:
    """Documents from the best to the worst; the first `old` of them stay, whatever they are like."""
    first: dict[str, Document] = {}
    copies, removed = {}, {}
    survivors: list[tuple[Document, set[tuple[str, ...]]]] = []
    for place, document in enumerate(order):
        known = first.setdefault(collapse(document.text), document)
        if known is not document and place >= old:
            copies[document.key] = known.key
            continue
        mine, found = shingles(document.text, ngram, size), None
        for better, other in survivors if place >= old else ():
            both = len(mine & other)
            whole = len(mine | other) if measure == "jaccard" else min(len(mine), len(other))
            if whole and both / whole >= threshold:
                found = Removed(better.key, both / whole, False)
                break
        if found:
            removed[document.key] = found
        else:
            survivors.append((document, mine))
    return removed | {key: removed.get(known, Removed(known, 1.0, True)) for key, known in copies.items()}


def exact(number: float) -> Fraction:
    return Fraction(str(number))


def targets(sizes: dict[str, int], method: str, options: dict[str, Any]) -> dict[str, int]:
    """How much of each group is wanted, in whole units."""
    epochs, budget = exact(options.get("max_epochs", 1.0)), options.get("budget")
    most = {name: size * epochs for name, size in sizes.items()}
    if method == "as_is":
        weights = {name: Fraction(size) for name, size in sizes.items()}
    elif method == "given":
        weights = {name: exact(options["weights"][name]) for name in sizes}
    elif method == "temperature":
        weights = {name: Fraction(size ** (1 / options["temperature"])) for name, size in sizes.items()}
    else:
        left, weights = Fraction(sum(sizes.values()) if budget is None else budget), {}
        for done, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
            weights[name] = min(left / (len(sizes) - done), Fraction(math.floor(most[name])))
            left -= weights[name]
    share = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    if budget is None and method == "as_is":
        return dict(sizes)
    if budget is None and method != "unimax":
        total = min(most[name] / share[name] for name in sizes if share[name])
        return {name: math.floor(share[name] * total) for name in sizes}
    total = Fraction(sum(sizes.values()) if budget is None else budget)
    wanted = {name: math.floor(share[name] * total) for name in sizes}
    by_remainder = sorted(sizes, key=lambda name: (wanted[name] - share[name] * total, name))
    for name in by_remainder[: int(total) - sum(wanted.values())]:
        wanted[name] += 1
    return {name: min(wanted[name], math.floor(most[name])) for name in sizes}


def order_key(key: tuple[str, str], epoch: int, seed: int) -> int:
    return xxhash.xxh64_intdigest(struct.pack("<4Q", *id_hash(key), epoch, seed))


def epochs(
    documents: list[Document], group: Callable[[Document], str], seed: int, options: dict[str, Any]
) -> dict[tuple[str, str], int]:
    """How often each document stands in the corpus."""
    size = {d.key: len(d.text.encode()) if options.get("unit", "bytes") == "bytes" else 1 for d in documents}
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(group(document), []).append(document)
    totals = {name: sum(size[d.key] for d in groups[name]) for name in sorted(groups)}
    wanted = targets(totals, options["method"], options)
    found = {}
    for name, members in groups.items():
        whole, rest = divmod(wanted[name], totals[name])
        members.sort(key=lambda d: order_key(d.key, 0, (seed + CHOICE) % 2**64))
        if options.get("choose") == "quality":
            members.sort(key=lambda d: -d.quality if d.quality == d.quality else math.inf)
        used = 0
        for document in members:
            used += size[document.key]
            found[document.key] = whole + (0 < rest >= used)
    return found
