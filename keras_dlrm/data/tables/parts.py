"""Parts of a log: which of the staged rows are training, validation and test rows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_dlrm.data.packed.format import SPLITS
from keras_dlrm.data.preprocessor.time_order import DATED

RANDOM = "random"
Keys = Callable[[int, int], np.ndarray]
# Rows whose keys are in memory at once while cuts are looked for.
_ROWS = 2**20
_DIGITS = 16  # bits that one pass over the keys settles
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Parts:
    """Rows of parts by keys that put them in order: each part has the rows from its smallest key up to the next part's.

    Args:
        names: Names of the parts, in order.
        cuts: Smallest key of each part after the first, ascending, uint64.
        keys: Gives the keys of the rows `first … last - 1`, uint64.
        rows: Number of rows of each part.
    """

    def __init__(self, names: Sequence[str], cuts: Sequence[int], keys: Keys, rows: Sequence[int]) -> None:
        self.rows = dict(zip(names, rows, strict=True))
        self._cuts, self._keys = np.array(cuts, np.uint64), keys

    def of(self, first: int, last: int) -> dict[str, np.ndarray]:
        """The rows of each part among the rows `first … last - 1`, counted from `first`."""
        part = np.searchsorted(self._cuts, self._keys(first, last), side="right")
        return {name: np.flatnonzero(part == k) for k, name in enumerate(self.rows)}


def in_file_order(rows: Mapping[str, int]) -> Parts:
    """Parts of so many rows, one after the other."""
    ends = np.cumsum(list(rows.values()))
    return Parts(list(rows), ends[:-1].tolist(), lambda first, last: np.arange(first, last, dtype=np.uint64), list(rows.values()))


def targets(split: Mapping[str, float], total: int) -> dict[str, int]:
    """Rows of each part by its fraction.

    Example:

    >>> targets({"test": 0.25, "train": 0.75}, 10)
    {'train': 8, 'test': 2}
    """
    names = [name for name in SPLITS if name in split]
    ends = [min(round(share * total), total) for share in np.cumsum([split[name] for name in names]).tolist()]
    return {name: end - start for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True)}


def by_keys(split: Mapping[str, float], keys: Keys, total: int, what: str) -> Parts:
    """Parts by fractions of the rows in the order of their keys; rows of equal keys stay together.

    Args:
        split: Fraction of each part.
        keys: Gives the keys of some rows, uint64.
        total: Number of rows.
        what: What the keys are, for messages.

    Raises:
        ValueError: so many rows have one key that nothing is left for a part.
    """
    wanted = targets(split, total)
    cuts, ends = [], []
    for stop in np.cumsum(list(wanted.values())).tolist()[:-1]:
        key, less, equal = (2**64 - 1, total, 0) if stop == total else _at(keys, total, stop)
        # Rows of one key go where the part is nearest to its fraction.
        before = stop - less > less + equal - stop
        cuts.append(key + before)
        ends.append(less + equal * before)
    rows = np.diff([0, *ends, total]).tolist()
    for name, target, found in zip(wanted, wanted.values(), rows, strict=True):
        if target and not found:
            raise ValueError(
                f"tables: {what} puts no row into the {name} part: too many rows have the same value. Give another column, or "
                "other fractions."
            )
    return Parts(list(wanted), cuts, keys, rows)


def _at(keys: Keys, total: int, place: int) -> tuple[int, int, int]:
    """The key at a place in ascending order, and how many rows have a smaller one, and the same."""
    prefix = less = 0
    counts = np.zeros(2**_DIGITS, np.int64)
    for shift in range(64 - _DIGITS, -1, -_DIGITS):
        counts[:] = 0
        for first in range(0, total, _ROWS):
            some = keys(first, min(first + _ROWS, total))
            if shift < 64 - _DIGITS:
                some = some[some >> np.uint64(shift + _DIGITS) == prefix]
            counts += np.bincount((some >> np.uint64(shift)) % np.uint64(2**_DIGITS), minlength=2**_DIGITS)
        digit = int(np.searchsorted(np.cumsum(counts), place - less, side="right"))
        less += int(counts[:digit].sum())
        prefix = prefix << _DIGITS | digit
    return prefix, less, int(counts[digit])


def check_kinds(keys: Keys, total: int, what: str) -> None:
    """`ValueError` where some keys are of dates and others of numbers."""
    dated = sum(int((keys(first, min(first + _ROWS, total)) >= DATED).sum()) for first in range(0, total, _ROWS))
    if 0 < dated < total:
        raise ValueError(f"tables: {what} holds {dated:,} dates and {total - dated:,} numbers; write all times in one way.")


def random_keys(seed: int) -> Keys:
    """Keys that shuffle rows: a hash of each row's number and the seed (SplitMix64), the same everywhere.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    start = _mixed(np.array([seed], np.uint64))

    def keys(first: int, last: int) -> np.ndarray:
        return _mixed(start + np.arange(first + 1, last + 1, dtype=np.uint64) * _GOLDEN) >> np.uint64(1)

    return keys


def _mixed(state: np.ndarray) -> np.ndarray:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return state ^ (state >> np.uint64(31))
