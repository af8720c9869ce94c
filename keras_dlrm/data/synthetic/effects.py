"""Effects of a planted log: of dense values, of ids, of content, and products of columns; what they turn to over time."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_dlrm.data.synthetic.changes import Drift, turned
from keras_dlrm.data.synthetic.content import ItemContent
from keras_dlrm.data.synthetic.log import Popularity
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Schema

RANK = 2
MAX_PAIRS = 2
MAX_TRIPLES = 2
# Products are made of the smallest tables with at least this many rows: they can be learned from few rows.
PAIR_ROWS = 8
# An id's effect and its factor shrink by n / (1 + n), n its expected count among this many rows: rare ids carry little
# signal, so that a model comes close to the best with some hundred thousand rows.
EFFECT_ROWS = 1_000
FACTOR_ROWS = 200


class Effects:
    """Effects drawn for a schema, and what they turn to over time; `source` makes the random generators by name."""

    def __init__(
        self, schema: Schema, popularity: Popularity, drift: Drift | None, source: Callable[[str], np.random.Generator],
        order: int, content: ItemContent | None = None,
    ) -> None:  # fmt: skip
        self._schema, self._popularity, self._drift = schema, popularity, drift
        random = source("planted effects")
        self._linear = random.standard_normal(schema.n_dense)
        self._bends = random.standard_normal((2, schema.n_dense))
        # Ids that hold a place one after the other have its effects.
        sizes = {t: drift.places(n) if drift is not None else n for t, n in schema.table_sizes.items()}
        self._sizes = sizes
        self._effects = {
            t: random.standard_normal(n, dtype=np.float32) * self._shrink(t, n, EFFECT_ROWS) for t, n in sizes.items()
        }
        self.vectors: np.ndarray | None = None
        if content is not None:
            table = content.table(schema)
            self.vectors, self._effects[table] = content.draw(
                source("content of items"), self._effects[table], popularity.by_id(table, sizes[table])
            )
        rows = [sizes[c.table_name] for c in schema.categorical]
        columns = sorted(range(len(rows)), key=lambda i: (rows[i] < PAIR_ROWS, rows[i]))
        self._pairs = list(zip(columns[0::2], columns[1::2], strict=False))[:MAX_PAIRS]
        self._factors = {
            t: random.standard_normal((sizes[t], RANK), dtype=np.float32) * self._shrink(t, sizes[t], FACTOR_ROWS)[:, None]
            for t in sorted({schema.categorical[i].table_name for pair in self._pairs for i in pair})
        }
        triples = zip(columns[0::3], columns[1::3], columns[2::3], strict=False) if order == 3 else ()
        self._triples = list(triples)[:MAX_TRIPLES]
        random = source("planted triples")
        self._thirds = {
            t: self._centered(random, t, sizes[t])
            for t in sorted({schema.categorical[i].table_name for triple in self._triples for i in triple})
        }
        if drift is not None and drift.effects:
            self._plant_turn(source("turned effects"))

    def _plant_turn(self, random: np.random.Generator) -> None:
        """Draw the effects that the first ones turn to over time."""
        n = self._schema.n_dense
        if n > 1:
            # Dense values are independent, so that what turns is the vector of weights, without a mean.
            other = random.standard_normal(n)
            other -= self._linear * (self._linear @ other) / (self._linear @ self._linear)
            self._linear_turn = other * np.linalg.norm(self._linear) / np.linalg.norm(other)
        self._means, self._turns = {}, {}
        for table, size in self._sizes.items():
            weights = self._popularity.by_id(table, size)
            second = random.standard_normal(size) * self._shrink(table, size, EFFECT_ROWS)
            self._means[table], self._turns[table] = turned(self._effects[table].astype(np.float64), second, weights)

    def _centered(self, random: np.random.Generator, table: str, size: int) -> np.ndarray:
        """Factors (size, RANK) of a table's ids, rare ones small, whose mean over the ids that are drawn is 0."""
        weights, shrink = self._popularity.by_id(table, size), self._shrink(table, size, FACTOR_ROWS)
        factors = random.standard_normal((size, RANK))
        return (factors - (weights * shrink) @ factors / (weights @ shrink)) * shrink[:, None]

    def _shrink(self, table: str, size: int, rows: int) -> np.ndarray:
        expected = rows * self._popularity.by_id(table, size)
        return (expected / (1.0 + expected)).astype(np.float32)

    def components(self, batch: Mapping[str, np.ndarray], positions: Any = 0) -> dict[str, np.ndarray]:
        """Parts of the logit, `SHARES`' names: float64 (B,) each, of packed rows at positions in time."""
        angle = self._drift.angle(positions) if self._drift is not None and self._drift.effects else None
        out: dict[str, np.ndarray] = {}
        if self._schema.dense:
            x = np.asarray(batch["dense"], np.float64)
            out["linear"] = x @ self._linear
            if angle is not None and self._schema.n_dense > 1:
                out["linear"] = np.cos(angle) * out["linear"] + np.sin(angle) * (x @ self._linear_turn)
            out["nonlinear"] = np.tanh(2.0 * x) @ self._bends[0] + np.maximum(np.abs(x) - 1.0, 0.0) @ self._bends[1]
        if self._schema.categorical:
            columns = range(len(self._schema.categorical))
            out["ids"] = np.sum([self._effect(batch, i, angle) for i in columns], axis=0)
        if self._pairs:
            pooled = {i: self._pool(batch, i, self._factors) for pair in self._pairs for i in pair}
            out["pairs"] = np.sum([(pooled[a] * pooled[b]).sum(1) for a, b in self._pairs], 0)
        if self._triples:
            pooled = {i: self._pool(batch, i, self._thirds) for triple in self._triples for i in triple}
            out["triples"] = np.sum([(pooled[a] * pooled[b] * pooled[c]).sum(1) for a, b, c in self._triples], 0)
        return out

    def _effect(self, batch: Mapping[str, np.ndarray], index: int, angle: np.ndarray | None) -> np.ndarray:
        first = self._pool(batch, index, self._effects)[:, 0]
        table = self._schema.categorical[index].table_name
        if angle is None or not self._turns[table].any():
            return first
        column, offset = self._schema.categorical[index], self._schema.offsets[index]
        present = (np.asarray(batch["sparse"])[:, offset : offset + column.hotness] != PADDING).any(axis=1)
        mean = self._means[table] * present
        return mean + np.cos(angle) * (first - mean) + np.sin(angle) * self._pool(batch, index, self._turns)[:, 0]

    def _pool(self, batch: Mapping[str, np.ndarray], index: int, latents: Mapping[str, np.ndarray]) -> np.ndarray:
        """Mean of the latents of a column's ids: float64 (B, k), 0 where all is padding."""
        column, offset = self._schema.categorical[index], self._schema.offsets[index]
        ids = np.asarray(batch["sparse"])[:, offset : offset + column.hotness]
        table = latents[column.table_name]
        table = table[:, None] if table.ndim == 1 else table
        valid = ids != PADDING
        values = table[np.where(valid, ids, 0) % len(table)].astype(np.float64) * valid[:, :, None]
        return values.sum(1) / np.maximum(valid.sum(1), 1)[:, None]
