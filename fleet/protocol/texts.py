"""Text as numbers that a drift sketch can read: shares of hashed trigrams, and the length.

Trigrams of bytes tell languages, alphabets, formats and vocabularies apart without a word list; hashing them bounds the
work and the size (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009). Hub and devices
must compute these alike: another way to compute them is another `NUMBERS`, so that no sketch of both is ever merged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

TEXT = "OSU"  # kinds of numpy's arrays that hold text: a row of one text alone becomes a string of numpy's own
BUCKETS = 256
NUMBERS = BUCKETS + 1  # the last one is of the length
ROW_BYTES = 4096  # of an example's text that are hashed; its length counts whole
_MIX = np.uint32(2654435761)  # Knuth's multiplicative hash: the top byte depends on all three
_BITS_OF_LENGTH = 16.0  # so that a length varies about as much as a share's root


def text_numbers(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Compute the numbers that a sketch reads of texts.

    Args:
        rows: (n, …) texts, bytes or str; one example may hold several.

    Returns:
        (n, NUMBERS): the square root of each bucket's share of the example's trigrams, which makes Euclidean distance
        Hellinger's, and the logarithm of its length in bytes. An example without a text is all zeros. Zero bytes at a
        text's end are padding and do not count: numpy's own strings never have them.
    """
    found = np.zeros((len(rows), NUMBERS), np.float32)
    for place, row in enumerate(rows):
        items = [_bytes(item) for item in np.asarray(row, object).ravel().tolist()]
        size = sum(map(len, items))
        if not size:
            continue
        begins = (item[:ROW_BYTES] for item in items)
        # Ends count as zero bytes, so that a text of one letter has trigrams, and items keep apart.
        text = np.frombuffer(b"\0" + b"\0".join(begins)[:ROW_BYTES] + b"\0\0", np.uint8).astype(np.uint32)
        trigrams = (text[:-2] << 16) | (text[1:-1] << 8) | text[2:]
        counts = np.bincount((trigrams * _MIX) >> 24, minlength=BUCKETS)
        found[place, :BUCKETS] = np.sqrt(counts / len(trigrams))
        found[place, BUCKETS] = math.log2(1 + size) / _BITS_OF_LENGTH
    return found


def _bytes(item: object) -> bytes:
    text = item if isinstance(item, bytes) else str(item).encode(errors="surrogatepass")
    return text.rstrip(b"\0")
