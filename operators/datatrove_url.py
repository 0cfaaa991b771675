"""spaCy's test whether a chunk of text is a URL (its `URL_PATTERN`), on code points instead of a
backtracking regex.

The pattern: an optional scheme `[\\w+-.]{2,}://`, optional `user:password@`, then an IPv4 address (private
ranges excluded) or host labels and a lower-case top-level domain, an optional port, an optional path.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .datatrove_tables import DIGIT, HOST, LOWER, WORD
from .kernel import lean

MAX_LABEL_CHARS = 64
MAX_DOMAIN_CHARS = 63


@lean
def _ends(cp: np.ndarray, cls: np.ndarray, p: int, b: int) -> bool:
    """Only an optional port and an optional path lie in [p, b)."""
    if p < b and cp[p] == 58:
        q = p + 1
        while q < b and cls[q] & DIGIT:
            q += 1
        if 2 <= q - p - 1 <= 5:
            p = q
    return p == b or cp[p] == 47 or cp[p] == 63 or cp[p] == 35


@lean
def _is_domain(cp: np.ndarray, cls: np.ndarray, p: int, b: int) -> bool:
    labels = 0
    while p < b:
        q = p
        while q < b and (cls[q] & HOST or cp[q] == 95 or cp[q] == 45):
            q += 1
        is_label = q < b and cp[q] == 46 and 0 < q - p <= MAX_LABEL_CHARS
        if is_label and cls[p] & HOST and cls[q - 1] & HOST:
            labels += 1
            p = q + 1
            continue
        if labels == 0:
            return False
        q = p
        while q < b and cls[q] & LOWER:
            q += 1
        return 2 <= q - p <= MAX_DOMAIN_CHARS and _ends(cp, cls, q, b)
    return False


@lean
def _is_public(a: int, b: int, c: int, d: int) -> bool:
    """Whether a.b.c.d is an address that a page can have."""
    if a < 1 or a > 223 or b > 255 or c > 255 or d < 1 or d > 254:
        return False
    if a == 10 or a == 127 or (a == 169 and b == 254) or (a == 192 and b == 168):
        return False
    return not (a == 172 and 16 <= b <= 31)


@lean
def _is_address(cp: np.ndarray, cls: np.ndarray, p: int, b: int) -> bool:
    octets = np.uint64(0)  # ten bits each, the last one lowest
    for place in range(4):
        q, octet = p, np.uint64(0)
        while q < b and q - p < 3 and 48 <= cp[q] <= 57:
            octet = np.uint64(octet * np.uint64(10) + np.uint64(cp[q]) - np.uint64(48))
            q += 1
        if q == p:
            return False
        octets = np.uint64((octets << np.uint64(10)) | octet)
        if place < 3:
            if q >= b or cp[q] != 46:
                return False
            p = q + 1
        else:
            break
    parts: Any = np.int64(octets)
    if not _is_public(parts >> 30, parts >> 20 & 1023, parts >> 10 & 1023, parts & 1023):
        return False
    return _ends(cp, cls, q, b)


@lean
def _is_host(cp: np.ndarray, cls: np.ndarray, p: int, b: int) -> bool:
    """A host with port and path at `p`, after any `user@` in front of it."""
    if _is_domain(cp, cls, p, b) or _is_address(cp, cls, p, b):
        return True
    for at in range(p + 1, b - 1):
        if cp[at] == 64 and (_is_domain(cp, cls, at + 1, b) or _is_address(cp, cls, at + 1, b)):
            return True
    return False


@lean
def is_url(cp: np.ndarray, cls: np.ndarray, a: int, b: int) -> bool:
    """Characters [a, b), which hold no white space, are a URL."""
    dotted = False
    for i in range(a + 1, b - 1):
        dotted |= cp[i] == 46
    if not dotted:
        return False
    if _is_host(cp, cls, a, b):
        return True
    q = a
    while q < b and (cls[q] & WORD or cp[q] == 43 or cp[q] == 45 or cp[q] == 46):
        q += 1
    if q - a >= 2 and q + 2 < b and cp[q] == 58 and cp[q + 1] == 47 and cp[q + 2] == 47:
        return _is_host(cp, cls, q + 3, b)
    return False
