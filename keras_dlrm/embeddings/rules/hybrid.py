"""`Hybrid`: one Keras optimizer made of a dense optimizer and a row rule."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.backend.private_keras import batches_of, index_of, rate_of, variables_of
from keras_dlrm.embeddings.lookup import Lookup, is_table
from keras_dlrm.embeddings.rules.accumulation import RowAccumulator
from keras_dlrm.embeddings.rules.follow import RULES, fixed_rate, follow, get
from keras_dlrm.embeddings.rules.rule import RowRule


@keras.saving.register_keras_serializable("keras_dlrm")
class Hybrid(keras.optimizers.Optimizer):
    """Two optimizers in one, which `model.compile(optimizer=…, embedding_optimizer=…)` makes of its two arguments.

    `learning_rate` and `iterations` are those of the dense part. Setting `learning_rate` (as `ReduceLROnPlateau` and
    `LearningRateScheduler` do) sets the row rule's rate, too: the ratio of the two stays what it was at first.
    `clipnorm`, `clipvalue`, weight decay and EMA of the dense optimizer are those of the dense parameters alone;
    `keras.callbacks.SwapEMAWeights` swaps those, and leaves the tables' rows as they are.
    An optimizer that another model trains with already is copied, and starts without that one's slots.

    Args:
        dense: Optimizer of the dense parameters: any Keras optimizer, a row rule, or a name.
        rows: Row rule of the embedding tables; if omitted it follows `dense`.
        ratio: Rate of the rows over that of the dense part; of the rates given, if omitted.
        name: Name of the optimizer.

    Raises:
        TypeError: the dense optimizer is none.
        ValueError: its name is unknown, it clips by the global norm or scales the loss, or no rule follows it.

    Example:

    >>> Hybrid("adam", "rowwise_adagrad").rows.name
    'rowwise_adagrad'
    """

    def __init__(self, dense: Any = "adagrad", rows: Any = None, ratio: float | None = None, name: str = "hybrid") -> None:
        super().__init__(learning_rate=0.0, name=name)
        if isinstance(dense, dict):
            dense = keras.saving.deserialize_keras_object(dense)
        if isinstance(dense, str) and dense.lower() in RULES:
            dense = get(dense)
        self.dense = _optimizer(dense)
        if isinstance(self.dense, keras.optimizers.LossScaleOptimizer) or self.dense.loss_scale_factor:
            raise ValueError("optimizer: loss scaling is not defined on embedding rows; train in mixed_bfloat16, which needs none.")
        if self.dense.global_clipnorm:
            raise ValueError(
                f"optimizer: global_clipnorm={self.dense.global_clipnorm} would leave out the gradients of embedding rows; "
                "use clipnorm, which is per dense parameter, or none."
            )
        steps = getattr(rows, "gradient_accumulation_steps", None)
        if steps and steps != self.dense.gradient_accumulation_steps:
            raise ValueError(
                f"embedding_optimizer: gradient_accumulation_steps={steps}, but the dense optimizer's is "
                f"{self.dense.gradient_accumulation_steps}, and both update in the same steps; set it on the dense optimizer."
            )
        self.rows: RowRule = follow(self.dense) if rows is None else get(rows)
        if self.rows is self.dense:
            self.rows = follow(self.dense)
        rates = fixed_rate(self.rows), fixed_rate(self.dense)
        self.ratio = rates[0] / rates[1] if ratio is None and rates[0] is not None and rates[1] else ratio
        self._refuse_to_drop()
        self.use_ema = self.dense.use_ema
        self._accumulators: list[RowAccumulator] = []
        # Rows of the largest batch that is known to have room in them.
        self.room_for = 0

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        tables = [v for v in variables if is_table(v)]
        others = [v for v in variables if not is_table(v)]
        self.dense, self.rows = own(self.dense, others), own(self.rows, tables)
        self._refuse_to_drop()
        # The rows' updates and step counts are those of the dense part.
        self.rows.gradient_accumulation_steps = self.dense.gradient_accumulation_steps
        self.dense.build(others)
        self.rows.build(tables)
        # The averages are the dense part's; Keras would make others here, of whole tables.
        self.use_ema = False
        super().build(list(variables))
        self.use_ema = self.dense.use_ema

    def _refuse_to_drop(self) -> None:
        """Make loading fail where Keras would warn that it drops a saved state."""
        for part in (self.dense, self.rows):
            part.load_own_variables = functools.partial(_load_all, part)  # type: ignore[method-assign]

    def make_room(self, lookups: Sequence[int]) -> None:
        """Make the variables that accumulate gradients of rows, if that was asked for and they are not there.

        `lookups` has the most rows that a batch looks up in each table. `ValueError` where the variables are for smaller batches.
        """
        steps = self.dense.gradient_accumulation_steps
        if not steps:
            return
        for have, need in zip(self._accumulators, lookups, strict=False):
            have.check_room(need)
        if not self._accumulators:
            tables = variables_of(self.rows)
            # Of the rows' optimizer, so that they are saved and carried with its slots.
            self._accumulators = [RowAccumulator(self.rows, table, steps, n) for table, n in zip(tables, lookups, strict=True)]

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Update all variables from dense gradients, the tables' included."""
        if self.dense.gradient_accumulation_steps:
            raise ValueError(
                "optimizer: gradient_accumulation_steps works on embedding rows in kd.models.SparseModel and the models of "
                "this package; a stock keras.Model hands over gradients of whole tables."
            )
        variables = list(variables_of(self) if trainable_variables is None else trainable_variables)
        self.build(variables)
        pairs = list(zip(grads, variables, strict=True))
        self.apply_dense([p for p in pairs if not is_table(p[1])])
        for gradient, table in pairs:
            if is_table(table) and gradient is not None:
                self.rows.update_step(gradient, table, self.rows.learning_rate)
        self.rows.advance()

    def apply_rows(self, grads: Sequence[Any], variables: Sequence[Any], lookups: Sequence[Lookup], row_grads: Any) -> None:
        """Update dense variables from their gradients, and of the tables only the rows that were looked up.

        A variable that took no part has the gradient `None`; `row_grads` has the gradient (n, D) of each lookup's rows.
        """
        steps = self.dense.gradient_accumulation_steps
        place = batches_of(self.dense) % steps if steps else None
        self.apply_dense(list(zip(grads, variables, strict=True)))
        by_table: dict[int, list[tuple[Lookup, Any]]] = {}
        for lookup, gradient in zip(lookups, row_grads, strict=True):
            # A lookup that the loss does not use: rows were touched all the same, as JAX sees it.
            gradient = ops.zeros_like(lookup.rows) if gradient is None else backend.densify(gradient)
            by_table.setdefault(id(lookup.table), []).append((lookup, gradient))
        for group in by_table.values():
            ids, gradient = group[0][0].ids, group[0][1]
            table, rows = group[0][0].table, group[0][0].rows
            if len(group) > 1:
                # The table was looked up more than once in the step: one row may have several gradients.
                ids, index = backend.unique(ops.concatenate([lookup.ids for lookup, _ in group]), table.shape[0])
                gradient = backend.sum_by(ops.concatenate([g for _, g in group]), index, ops.shape(ids)[0])
                rows = None
            if table.sum_copies is not None:
                most = sum(lookup.asked for lookup, _ in group)
                (ids, gradient), rows = table.sum_copies(table, ids, gradient, most), None
            if steps:
                accumulator = self._accumulators[index_of(self.rows, table)]
                accumulator.add(ids, gradient, place)
                (ids, gradient), rows = accumulator.mean(ops.equal(place, steps - 1)), None
            self.rows.update_rows(table, ids, gradient, rows)
        self.rows.advance()

    def apply_dense(self, pairs: list[tuple[Any, Any]]) -> None:
        """Update dense variables from `(gradient, variable)` pairs; a gradient of `None` took no part."""
        used = [(g, v) for g, v in pairs if g is not None]
        if used:
            self.dense.apply([g for g, _ in used], [v for _, v in used])
        else:
            batches_of(self.dense).assign_add(1)

    @property
    def inner_optimizer(self) -> Any:
        """The dense part, where `keras.callbacks.SwapEMAWeights` looks for averages. Rows have none."""
        return self.dense

    @property
    def variables(self) -> list[Any]:
        return [*self.dense.variables, *self.rows.variables]

    @property
    def iterations(self) -> Any:
        return self.dense.iterations

    @property
    def learning_rate(self) -> Any:
        return self.dense.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if not isinstance(rate_of(self.rows), keras.Variable):
            raise TypeError("optimizer: the row rule's learning_rate is a schedule, which cannot be set; compile again.")
        if callable(value) or self.ratio is None:
            raise ValueError(
                f"optimizer: learning_rate={value!r} cannot be set: the row rule's rate keeps its ratio to the dense one, which "
                f"{'has no value for a schedule' if callable(value) else 'was 0 at first'}; compile again."
            )
        self.dense.learning_rate = value
        self.rows.learning_rate = float(ops.convert_to_numpy(value)) * self.ratio

    @property
    def rate(self) -> float | None:
        """The dense part's learning rate as it is now; `None` of a schedule."""
        return fixed_rate(self.dense)

    def save_own_variables(self, store: Any) -> None:
        # Keras saves the two parts, which are attributes; here they would be written a second time.
        if self._accumulators:
            store["room"] = np.array([accumulator.lookups for accumulator in self._accumulators])

    def load_own_variables(self, store: Any) -> None:
        if "room" in set(store.keys()):
            self.make_room([int(n) for n in np.asarray(store["room"])])

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        others = [v for v in var_list if not is_table(v)]
        self.dense.finalize_variable_values(others)
        if self.dense.use_ema:
            # On JAX Keras makes one array of a parameter and its average, and then fails in the next fit, which gives both
            # up to be written over (Keras 3.15.1, also of a keras.Sequential).
            for variable in others:
                variable.assign(ops.copy(variable.value))

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dense": keras.saving.serialize_keras_object(self.dense),
            "rows": keras.saving.serialize_keras_object(self.rows),
            "ratio": self.ratio,
        }


