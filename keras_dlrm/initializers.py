"""The reference's initialization rules, drawn by NumPy: one seed gives the same weights on every backend."""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_dlrm.support.arguments import integer


def new_seed(seed: int | None) -> int:
    """`seed`, or a fresh one from Python's generator, which `keras.utils.set_random_seed` seeds."""
    return random.randrange(2**31) if seed is None else integer("seed", "seed", seed, 0)


def part_seed(seed: int, *part: int) -> int:
    """The seed of one part of a model: parts of one model, and of models with neighboring seeds, draw independently."""
    # The length comes first because NumPy's SeedSequence takes trailing zeros for absent.
    return int(np.random.SeedSequence([len(part), seed, *part]).generate_state(1)[0] >> 1)


class _NumpyInitializer(keras.initializers.Initializer):
    def __init__(self, seed: int | Sequence[int] | None = None) -> None:
        self.seed = [new_seed(None)] if seed is None else [int(s) for s in np.atleast_1d(seed)]

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        values = self.draw(np.random.default_rng(self.seed), tuple(shape))
        return keras.ops.convert_to_tensor(values, dtype=dtype or keras.config.floatx())

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


@keras.saving.register_keras_serializable("keras_dlrm")
class ReferenceKernel(_NumpyInitializer):
    """Kernel (n inputs, m outputs) ~ N(0, √(2 / (m + n))), as the reference DLRM draws its MLPs.

    Args:
        seed: Integer or integers; a fresh seed if omitted.
    """

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2.0 / (shape[0] + shape[-1])))


@keras.saving.register_keras_serializable("keras_dlrm")
class ReferenceBias(_NumpyInitializer):
    """Bias (m,) ~ N(0, √(1 / m)), as the reference DLRM draws its MLPs.

    Args:
        seed: Integer or integers; a fresh seed if omitted.
    """

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(1.0 / shape[0]))


@keras.saving.register_keras_serializable("keras_dlrm")
class ReferenceProjection(_NumpyInitializer):
    """Matrices (tables, n inputs, m outputs) ~ U(±√(6 / (m + n))), as the reference projects narrow tables.

    Args:
        seed: Integer or integers; a fresh seed if omitted.
    """

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        half_width = math.sqrt(6.0 / (shape[-2] + shape[-1]))
        return rng.uniform(-half_width, half_width, shape).astype(np.float32)


@keras.saving.register_keras_serializable("keras_dlrm")
class StackedTables(_NumpyInitializer):
    """Rows of several tables in one variable, each table of n rows ~ U(-√(1/n), √(1/n)) as the reference draws them.

    Args:
        sizes: Rows of each table, in stacking order.
        numbers: Each table's own number or numbers: it draws from (seed, numbers[t]), however tables are stacked.
        half_widths: s of each table's U(-s, s); the reference's √(1/n) if omitted.
        seed: Integer or integers; a fresh seed if omitted.
    """

    def __init__(
        self, sizes: Sequence[int], numbers: Sequence[int | Sequence[int]], half_widths: Sequence[float] | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(seed)
        self.sizes = list(sizes)
        self.numbers = [[int(n) for n in np.atleast_1d(number)] for number in numbers]
        self.half_widths = [math.sqrt(1.0 / size) for size in sizes] if half_widths is None else list(half_widths)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return next(self.parts(shape[1], shape[0]))[1]

    def parts(self, width: int, rows: int = 1 << 18) -> Iterator[tuple[int, np.ndarray]]:
        """The values in parts of at most `rows` rows, `(first row, float32 (n, width))`; the same however they are cut."""
        total = sum(self.sizes)
        part, first, filled = np.empty((min(rows, total), width), np.float32), 0, 0
        for number, size, half_width in zip(self.numbers, self.sizes, self.half_widths, strict=True):
            rng = np.random.default_rng([*self.seed, *number])
            done = 0
            while done < size:
                some = part[filled : filled + size - done]
                rng.random(dtype=np.float32, out=some)
                some -= np.float32(0.5)
                some *= 2 * np.float32(half_width)
                done, filled = done + len(some), filled + len(some)
                if filled == len(part):
                    yield first, part
                    first, filled = first + filled, 0
                    part = np.empty((min(rows, total - first), width), np.float32)

    def rows_of(self, table: int, start: int, stop: int, width: int) -> np.ndarray:
        """Rows `start … stop - 1` of the table at a place in the stacking order, float32, without drawing those before them."""
        rng = np.random.default_rng([*self.seed, *self.numbers[table]])
        # The generator makes two numbers of each of its 64 bits.
        before = start * width
        rng.bit_generator.advance(before // 2)  # type: ignore[attr-defined]
        if before % 2:
            rng.random(dtype=np.float32)
        rows = rng.random((stop - start, width), dtype=np.float32)
        rows -= np.float32(0.5)
        rows *= 2 * np.float32(self.half_widths[table])
        return rows

    def get_config(self) -> dict[str, Any]:
        config = {"sizes": self.sizes, "numbers": self.numbers, "half_widths": self.half_widths}
        return {**config, **super().get_config()}
