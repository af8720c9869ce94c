"""`RandomClickLog` and `TraceClickLog`: ids of a given skew or locality, labels of noise."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np

from keras_dlrm.data.packed.split import Batch
from keras_dlrm.data.synthetic.log import BLOCK, Block, Popularity, SyntheticClickLog, random_lengths
from keras_dlrm.data.synthetic.probabilities import expected_logloss
from keras_dlrm.data.synthetic.stack_profile import StackProfile
from keras_dlrm.data.synthetic.trace import Trace
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.crosses import fill
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.support.arguments import choice, number


class RandomClickLog(SyntheticClickLog):
    """A click log of noise: what a benchmark or a test of shapes needs. No model can learn from it.

    Ids are uniform or Zipf-distributed over each table, popular and rare ones mixed. A multi-hot column draws
    1 … hotness of them.

    Args:
        schema: Fitted schema; with `weighted=True`, weights are 1.
        seed: Seed of the rows.
        zipf: Exponent of the ids' distribution: 0 is uniform. A number for all tables, or one by table name; tables
            that are not named are uniform.
        dense: `"uniform"` in [0, 1), or `"normal"` with mean 0 and variance 1.
        click_rate: Probability of a click, in every row.

    Raises:
        ValueError, KeyError: an argument is out of range, or names an unknown table.

    Example:

    >>> from keras_dlrm.schema.schema import Categorical
    >>> log = RandomClickLog(Schema(dense=["x"], categorical=[Categorical("C1", 20)]), zipf={"C1": 1.2})
    >>> batch, label = next(log.batches(4, n_batches=1))
    >>> batch["sparse"].shape, log.best_auc
    ((4, 1), 0.5)
    """

    kind = "random"

    def __init__(
        self, schema: Schema, seed: int = 0, zipf: float | Mapping[str, float] = 0.0, dense: str = "uniform",
        click_rate: float = 0.25,
    ) -> None:  # fmt: skip
        super().__init__(schema, seed)
        tables = schema.table_sizes
        exponents = zipf if isinstance(zipf, Mapping) else dict.fromkeys(tables, zipf)
        for table in exponents:
            if table not in tables:
                raise KeyError(f"RandomClickLog: zipf names table {table!r}; the schema has {sorted(tables)}.")
        self.zipf = {t: number("RandomClickLog", f"zipf of table {t!r}", exponents.get(t, 0.0)) for t in tables}
        choice("RandomClickLog", "dense", dense, ("uniform", "normal"))
        self.dense = dense
        self.click_rate = number("RandomClickLog", "click_rate", click_rate, 0.0, 1.0)
        self._popularity = {table: Popularity(exponent, self._random) for table, exponent in self.zipf.items()}

    def _blocks(self, part: str) -> Iterator[Block]:
        draw = self._drawing(part)
        for block in count():
            random = self._random(f"rows {part}", block)
            batch = draw(random, BLOCK)
            truth = np.full(BLOCK, self.click_rate)
            yield Block(batch, (random.random(BLOCK) < truth).astype(np.float32), truth)

    def _drawing(self, part: str) -> Callable[[np.random.Generator, int], Batch]:
        """A drawer of a part's packed rows, block by block."""
        return self._inputs

    def _dense(self, random: np.random.Generator, rows: int) -> np.ndarray:
        if self.dense == "normal":
            return super()._dense(random, rows)
        return random.random((rows, self.schema.n_dense), dtype=np.float32)

    def _ids(self, random: np.random.Generator, column: Categorical, shape: tuple[int, int]) -> np.ndarray:
        if self.zipf[column.table_name] == 0.0:
            return random.integers(0, int(column.vocabulary_size or 0), shape, dtype=np.int32)
        return self._popularity[column.table_name].draw(
            random, column.table_name, int(column.vocabulary_size or 0), shape
        )

    def probabilities(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The true click probabilities, all equal: float64 (B,)."""
        return np.full(len(next(iter(batch.values()))), self.click_rate)

    @property
    def best_auc(self) -> float:
        """AUC of the best model: 0.5."""
        return 0.5

    @property
    def best_logloss(self) -> float:
        """Log loss of the constant click rate: its entropy."""
        return expected_logloss(np.array([self.click_rate]))

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("seed", "zipf", "dense", "click_rate")}


class TraceClickLog(RandomClickLog):
    """A click log of noise whose references to each table have a given locality: what a cache of rows is tried on.

    The references to a table are those of its columns, row by row, in the order of the schema; a multi-hot column has
    1 … hotness of them. Locality reaches across rows and batches: see `Trace`.

    Args:
        schema: Fitted schema with at least one sparse column; with `weighted=True`, weights are 1.
        profile: A `StackProfile` for all tables, or one by table name.
        seed: Seed of the rows.
        dense: `"uniform"` in [0, 1), or `"normal"` with mean 0 and variance 1.
        click_rate: Probability of a click, in every row.

    Raises:
        ValueError, KeyError: an argument is out of range, or a table has no profile.

    Example:

    >>> from keras_dlrm.schema.schema import Categorical
    >>> schema = Schema(categorical=[Categorical("C1", 1000)])
    >>> log = TraceClickLog(schema, StackProfile([0, 1], [1], cold=0.1))
    >>> ids = next(log.batches(1000))[0]["sparse"][:, 0]
    >>> bool(0.85 < np.mean(ids[1:] == ids[:-1]) < 0.95)
    True
    """

    kind = "trace"

    def __init__(
        self, schema: Schema, profile: StackProfile | Mapping[str, StackProfile], seed: int = 0, dense: str = "uniform",
        click_rate: float = 0.25,
    ) -> None:  # fmt: skip
        super().__init__(schema, seed, dense=dense, click_rate=click_rate)
        tables = schema.table_sizes
        if not tables:
            raise ValueError("TraceClickLog: the schema has no sparse column; locality belongs to ids.")
        self.profiles = dict(profile) if isinstance(profile, Mapping) else dict.fromkeys(tables, profile)
        if set(self.profiles) != set(tables):
            raise KeyError(
                f"TraceClickLog: profile names {sorted(self.profiles)}; it must name each of the tables {sorted(tables)}."
            )
        for table, entry in self.profiles.items():
            if not isinstance(entry, StackProfile):
                raise ValueError(f"TraceClickLog: the profile of table {table!r} is {entry!r}; give a StackProfile.")

    def _drawing(self, part: str) -> Callable[[np.random.Generator, int], Batch]:
        traces = {
            table: Trace(self.profiles[table], size, [self.seed, zlib.crc32(f"{part} {table}".encode())])
            for table, size in self.schema.table_sizes.items()
        }

        def draw(random: np.random.Generator, rows: int) -> Batch:
            batch = {"dense": self._dense(random, rows)} if self.schema.dense else {}
            return self._with_weights({**batch, "sparse": self._references(random, traces)})

        return draw

    def _references(self, random: np.random.Generator, traces: Mapping[str, Trace]) -> np.ndarray:
        sparse = np.full((BLOCK, self.schema.width), PADDING, np.int32)
        places: dict[str, list[np.ndarray]] = {table: [] for table in traces}
        used = np.zeros(sparse.shape, bool)
        for column, offset in zip(self.schema.categorical, self.schema.offsets, strict=True):
            slots = np.arange(column.hotness)
            lengths = random_lengths(random, BLOCK, column.hotness) if column.hotness > 1 else 1
            used[:, offset : offset + column.hotness] = slots < lengths
            places[column.table_name].append(offset + slots)
        for table, trace in traces.items():
            columns = np.concatenate(places[table])
            mask = used[:, columns]
            drawn = np.full(mask.shape, PADDING, np.int32)
            drawn[mask] = trace.draw(int(mask.sum()))
            sparse[:, columns] = drawn
        return fill(self.schema, sparse)

    def _settings(self) -> dict[str, Any]:
        profiles = {table: profile.to_dict() for table, profile in self.profiles.items()}
        return {"seed": self.seed, "dense": self.dense, "click_rate": self.click_rate, "profiles": profiles}
