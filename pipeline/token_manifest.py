"""What the stage `tokenize` made: `tokens.json`, the last file that it writes; training reads rows through it.

A folder without one holds no finished rows. Like a run's manifest it names no hosts, seconds or batch sizes,
so the same text and tokenizer give the same `tokens_hash`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from .errors import ChangedError, MalmoiError
from .manifest import Output, wrong_files
from .storage import Folder

FILE = "tokens.json"
FORMAT = 1
GROUP_ROWS = 256

Kind = Literal["text", "sft"]


@dataclass(frozen=True)
class TokenizerId:
    """The tokenizer that made the ids. `sha256`: of its tokenizer.json, hex; `name`: of its file or folder.

    `vocab_size`: one more than the largest id; `bos_id`, `pad_id`: None where the tokenizer has none.
    """

    name: str
    sha256: str
    vocab_size: int
    eos_id: int
    bos_id: int | None = None
    pad_id: int | None = None


@dataclass(frozen=True)
class TokenBook:
    """Documents and tokens from the text to the rows; all are counts.

    documents = kept + sum(dropped). tokens (of the text, or of prompt and answer) + special (bos and eos that
    were added) = in_rows + sum(dropped_tokens); rows * seq_len = in_rows + padding. `trained`: tokens with a
    label; `cut`: documents that lost their end. `text_bytes`: UTF-8 bytes of the text of all documents.
    """

    documents: int
    kept: int
    dropped: dict[str, int]
    tokens: int
    special: int
    in_rows: int
    dropped_tokens: dict[str, int]
    rows: int
    padding: int
    trained: int
    text_bytes: int
    cut: int = 0

    def check(self, seq_len: int) -> None:
        """MalmoiError with both numbers where it does not balance."""
        lost, lost_tokens = sum(self.dropped.values()), sum(self.dropped_tokens.values())
        for what, have, want in (
            ("documents", self.documents, self.kept + lost),
            ("tokens", self.tokens + self.special, self.in_rows + lost_tokens),
            ("places in rows", self.rows * seq_len, self.in_rows + self.padding),
        ):
            if have != want:
                raise MalmoiError(
                    f"tokenize: the books do not balance: {have:,} {what}, want {want:,}; please report this"
                )


@dataclass(frozen=True)
class TokenManifest:
    """See the module. `source`: the manifest_hash of the run, or a hash of the examples' files; `settings`:
    of the stage, with everything that decides the rows; `shards`: `tokens` are tokens in rows without padding.
    """

    kind: Kind
    seq_len: int
    packing: str
    tokenizer: TokenizerId
    encoder: str
    source: str
    settings: dict[str, Any]
    versions: dict[str, str]
    book: TokenBook
    shards: tuple[Output, ...]
    format_version: int = FORMAT

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def tokens(self) -> int:
        return sum(shard.tokens or 0 for shard in self.shards)

    @property
    def tokens_hash(self) -> str:
        """Hex; the same for the same text, settings and tokenizer wherever they lie."""
        return _hash(json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False)))

    def check(self) -> None:
        """MalmoiError where the books do not balance or the shards hold other rows than they say."""
        self.book.check(self.seq_len)
        for what, have, want in (
            ("rows", self.rows, self.book.rows),
            ("tokens", self.tokens, self.book.in_rows),
        ):
            if have != want:
                raise MalmoiError(f"tokenize: the shards hold {have:,} {what}, the books {want:,}")

    def check_tokenizer(self, sha256: str, name: str) -> None:
        """ChangedError if `sha256` is not that of the tokenizer which made the rows."""
        if sha256 != self.tokenizer.sha256:
            raise ChangedError(
                f"tokenizer {name}: not the one that made these rows (sha256 {sha256[:16]}, want "
                f"{self.tokenizer.sha256[:16]}, {self.tokenizer.name}); use that one, or tokenize again"
            )

    def save(self, folder: Folder) -> None:
        """Check and write `tokens.json`, whole or not at all."""
        self.check()
        content = {"tokens_hash": self.tokens_hash, **dataclasses.asdict(self)}
        folder.write_bytes(FILE, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    def verify(self, folder: Folder, *, deep: bool = False) -> None:
        """ChangedError naming every shard that is missing or has another size; `deep` compares content too."""
        wrong = wrong_files(folder, self.shards, deep=deep)
        if wrong:
            raise ChangedError(f"{wrong}\ntokenize again, or bring the files back")


def read_token_manifest(url: str, options: Mapping[str, Any] | None = None) -> TokenManifest:
    """Of a folder that `malmoi tokenize` wrote. MalmoiError: none, another format; ChangedError: edited."""
    folder = Folder(url, dict(options or {}))
    place = folder.join(FILE)
    try:
        content = json.loads(folder.read_bytes(FILE))
        found, version = content.pop("tokens_hash"), content["format_version"]
    except FileNotFoundError as error:
        raise MalmoiError(
            f"{place}: not there, so these are no finished rows; run malmoi tokenize"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalmoiError(f"{place}: not a manifest of tokens ({error!r})") from error
    if version != FORMAT:
        raise MalmoiError(f"{place}: format {version}; this malmoi reads format {FORMAT}")
    if _hash(content) != found:
        raise ChangedError(f"{place}: changed since it was written (its hash is not {found})")
    try:
        return TypeAdapter(TokenManifest).validate_python(content)
    except ValidationError as error:
        raise MalmoiError(f"{place}: not a manifest of tokens: {error}") from error


def _hash(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
