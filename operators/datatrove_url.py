"""spaCy's test whether a chunk of text is a URL (its `URL_PATTERN`), on code points instead of a
backtracking regex.

The pattern: an optional scheme `[\\w+-.]{2,}://`, optional `user:password@`, then an IPv4 address (private
ranges excluded) or host labels and a lower-case top-level domain, an optional port, an optional path.
"""

from __future__ import annotations

import numpy as np

from .datatrove_tables import DIGIT, HOST, LOWER, WORD
from .kernel import kernel

MAX_LABEL_CHARS = 64
MAX_DOMAIN_CHARS = 63


@kernel
def _ends(cp: np.ndarray, cls: np.ndarray, p: int, b: int) -> bool:
    """Only an optional port and an optional path lie in [p, b)."""
    if p < b and cp[p] == 58:
        q = p + 1
        while q < b and cls[q] & DIGIT:
            q += 1
        if 2 <= q - p - 1 <= 5:
            p = q
    return p == b or cp[p] == 47 or cp[p] == 63 or cp[p] == 35


@kernel
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


@kernel
def _is_private(octets: np.ndarray) -> bool:
    if octets[0] == 10 or octets[0] == 127:
        return True
    if (octets[0] == 169 and octets[1] == 254) or (octets[0] == 192 and octets[1] == 168):
        return True
    return bool(octets[0] == 172 and 16 <= octets[1] <= 31)


@kernel
def _is_address(cp: np.ndarray, cls: np.ndarray, p: int, b: int) -> bool:
    octets = np.zeros(4, np.int64)
    for place in range(4):
        q = p
        while q < b and q - p < 3 and 48 <= cp[q] <= 57:
            octets[place] = octets[place] * 10 + np.int64(cp[q]) - 48
            q += 1
        if q == p:
            return False
        if place < 3:
            if q >= b or cp[q] != 46:
                return False
            p = q + 1
        else:
            break
    if octets[0] < 1 or octets[0] > 223 or octets[1] > 255 or octets[2] > 255:
        return False
    if octets[3] < 1 or octets[3] > 254 or _is_private(octets):
        return False
    return _ends(cp, cls, q, b)


@kernel
def _is_host(cp: np.ndarray, cls: np.ndarray, p: int, b: int) -> bool:
    """A host with port and path at `p`, after any `user@` in front of it."""
    if _is_domain(cp, cls, p, b) or _is_address(cp, cls, p, b):
        return True
    for at in range(p + 1, b - 1):
        if cp[at] == 64 and (_is_domain(cp, cls, at + 1, b) or _is_address(cp, cls, at + 1, b)):
            return True
    return False


@kernel
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
