"""Hash of text to numbers, the same in every process, on every machine and in every release."""

import numpy as np
import polars as pl

from keras_dlrm.data.kernels.compiled import compiled

#: The key of the published test vectors: bytes 0, 1, … 15. Ids of saved models depend on it.
KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
#: Ids of an open vocabulary's texts are below it.
LONGEST = 2**63 - 1
_CHUNK = 1 << 16  # texts at a time: joined, all of a column could be more than Polars takes
_INITIAL = np.array([0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573], np.uint64)


def buckets(texts: pl.Series, count: int) -> np.ndarray:
    """Texts → numbers in [0, count): SipHash-2-4 of their UTF-8 bytes, modulo `count`.

    TensorFlow computes the same inside a graph: `tf.strings.to_hash_bucket_strong(texts, count, key=KEY)`. (Polars' own
    hash differs between its releases.)

    Args:
        texts: Strings without nulls, n of them.
        count: At most 2⁶³ - 1.

    Returns:
        int64 (n,).

    Example:

    >>> import polars as pl
    >>> buckets(pl.Series(["Rome", "Oslo", "Rome"]), 1000).tolist()
    [722, 7, 722]
    """
    out = np.empty(len(texts), np.int64)
    for first in range(0, len(texts), _CHUNK):
        part = texts.slice(first, _CHUNK)
        data = str(part.str.join("").item()).encode()
        out[first : first + _CHUNK] = siphash(data, part.str.len_bytes().to_numpy().astype(np.int64)) % np.uint64(count)
    return out


def siphash(data: bytes, lengths: np.ndarray) -> np.ndarray:
    """SipHash-2-4 of many messages at once.

    Args:
        data: The messages, one after the other.
        lengths: int64 (n,), how many bytes each has.

    Returns:
        uint64 (n,).

    Source: Aumasson and Bernstein 2012, "SipHash: a fast short-input PRF", whose appendix A has test vectors.
    """
    out = np.empty(len(lengths), np.uint64)
    _hash(np.frombuffer(data, np.uint8), lengths, np.uint64(KEY[0]), np.uint64(KEY[1]), out)
    return out


@compiled
def _hash(data, lengths, first, second, out):  # type: ignore[no-untyped-def]
    start = 0
    for i in range(len(lengths)):
        size = lengths[i]
        v = first ^ _INITIAL[0], second ^ _INITIAL[1], first ^ _INITIAL[2], second ^ _INITIAL[3]
        # Words of eight bytes. The last one holds the bytes that are left, and the length.
        for at in range(0, size + 1, 8):
            word = np.uint64(0)
            for k in range(min(size - at, 8)):
                word |= np.uint64(data[start + at + k]) << np.uint64(8 * k)
            if size - at < 8:
                word |= np.uint64(size) << np.uint64(56)
            v = _rounds(v[0], v[1], v[2], v[3] ^ word, 2)
            v = v[0] ^ word, v[1], v[2], v[3]
        v = _rounds(v[0], v[1], v[2] ^ np.uint64(0xFF), v[3], 4)
        out[i] = v[0] ^ v[1] ^ v[2] ^ v[3]
        start += size


@compiled
def _rounds(a, b, c, d, count):  # type: ignore[no-untyped-def]
    for _ in range(count):
        a += b
        b = _rotated(b, 13) ^ a
        a = _rotated(a, 32)
        c += d
        d = _rotated(d, 16) ^ c
        a += d
        d = _rotated(d, 21) ^ a
        c += b
        b = _rotated(b, 17) ^ c
        c = _rotated(c, 32)
    return a, b, c, d


@compiled
def _rotated(x, bits):  # type: ignore[no-untyped-def]
    return x << np.uint64(bits) | x >> np.uint64(64 - bits)
