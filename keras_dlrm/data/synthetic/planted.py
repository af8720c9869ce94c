"""`PlantedClickLog`: clicks drawn from known probabilities."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np

from keras_dlrm.data.packed.filling import cut, joined
from keras_dlrm.data.packed.split import Batch
from keras_dlrm.data.synthetic.changes import ColdItems, Drift
from keras_dlrm.data.synthetic.content import ItemContent
from keras_dlrm.data.synthetic.effects import Effects
from keras_dlrm.data.synthetic.log import BLOCK, Block, Popularity, SyntheticClickLog
from keras_dlrm.data.synthetic.probabilities import best, scale_and_bias, sigmoid
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.crosses import fill
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.support.arguments import integer

POPULATION = 64 * BLOCK
# Shares of the logit's variance, in proportion: linear dense, nonlinear dense, one effect per id, products of pairs of columns.
# Products of three columns, where there are any, come on top: a third of the variance where the log has all the others, too.
SHARES = {"linear": 0.48, "nonlinear": 0.04, "ids": 0.42, "pairs": 0.06, "triples": 0.5}


class PlantedClickLog(SyntheticClickLog):
    """A click log drawn from known click probabilities.

    Dense values are standard normal. Ids are Zipf-distributed over each table, popular and rare ones mixed. The logit
    is a sum of linear and mildly nonlinear functions of the dense values, an effect per id, and low-rank products of
    a few pairs of columns (what dot products and crosses are there to find), scaled so that the best possible AUC and
    the click rate are as asked for. A multi-hot column draws 1 … hotness ids, and its effect is their mean.

    With `order=3` there are products of three columns as well: Σ_k u_k v_k w_k over the rank, of vectors of a column's ids
    that nothing else uses. Their mean over the ids is 0, so that nothing of them is left in a sum of effects or of pairs: a
    factorization machine of second order cannot find them. They are about a third of the logit's variance, half where there
    are no dense columns. The best score without them has an AUC of about 0.75 where the best possible one is 0.80.

    With `content`, the items of a column have content vectors, the rows of `log.content`. They are not a part of the batches: as
    in a real log, it is the raw rows that get them, for a preprocessor to make dense values or Semantic IDs of them.

    With `drift` or `cold` a log changes over time, and the best possible AUC and log loss with it: `best` tells them
    for a part. Row r of a part stands at position `starts[part] + r` in time.

    Row r of a part depends on `(schema, seed, part, r)` and the settings, not on the batch size or on the backend.

    Args:
        schema: Fitted schema; with `weighted=True`, weights are 1.
        seed: Seed of the planted effects and of the rows.
        click_rate: Mean click probability.
        target_auc: AUC of the true probabilities, between 0.5 and 1.
        zipf: Exponent of the ids' distribution; 0 is uniform.
        drift: How effects and popularity move; by default they do not.
        cold: Ids that are not there from the beginning; by default all are.
        starts: Position in time of a part's first row, by part; 0 for parts that are not named. It matters with `drift`
            and `cold` only: `{"valid": 500_000, "test": 550_000}` lets the test part follow the others.
        order: Most columns that one product has: 2, or 3.
        content: The content of a column's items, on which most of their effects depend; by default these have none.

    Raises:
        ValueError: an argument is out of range, `order=3` with fewer than three sparse columns, or `content` of a column that
            there is not.

    Example:

    >>> from keras_dlrm.schema.schema import Categorical
    >>> log = PlantedClickLog(Schema(dense=["x"], categorical=[Categorical("C1", 20)]), seed=0)
    >>> batch, label = next(log.batches(4, n_batches=1))
    >>> batch["sparse"].shape, log.probabilities(batch).shape
    ((4, 1), (4,))
    >>> bool(abs(log.best_auc - 0.8) < 0.01)
    True
    """

    kind = "planted"

    def __init__(
        self, schema: Schema, seed: int = 0, click_rate: float = 0.25, target_auc: float = 0.80, zipf: float = 1.05,
        drift: Drift | None = None, cold: ColdItems | None = None, starts: Mapping[str, int] | None = None,
        order: int = 2, content: ItemContent | None = None,
    ) -> None:  # fmt: skip
        super().__init__(schema, seed)
        for name, value, low, high in (("click_rate", click_rate, 0.0, 1.0), ("target_auc", target_auc, 0.5, 0.99)):
            if not low < value < high:
                raise ValueError(f"PlantedClickLog: {name}={value} must lie between {low} and {high}.")
        if not 0.0 <= zipf < np.inf:
            raise ValueError(f"PlantedClickLog: zipf={zipf} must be 0 or more.")
        for name, change, kind in (("drift", drift, Drift), ("cold", cold, ColdItems), ("content", content, ItemContent)):
            if not isinstance(change, kind | None):
                raise ValueError(f"PlantedClickLog: {name}={change!r} must be a {kind.__name__}(…) or None.")
        self.order = integer("PlantedClickLog", "order", order, 2, 3)
        if self.order == 3 and len(schema.categorical) < 3:
            raise ValueError(
                f"PlantedClickLog: order=3 multiplies three sparse columns; the schema has {len(schema.categorical)}. Give "
                "it more, or leave order out."
            )
        self.click_rate, self.target_auc, self.zipf, self.drift, self.cold = click_rate, target_auc, zipf, drift, cold
        self.item_content = content
        named = (starts or {}).items()
        self.starts = {part: integer("PlantedClickLog", f"starts[{part!r}]", at, 0) for part, at in named}
        self._popularity = Popularity(zipf, self._random)
        self._orders: dict[tuple[str, int], np.ndarray] = {}
        self._cold: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._phases: dict[str, np.ndarray] = {}
        self._drawn: dict[tuple[str, int], Block] = {}  # the last blocks that `batch` drew
        self._effects = Effects(schema, self._popularity, drift, self._random, self.order, content)

    @property
    def content(self) -> np.ndarray | None:
        """Content vectors of the items by id, float32 (rows of the table, width); `None` where they have none."""
        vectors = self._effects.vectors
        if vectors is None or self.item_content is None:
            return None
        size = self.schema.table_sizes[self.item_content.table(self.schema)]
        return vectors[np.arange(size) % len(vectors)]

    # -- rows --------------------------------------------------------------------------------------------------------

    def batch(self, number: int, batch_size: int, part: str = "train") -> tuple[Batch, np.ndarray]:
        """Batch `number` of `batches(batch_size, part=part)`, without drawing those before it.

        A process that trains on some of the batches only, or again on one, asks for just these. Neighbouring batches are
        cheap one after another.

        Args:
            number: From 0 on.
            batch_size: Rows B of a batch.
            part: Any name; parts are independent draws.

        Returns:
            The packed batch and float32 (B,) of 0 and 1.

        Example:

        >>> from keras_dlrm.schema.schema import Categorical
        >>> log = PlantedClickLog(Schema(categorical=[Categorical("C1", 20)]), seed=0)
        >>> fourth = list(log.batches(5, n_batches=4))[3]
        >>> bool(np.array_equal(log.batch(3, 5)[0]["sparse"], fourth[0]["sparse"]))
        True
        """
        size = integer("batch", "batch_size", batch_size)
        start = integer("batch", "number", number, 0) * size
        pieces = []
        for i in range(start // BLOCK, (start + size - 1) // BLOCK + 1):
            if (part, i) not in self._drawn:
                for old in list(self._drawn)[:-1]:
                    del self._drawn[old]
                self._drawn[part, i] = self._block(part, i)
            pieces.append(cut(self._drawn[part, i], max(start - i * BLOCK, 0), start + size - i * BLOCK))
        whole = joined(pieces)
        return whole.batch, whole.label

    def _blocks(self, part: str) -> Iterator[Block]:
        return (self._block(part, number) for number in count())

    def _block(self, part: str, number: int) -> Block:
        positions = self.positions(part, number * BLOCK, (number + 1) * BLOCK)
        random = self._random(part, number)
        batch = self._inputs(random, BLOCK)
        if self.drift is not None or self.cold is not None:
            self._move(batch, part, number, positions)
        truth = self.probabilities(batch, positions)
        return Block(batch, (random.random(BLOCK) < truth).astype(np.float32), truth)

    def positions(self, part: str, start: int, stop: int) -> np.ndarray:
        """Positions in time of rows `start` … `stop - 1` of a part: int64."""
        return self.starts.get(part, 0) + np.arange(start, stop, dtype=np.int64)

    def _ids(self, random: np.random.Generator, column: Categorical, shape: tuple[int, int]) -> np.ndarray:
        return self._popularity.draw(random, column.table_name, self._places(int(column.vocabulary_size or 0)), shape)

    def _places(self, size: int) -> int:
        """Ids of a table of `size` rows that are there at a time."""
        return size if self.drift is None else self.drift.places(size)

    def _move(self, batch: Batch, part: str, number: int, positions: np.ndarray) -> None:
        """Replace ids of a block by what drift and cold items make of them."""
        random = self._random(f"drift of {part}", number)
        for column, offset in zip(self.schema.categorical, self.schema.offsets, strict=True):
            table, rows = column.table_name, int(column.vocabulary_size or 0)
            size = self._places(rows)
            view = batch["sparse"][:, offset : offset + column.hotness]
            valid = view != PADDING
            ids = np.where(valid, view, 0)
            if self.drift is not None and self.drift.popularity:
                era, share = self.drift.era(positions)
                era = era[:, None] + (random.random(ids.shape) < share[:, None])
                for wanted in np.unique(era):
                    if wanted:
                        ids = np.where(era == wanted, self._order(table, size, int(wanted))[ids], ids)
            if self.cold is not None and table in (self.cold.tables or (table,)):
                if table not in self._cold:
                    source = self._random(f"cold items of {table}")
                    self._cold[table] = self.cold.plan(self._popularity.order(table, size), source)
                ids = self.cold.apply(ids, self._cold[table], part, positions)
            if self.drift is not None and self.drift.generations > 1:
                if table not in self._phases:
                    self._phases[table] = self._random(f"generations of {table}").random(size)
                ids = self.drift.holder(ids, self._phases[table], positions, rows)
            view[:] = np.where(valid, ids, PADDING)
        if self.schema.categorical:
            fill(self.schema, batch["sparse"])

    def _order(self, table: str, size: int, era: int) -> np.ndarray:
        """For each id, the one that takes its place in the order of popularity number `era`."""
        if (table, era) not in self._orders:
            # A row needs two orders at a time; those of the eras before are not met again in this part.
            for old in [key for key in self._orders if key[0] == table and abs(key[1] - era) > 1]:
                del self._orders[old]
            self._orders[table, era] = self._random(f"popularity of {table}", era).permutation(size).astype(np.int32)
        return self._orders[table, era]

    # -- probabilities -----------------------------------------------------------------------------------------------

    @cached_property
    def _calibration(self) -> tuple[dict[str, tuple[float, float]], float, float]:
        """`{component: (mean, weight)}`, the logit's scale and its bias, all from one sample."""
        parts = self._effects.components(self._inputs(self._random("calibration"), 2**15))
        total = sum(SHARES[name] for name in parts)
        shape = {}
        for name, values in parts.items():
            weight = np.sqrt(SHARES[name] / total) / values.std() if values.std() > 1e-12 else 0.0
            shape[name] = (float(values.mean()), float(weight))
        logit = np.sum([(values - shape[name][0]) * shape[name][1] for name, values in parts.items()], axis=0)
        return shape, *scale_and_bias(logit, self.click_rate, self.target_auc)

    def probabilities(self, batch: Mapping[str, np.ndarray], positions: Any = 0) -> np.ndarray:
        """The true click probabilities: float64 (B,).

        Args:
            batch: Packed batch of B rows.
            positions: Their positions in time (B,) or one number; it matters where effects drift. See `positions`.
        """
        shape, scale, bias = self._calibration
        parts = self._effects.components(batch, positions)
        return sigmoid(bias + scale * np.sum([(v - shape[n][0]) * shape[n][1] for n, v in parts.items()], axis=0))

    @cached_property
    def _population(self) -> np.ndarray:
        if self.drift is not None or self.cold is not None:
            return np.concatenate([block.truth for block in self._until(POPULATION, "train")])
        blocks = [self._inputs(self._random("population", i), BLOCK) for i in range(POPULATION // BLOCK)]
        return np.concatenate([self.probabilities(b) for b in blocks])

    def best(self, part: str, rows: int, start: int = 0) -> dict[str, float]:
        """Scores of the true probabilities on given rows of a part.

        Args:
            part: The part.
            rows: How many rows.
            start: Number of the first of them.

        Returns:
            `"auc"` and `"logloss"` in expectation over the labels, `"drawn_auc"` and `"drawn_logloss"` on the labels
            that were drawn.
        """
        end = integer("best", "start", start, 0) + integer("best", "rows", rows)
        truth, labels = joined([(block.truth, block.label) for block in self._until(end, part)])
        return best(truth[start:], labels[start:])

    def _settings(self) -> dict[str, Any]:
        out: dict[str, Any] = {n: getattr(self, n) for n in ("seed", "click_rate", "target_auc", "zipf")}
        out |= {n: vars(getattr(self, n)) for n in ("drift", "cold") if getattr(self, n) is not None}
        out |= {} if self.item_content is None else {"content": vars(self.item_content)}
        out |= {"order": self.order} if self.order > 2 else {}
        return out | ({"starts": self.starts} if self.starts else {})
