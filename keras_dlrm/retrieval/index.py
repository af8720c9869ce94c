"""`Index`: the items of a catalog by their vectors, and the search for the best of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_dlrm.data.packed.filling import cut, padded, row_count
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.retrieval import search
from keras_dlrm.retrieval.catalog import Progress, last_of_each, read_catalog
from keras_dlrm.retrieval.content import Content, load, save
from keras_dlrm.retrieval.fingerprint import fingerprint
from keras_dlrm.retrieval.item_ids import ItemIds
from keras_dlrm.retrieval.lists import make_lists
from keras_dlrm.retrieval.search import Best
from keras_dlrm.retrieval.sides import Side
from keras_dlrm.support.arguments import choice, integer

DTYPES = ("float32", "bfloat16", "int8")
# Queries and items of one product of matrices: 64 MiB of scores.
_QUERIES, _ROWS = 256, 2**16


class Index:
    """The N items of a catalog, each with its vector, its id and its columns; made by `Index.build`, or read by `Index.load`.

    Scores are those of the model: user vector · item vector / temperature.

    Attributes:
        content: What it holds, see `Content`.
        ids: `ItemIds` of the items.
        skipped: Rows of the catalog without an id, which were left out.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
    >>> model = kd.models.TwoTower(schema, user=["user"], item=["item"], seed=0)
    >>> index = Index.build(model, {"item": [3, 5, 7]})
    >>> users = schema.pack({"user": [1, 2], "item": [-1, -1]})
    >>> ids, scores = index.query(users, k=2, exclude=[[3], [5]])
    >>> ids.shape, scores.dtype.name, 3 in ids[0], 5 in ids[1]
    ((2, 2), 'float32', False, False)
    """

    def __init__(self, content: Content, model: Any = None, skipped: int = 0) -> None:
        self.content, self.model, self.skipped = content, model, skipped
        self.ids = ItemIds(content.ids)
        self._parts: list[tuple[int, dict[str, Any]]] = []
        self._lists: dict[str, Any] = {}
        self._steps = _steps(model)

    @classmethod
    def build(
        cls, model: Any, catalog: Any, *, preprocessor: Preprocessor | None = None, ids: Any = None, batch_size: int = 8192,
        dtype: str = "float32", lists: int | None = None, probes: int = 8, seed: int = 0, csv: CsvDialect | None = None,
        workers: int | None = None, progress: Progress | None = None,
    ) -> Index:  # fmt: skip
        """The index of a catalog. Its rows are read part by part; memory holds what the index does, and some parts.

        An item that is there several times, as in a log, counts with its last row. Rows without an id are left out and counted:
        where the id is missing, or, of a packed log, was not in the vocabulary. Columns of the user's are not needed.

        Args:
            model: A `kd.models.TwoTower`.
            catalog: Files (Parquet, CSV, TSV; a path, a pattern or a list) or a frame, with the item's columns as the log has
                them; a processed log of `kd.data.open`, its folder, or a split; packed arrays of the model's schema.
            preprocessor: That of the log, for raw columns; those that hold ids already need none. It also names the items of
                packed rows; a processed log brings its own.
            ids: For packed arrays: an id for each row, whole numbers or texts; by default those of the column `model.item_id`.
            batch_size: Rows that the item tower gets at once.
            dtype: How vectors are stored: `"float32"`, `"bfloat16"` or `"int8"`.
            lists: Number of groups of near items; then a query looks at some of them alone and may miss items. `None`: at all.
            probes: Number of groups that a query looks at.
            seed: Seed of the groups.
            csv: How text files are written, if not as those of the log.
            workers: Threads that work off columns; as many as there are processors by default.
            progress: Called as `progress(rows_done, rows_total)` as the catalog is read; the total may be unknown.

        Raises:
            FileNotFoundError, KeyError, TypeError: there is no such catalog, or it lacks a column; ids of another type.
            ValueError: no item has an id; a value, which the message names; a vector is not finite; a schema with weights.

        Source: Covington et al. 2016, "Deep Neural Networks for YouTube Recommendations" (candidates by nearest neighbors).
        """
        who = "Index.build"
        _check_model(who, model)
        size = integer(who, "batch_size", batch_size)
        choice(who, "dtype", dtype, DTYPES)
        mark = fingerprint(who, model)
        report = progress or (lambda done, total: None)
        rows, skipped = last_of_each(read_catalog(who, model, catalog, preprocessor, ids, csv, workers, report))
        if rows is None:
            raise ValueError(f"{who}: the catalog has no item ({skipped} rows, none of them with an id); give one that has some.")
        side = Side(model.schema, model.item_columns)
        parts = []
        for start in range(0, len(rows.ids), size):
            batch = side.whole(cut(rows.columns, start, start + size))
            vectors = vectors_of(model.item_vectors, model, batch, size)
            bad = ~np.isfinite(vectors).all(axis=1)
            if bad.any():
                name = rows.ids[start + int(np.argmax(bad))]
                fix = "see its dense columns, and the weights of the model."
                raise ValueError(f"{who}: the vector of item {name!r} is not finite; {fix}")
            parts.append(search.stored(vectors, dtype))
        stored = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        about = (model.schema, list(model.item_columns), float(model.temperature), mark)
        content = Content(rows.ids, stored, dtype, rows.columns, *about)
        if lists is not None:
            count = integer(who, "lists", lists, high=len(rows.ids))
            probes = min(integer(who, "probes", probes), count)
            groups = make_lists(cls(content).vectors, len(rows.ids), count, integer(who, "seed", seed, low=0))
            content = dataclasses.replace(content, lists=groups, probes=probes)
        return cls(content, model, skipped)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        width = self.content.vectors["codes"].shape[1]
        lists = "" if self.content.lists is None else f", {len(self.content.lists.centers):,} lists"
        return f"Index({len(self):,} items × {width}, {self.content.dtype}{lists})"

    def vectors(self, rows: Any = slice(None)) -> np.ndarray:
        """Vectors of some rows, by default of all, as scores are computed from them: float32 (n, D)."""
        return np.asarray(ops.convert_to_numpy(search.decoded(self._arrays(rows))))

    def _arrays(self, rows: Any, names: Sequence[str] = search.VECTORS) -> dict[str, Any]:
        """Stored vectors of some rows, as the backend's tensors."""
        return {name: ops.convert_to_tensor(array[rows]) for name, array in self.content.vectors.items() if name in names}

    def check(self, who: str, model: Any) -> None:
        """`ValueError` unless the index was made by a model of these weights, on whatever backend."""
        _check_model(who, model)
        own, its = self.content.fingerprint, fingerprint(who, model)
        if own != its:
            text = f"the index was made by another model, or before this one was trained further (fingerprint {own[:12]}…"
            raise ValueError(f"{who}: {text}, of the model {its[:12]}…); make it again: Index.build(model, catalog).")

    def query(
        self, users: Mapping[str, Any], k: int, *, exclude: Any = None, allowed: Any = None, probes: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items for each user.

        Args:
            users: Packed batch of the model's schema, B rows; the item's columns may hold anything.
            k: Number of items.
            exclude: For each user ids that it must not get, such as what it has seen: (B, n), or B lists. Ids that are not in
                the index are allowed.
            allowed: Ids of the only items that there are for all users, (m,); all if omitted.
            probes: Number of groups to look at, of an index with lists; as many as it was built with if omitted.

        Returns:
            `(ids, scores)`: int64, or texts as objects, (B, k), and float32 (B, k), the highest first; of equal scores the item
            that comes first in the index. Where there are fewer than k items, and for a user whose dense columns are not finite,
            there are ids of -1, or "", with a score of -infinity.

        Raises:
            TypeError: ids of another type than the index has; no packed batch.
            ValueError: the index was loaded without its model, or the model was trained further; the number of rows of `exclude`,
                `k` or `probes`.
        """
        vectors = self.user_vectors("Index.query", users)
        rows, scores = self.search(vectors, k, exclude=exclude, allowed=allowed, probes=probes)
        return self.ids.at(rows), scores

    def user_vectors(self, who: str, users: Mapping[str, Any]) -> np.ndarray:
        """Vectors of a packed batch's users, float32 (B, D), by the index's model; errors are those of `query`."""
        if self.model is None:
            raise ValueError(f"{who}: the index was loaded without its model; use Index.load(path, model).")
        if not isinstance(users, Mapping) or not users:
            kind = "an empty dict" if isinstance(users, Mapping) else type(users).__name__
            raise TypeError(f"{who}: users must be a packed batch of the model's schema, not {kind}; use schema.pack.")
        steps = _steps(self.model)
        if steps != self._steps:
            self.check(who, self.model)
            self._steps = steps
        return vectors_of(self.model.user_vectors, self.model, users)

    def search(
        self, vectors: np.ndarray, k: int, *, exclude: Any = None, allowed: Any = None, probes: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items for each user vector, float32 (B, D): their rows, int32 (B, k), -1 for none, and scores (B, k).

        Other arguments and errors are those of `query`.

        Example:

        >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
        >>> index = Index.build(kd.models.TwoTower(schema, ["user"], ["item"], temperature=0.5), {"item": [3, 5, 7]})
        >>> rows, scores = index.search(index.vectors(), k=1)
        >>> rows.tolist(), scores.round(4).tolist()
        ([[0], [1], [2]], [[2.0], [2.0], [2.0]])
        """
        who, k = "Index.query", integer("Index.query", "k", k)
        queries, width = np.ascontiguousarray(vectors, np.float32), self.content.vectors["codes"].shape[1]
        if queries.ndim != 2 or queries.shape[1] != width:
            raise ValueError(f"{who}: vectors have shape {queries.shape}; give vectors of the index's width, (B, {width}).")
        hidden = None if exclude is None else self.ids.rows(who, "exclude", exclude)
        if hidden is not None and len(hidden) != len(queries):
            raise ValueError(f"{who}: exclude has {len(hidden)} rows for {len(queries)} users; give one for each.")
        lists = self.content.lists
        if probes is not None and lists is None:
            raise ValueError(f"{who}: probes={probes} is for an index with lists; leave it out, or build it with lists=….")
        count = 0 if lists is None else len(lists.centers)
        probed = self.content.probes if probes is None else integer(who, "probes", probes, high=count)
        only = None if allowed is None else _sorted_rows(self.ids.flat_rows(who, "allowed", allowed))
        if only is not None and not len(only):
            return np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), search.NONE, np.float32)
        if only is not None and hidden is not None:
            places = np.minimum(np.searchsorted(only, hidden), len(only) - 1).astype(np.int32)
            hidden = np.where(only[places] == hidden, places, np.int32(-1))
        # A few allowed items are searched one by one.
        by_list = only is None and probed < count
        parts = [] if by_list else self._tensors() if only is None else list(self._cut(only))
        rows, scores = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
        for start in range(0, len(queries), _QUERIES):
            block = slice(start, start + _QUERIES)
            asked = ops.convert_to_tensor(queries[block])
            # What is not finite gets no item in the end.
            known = ops.where(ops.isfinite(asked), asked, 0.0)
            seen = None if hidden is None or not hidden.shape[1] else ops.convert_to_tensor(hidden[block])
            best = search.nothing(known, k if by_list else search.looked_at(k, self.content.vectors))
            if by_list:
                best = self._probe(best, known, probed, seen)
            for first, arrays in parts:
                best = search.better(best, known, arrays, first, seen)
            if best.rows.shape[1] > k:
                best = search.finished(best, known)
                places = np.maximum(ops.convert_to_numpy(best.rows), 0)
                some = self._arrays(places if only is None else only[places])
                best = search.among(search.nothing(known, k), known, some, best.rows)
            best = search.finished(best, asked)
            scores[block], rows[block] = ops.convert_to_numpy(best.scores), ops.convert_to_numpy(best.rows)
        if only is not None:
            rows = np.where(rows < 0, -1, only[rows])
        return rows, scores / np.float32(self.content.temperature)

    def _tensors(self) -> list[tuple[int, dict[str, Any]]]:
        """The vectors in parts, with the first row of each, as the backend's tensors."""
        if not self._parts:
            self._parts = list(self._cut())
        return self._parts

    def _cut(self, only: np.ndarray | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """The codes of some rows, or of all, in parts, each with the place of its first one."""
        for start in range(0, len(self) if only is None else len(only), _ROWS):
            some = slice(start, start + _ROWS)
            yield start, self._arrays(some if only is None else only[some], search.SCANNED)

    def _probe(self, best: Best, queries: Any, probes: int, hidden: Any) -> Best:
        """The best of the groups whose centers are the best."""
        if not self._lists:
            lists = self.content.lists
            arrays = {"centers": lists.centers, "members": lists.members, **self.content.vectors}  # type: ignore[union-attr]
            self._lists = {name: ops.convert_to_tensor(array) for name, array in arrays.items()}
        return search.probed(best, queries, self._lists, probes, hidden)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index into a folder, which is new, empty, or has an index, which it replaces.

        Files are written aside and renamed, the one that lists them last: after a kill the folder holds the index that it had, or
        all of this one.

        Raises:
            FileExistsError: the folder has something else.
            OSError: the disk is full.

        Example:

        >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
        >>> model = kd.models.TwoTower(schema, ["user"], ["item"])
        >>> Index.build(model, {"item": [3, 5]}).save("items")
        >>> Index.load("items", model)
        Index(2 items × 32, float32)
        """
        save(self.content, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any = None) -> Index:
        """Read an index that `save` wrote.

        Args:
            path: Its folder.
            model: The model that made it, for `query`; on whatever backend.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, of an unknown version of the format, or was made by another model.
        """
        index = cls(load(path), model)
        if model is not None:
            index.check("Index.load", model)
        return index


def vectors_of(tower: Any, model: Any, batch: Mapping[str, Any], rows: int | None = None) -> np.ndarray:
    """Vectors that a tower of a model gives for a packed batch, float32 (B, D); it is filled up to `rows`, one shape for all."""
    arrays = {key: np.asarray(values) for key, values in batch.items()}
    count = row_count(arrays)
    if rows is not None:
        arrays = padded(arrays, rows)
    tensors = {key: ops.convert_to_tensor(values) for key, values in model.narrowing.arrays(arrays).items()}
    return np.asarray(ops.convert_to_numpy(tower(tensors)), np.float32)[:count]


def _check_model(who: str, model: Any) -> None:
    """`TypeError` or `ValueError` for a model that has no towers, or whose batches have more than its columns."""
    if not all(hasattr(model, name) for name in ("item_vectors", "user_vectors", "item_columns", "item_id", "temperature")):
        raise TypeError(f"{who}: expected a kd.models.TwoTower, not {type(model).__name__}.")
    if model.schema.weighted:
        raise ValueError(f"{who}: the schema has weighted=True, and an item has no weights; use a model of a schema without.")


def _steps(model: Any) -> tuple[int, int] | None:
    """A model's optimizer and its number of steps, one of which is another one after a step of training."""
    optimizer = getattr(model, "optimizer", None)
    return None if optimizer is None else (id(optimizer), int(ops.convert_to_numpy(optimizer.iterations)))


def _sorted_rows(rows: np.ndarray) -> np.ndarray:
    return np.unique(rows[rows >= 0])
