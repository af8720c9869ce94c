"""Two stages of an export: an index and perhaps a second model, their checks, and requests with the live models' answers."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from keras_dlrm.embeddings.lookup import taped
from keras_dlrm.export.requests import Request, expected_probabilities
from keras_dlrm.export.signatures import model_columns, raw_columns
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.retrieval.index import Index, vectors_of
from keras_dlrm.retrieval.two_stage import check_index, check_numbers, check_ranker, pairs, ranked
from keras_dlrm.schema.time_parts import made_columns
from keras_dlrm.support.arguments import integer

#: The input of ids that a user must not get.
EXCLUDE = "exclude"
Entry = tuple[Request, dict[str, np.ndarray], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class TwoStages:
    """An index of a model, and perhaps a second model, as they are exported.

    Args:
        index: The index.
        ranker: The second model, or `None`: there is no `recommend`.
        k: Items of an answer.
        candidates: Items that the second model scores.
        blend: Weight of the index's score in their order.
    """

    index: Index
    ranker: Any
    k: int
    candidates: int
    blend: float

    def check(self, model: Any) -> None:
        """`TypeError` or `ValueError` unless the model is the index's own, and the other arguments fit."""
        check_index("savedmodel", self.index)
        self.index.check("savedmodel", model)
        integer("savedmodel", "k", self.k)
        if self.ranker is not None:
            check_ranker("savedmodel", model.schema, self.ranker)
            check_numbers("savedmodel", self.k, self.candidates, self.blend)

    @property
    def signatures(self) -> tuple[str, ...]:
        """Names of the signatures."""
        return ("retrieve",) if self.ranker is None else ("retrieve", "recommend")

    def described(self) -> dict[str, Any]:
        """Entry of the manifest."""
        content = self.index.content
        about = {"items": len(self.index), "dtype": content.dtype, "fingerprint": content.fingerprint, "k": self.k}
        if self.ranker is None:
            return about
        ranker = {"class": type(self.ranker).__name__, "name": self.ranker.name}
        return {**about, "candidates": self.candidates, "blend": self.blend, "ranker": ranker}

    def requests(
        self, model: Any, raw: Any, request: Request, batch: Mapping[str, np.ndarray], stored: list[StoredTables] | None
    ) -> dict[str, dict[str, Any]]:
        """A request to each signature, with the packed batches that it looks up and the answer that it should get.

        `request` is one by column, raw where there is a preprocessor, and `batch` is what it stands for.
        """
        columns = model_columns(model.schema) if raw is None else raw_columns(raw)
        names = user_inputs(model.schema, model.user_columns)
        ids = self.index.content.ids
        kind = "string" if self.index.ids.none == "" else "int64"
        excluded = [[ids[i % len(ids)], self.index.ids.none] for i in range(len(next(iter(batch.values()))))]
        inputs = {c.input: request[c.input] for c in columns if c.name in names}
        inputs[EXCLUDE] = {"dtype": kind, "values": excluded}
        with taped(None if stored is None else stored[0]):
            vectors = vectors_of(model.user_vectors, model, batch)
        rows, scores = self.index.search(vectors, self.k, exclude=excluded)
        scores = np.maximum(scores, np.finfo(np.float32).min)
        entry = {"inputs": inputs, "examples": False, "user_inputs": [], "batches": [_listed(batch)]}
        entries = {"retrieve": {**entry, "expected": _expected(self.index.ids.at(rows), scores=scores)}}
        if self.ranker is not None:
            best = self.index.search(vectors, self.candidates, exclude=excluded)

            def probabilities(some: Mapping[str, np.ndarray]) -> np.ndarray:
                return expected_probabilities(self.ranker, some, None if stored is None else stored[1])

            answer = ranked(self.index, self.ranker.schema, probabilities, batch, best, self.k, self.blend)
            together = pairs(self.index, self.ranker.schema, batch, best[0])
            entries["recommend"] = {
                **entry, "batches": [_listed(batch), _listed(together)],
                "expected": _expected(answer[0], probabilities=answer[1]),
            }  # fmt: skip
        return entries


def user_inputs(schema: Any, user_columns: Collection[str]) -> set[str]:
    """Names of the columns that a user's are made of: their own, and those of the times that they are parts of."""
    made = {column.name: column.of for column in made_columns(schema)}
    return {made.get(name, name) for name in user_columns}


def _expected(ids: np.ndarray, **numbers: np.ndarray) -> dict[str, Any]:
    return {"ids": ids.tolist(), **{name: array.tolist() for name, array in numbers.items()}}


def _listed(batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {key: np.asarray(values).tolist() for key, values in batch.items()}