def _optimizer(identifier: Any) -> Any:
    try:
        optimizer = keras.optimizers.get(identifier)
    except ValueError as error:
        if isinstance(identifier, dict):
            raise
        kind = ValueError if isinstance(identifier, str) else TypeError
        raise kind(
            f"optimizer={identifier!r} is unknown; use one of {sorted(RULES)}, the name of a Keras optimizer, or an optimizer."
        ) from error
    if optimizer is None:
        raise TypeError(f"optimizer=None: give one of {sorted(RULES)}, the name of a Keras optimizer, or an optimizer.")
    return optimizer


def _load_all(optimizer: Any, store: Any) -> None:
    saved, known = len(store.keys()), len(optimizer.variables)
    if saved != known:
        raise ValueError(
            f"optimizer {optimizer.name!r} has {known} variables here and {saved} in the file, so its state would be lost: other "
            "parts are frozen than when the model was saved, or its layers are not built. Freeze the same parts, make all layers "
            "in __init__, or load with keras.saving.load_model(path, compile=False) and compile with a fresh optimizer."
        )
    type(optimizer).load_own_variables(optimizer, store)


def own(optimizer: Any, variables: Sequence[Any]) -> Any:
    """The optimizer, or a fresh copy of one that was built with another model's variables."""
    known = {id(v) for v in variables_of(optimizer)} if optimizer.built else None
    if known is None or all(id(v) in known for v in variables):
        return optimizer
    return type(optimizer).from_config(optimizer.get_config())
