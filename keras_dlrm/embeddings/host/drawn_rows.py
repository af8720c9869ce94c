"""Initial rows at any places, as `StackedTables` draws them from the beginning on: nothing before them is drawn."""

from typing import Any

import numpy as np

from keras_dlrm.data.kernels.compiled import compiled
from keras_dlrm.initializers import StackedTables

# Of NumPy's PCG64: state · MULTIPLIER + increment, modulo 2^128.
_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
_JUMPS = 56  # powers of two of steps: enough for 2^31 rows of 2^24 numbers
_WORD = 2**64 - 1


class DrawnRows:
    """The initial rows of a stack of tables, by their numbers in the stack.

    NumPy's generator is a linear congruence, so that its state after n steps is a product and a sum for each bit of n.

    Args:
        initial: The stack's initializer.
        width: Numbers of a row, D.

    Example:

    >>> initial = StackedTables([3, 5], [0, 1], seed=7)
    >>> _, whole = next(initial.parts(4))
    >>> bool((DrawnRows(initial, 4).rows(np.array([6, 1])) == whole[[6, 1]]).all())
    True

    Source: O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
    Generation", 2014, section 4.3.1 (jumps) and 6.3 (XSL RR).
    """

    def __init__(self, initial: StackedTables, width: int) -> None:
        self.width = width
        self._ends = np.cumsum(initial.sizes, dtype=np.int64)
        self._spans = 2 * np.asarray(initial.half_widths, np.float64).astype(np.float32)
        states, jumps = [], []
        for number in initial.numbers:
            start: Any = np.random.default_rng([*initial.seed, *number]).bit_generator.state
            state, increment = start["state"]["state"], start["state"]["inc"]
            states.append(_words(state))
            times, plus, powers = _MULTIPLIER, increment, []
            for _ in range(_JUMPS):
                powers.append([*_words(times), *_words(plus)])
                times, plus = times * times % 2**128, (times + 1) * plus % 2**128
            jumps.append(powers)
        self._states, self._jumps = np.array(states, np.uint64), np.array(jumps, np.uint64)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Rows, float32 (n, D), for their numbers in the stack, int64 (n,)."""
        rows = np.empty((len(numbers), self.width), np.float32)
        _draw(np.asarray(numbers, np.int64), self._ends, self._spans, self._states, self._jumps, rows)
        return rows


def _words(number: int) -> list[int]:
    return [number >> 64, number & _WORD]


@compiled
def _product(a: Any, b: Any) -> Any:
    """The upper 64 bits of the product of two numbers of 64 bits."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a1, a0, b1, b0 = a >> half, a & low, b >> half, b & low
    middle = a1 * b0 + ((a0 * b0) >> half)
    return a1 * b1 + (middle >> half) + ((a0 * b1 + (middle & low)) >> half)


@compiled
def _jumped(high: Any, low: Any, jump: Any) -> Any:
    """A state of 128 bits after as many steps as the jump is of."""
    high = _product(low, jump[1]) + high * jump[1] + low * jump[0] + jump[2]
    low = low * jump[1] + jump[3]
    return high + np.uint64(low < jump[3]), low


@compiled
def _draw(numbers: Any, ends: Any, spans: Any, states: Any, jumps: Any, rows: Any) -> None:
    width = rows.shape[1]
    one, upper = np.uint64(1), np.uint64(32)
    for i in range(len(numbers)):
        table = np.searchsorted(ends, numbers[i], side="right")
        before = (numbers[i] - (ends[table - 1] if table else 0)) * width
        # The generator makes two numbers of each of its 64 bits.
        steps, odd = np.uint64(before // 2), before % 2
        high, low = states[table, 0], states[table, 1]
        power = 0
        while steps:
            if steps & one:
                high, low = _jumped(high, low, jumps[table, power])
            steps >>= one
            power += 1
        word = np.uint64(0)
        for j in range(odd, width + odd):
            if j == odd or j % 2 == 0:
                high, low = _jumped(high, low, jumps[table, 0])
                mixed, turn = high ^ low, high >> np.uint64(58)
                word = (mixed >> turn) | (mixed << ((np.uint64(64) - turn) & np.uint64(63)))
            bits = (word >> upper if j % 2 else word & np.uint64(0xFFFFFFFF)) >> np.uint64(8)
            value = np.float32(bits) * np.float32(1.0 / 16777216.0)
            rows[i, j - odd] = (value - np.float32(0.5)) * spans[table]
