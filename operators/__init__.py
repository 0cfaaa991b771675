"""Pure operators on Arrow tables of documents. Nothing here imports Ray or torch.

`OPERATORS` is the whole catalogue: the names that a recipe uses and their classes. An operator of your own is
named by its path, `package.module:Class`, and needs no entry here.
"""

from __future__ import annotations

from .c4 import C4Lines, C4Quality
from .contract import Limit, Operator, judge, mark, with_columns
from .exact import ExactHash
from .fineweb import FineWebQuality
from .gopher_quality import GopherQuality
from .gopher_repetition import GopherRepetition
from .language import LanguageId
from .minhash import MinHash
from .normalise import Normalise
from .token_count import TokenCount

OPERATORS: dict[str, type] = {
    "normalise": Normalise,
    "language_id": LanguageId,
    "gopher_quality": GopherQuality,
    "gopher_repetition": GopherRepetition,
    "c4_quality": C4Quality,
    "c4_lines": C4Lines,
    "fineweb_quality": FineWebQuality,
    "token_count": TokenCount,
    "exact_hash": ExactHash,
    "minhash": MinHash,
}

__all__ = [
    "OPERATORS",
    "C4Lines",
    "C4Quality",
    "ExactHash",
    "FineWebQuality",
    "GopherQuality",
    "GopherRepetition",
    "LanguageId",
    "Limit",
    "MinHash",
    "Normalise",
    "Operator",
    "TokenCount",
    "judge",
    "mark",
    "with_columns",
]
