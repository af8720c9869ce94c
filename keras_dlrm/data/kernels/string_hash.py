"""Hash of text to numbers, the same in every process, on every machine and in every release."""

import sys

import numpy as np
import polars as pl

#: The key of the published test vectors: bytes 0, 1, … 15. Ids of saved models depend on it.
KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
CHUNK = 2**16
_INITIAL = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


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
    parts = []
    for first in range(0, len(texts), CHUNK):
        part = texts.slice(first, CHUNK)
        data = str(part.str.join("").item()).encode()
        parts.append(siphash(data, part.str.len_bytes().to_numpy().astype(np.int64)))
    hashes = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    return (hashes % np.uint64(count)).astype(np.int64)


def siphash(data: bytes, lengths: np.ndarray) -> np.ndarray:
    """SipHash-2-4 of many messages at once.

    Args:
        data: The messages, one after the other.
        lengths: int64 (n,), how many bytes each has.

    Returns:
        uint64 (n,).

    Source: Aumasson and Bernstein 2012, "SipHash: a fast short-input PRF", whose appendix A has test vectors.
    """
    words = _words(data)
    starts = np.cumsum(lengths) - lengths
    first, second = (np.uint64(half) for half in KEY)
    state = np.empty((4, len(lengths)), np.uint64)
    for v, initial, half in zip(state, _INITIAL, (first, second, first, second), strict=True):
        v[:] = np.uint64(initial) ^ half
    # Word by word of all messages that have so many. The last word holds the bytes that are left, and the length.
    open_ = np.arange(len(lengths))
    at = 0
    while len(open_):
        left = np.minimum(lengths[open_] - at, 8).astype(np.uint64)
        word = words[starts[open_] + at]
        closing = left < 8
        kept = (np.uint64(1) << (left[closing] * np.uint64(8))) - np.uint64(1)
        word[closing] = (word[closing] & kept) | lengths[open_[closing]].astype(np.uint64) << np.uint64(56)
        v = state[:, open_]
        v[3] ^= word
        _rounds(v, 2)
        v[0] ^= word
        state[:, open_] = v
        open_ = open_[~closing]
        at += 8
    state[2] ^= np.uint64(0xFF)
    _rounds(state, 4)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _words(data: bytes) -> np.ndarray:
    """The eight bytes from each byte on, as little-endian numbers."""
    padded = data + bytes(8)
    words = np.ndarray(len(data) + 1, "<u8", padded, strides=(1,))
    return words if sys.byteorder == "little" else words.astype(np.uint64)


def _rounds(v: np.ndarray, count: int) -> None:
    for _ in range(count):
        v[0] += v[1]
        v[1] = _rotated(v[1], 13) ^ v[0]
        v[0] = _rotated(v[0], 32)
        v[2] += v[3]
        v[3] = _rotated(v[3], 16) ^ v[2]
        v[0] += v[3]
        v[3] = _rotated(v[3], 21) ^ v[0]
        v[2] += v[1]
        v[1] = _rotated(v[1], 17) ^ v[2]
        v[2] = _rotated(v[2], 32)


def _rotated(x: np.ndarray, bits: int) -> np.ndarray:
    return x << np.uint64(bits) | x >> np.uint64(64 - bits)
