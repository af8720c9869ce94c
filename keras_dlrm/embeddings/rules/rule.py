"""`RowRule`, the base of all row rules: slots per table, one update for rows and dense variables."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.backend.private_keras import batches_of, check_known, index_of, layout_of
from keras_dlrm.embeddings.huge_pages import use_huge_pages
from keras_dlrm.embeddings.lookup import is_table, replace_rows, rows_between
from keras_dlrm.embeddings.rules.rounding import round_stochastically
from keras_dlrm.support.arguments import number


class RowRule(keras.optimizers.Optimizer):
    """An optimizer as a pure function of rows: `(rows, gradient, slots) → (rows, slots)`.

    The same function updates the looked-up rows of a table and, applied to a whole variable, the dense parameters;
    so a rule can be given for both parts of `compile`. Gradients of repeated ids are summed before the rule sees them.

    Args:
        learning_rate: A number or a `keras.optimizers.schedules.LearningRateSchedule`.
        l2: Adds `l2 · row` to the gradient of each *touched* row: the regularization λ/2 · ‖row‖² of the rows in the
            batch, once per batch however often they occur. Rows that are not looked up do not shrink.
        name: Name of the optimizer.
    """

    #: Arguments besides those of every rule, which the rule keeps as attributes.
    options: tuple[str, ...] = ()

    def __init__(self, learning_rate: Any, l2: float = 0.0, name: str | None = None) -> None:
        who = type(self).__name__
        schedule = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        if not schedule and not callable(learning_rate):
            try:
                learning_rate = float(learning_rate)
            except (TypeError, ValueError):
                raise TypeError(f"{who}: learning_rate={learning_rate!r} must be a number or a LearningRateSchedule.") from None
            if not math.isfinite(learning_rate) or learning_rate < 0:
                raise ValueError(f"{who}: learning_rate={learning_rate} must be finite and >= 0.")
        try:
            super().__init__(learning_rate=learning_rate, name=name)
        except AssertionError as error:  # JAX's word of a value that all processes should have
            raise ValueError(f"{who}: learning_rate is not the same in all processes of this run: {error}") from error
        self.l2 = number(who, "l2", l2)
        self.held_slots: list[dict[str, Any]] = []

    def slots(self, shape: tuple[int, ...], table: bool) -> dict[str, tuple[tuple[int, ...], float]]:
        """Slots of a variable: name → (shape, initial value). A table's slots have its rows as first dimension."""
        raise NotImplementedError

    def update(self, rows: Any, gradient: Any, slots: dict[str, Any], learning_rate: Any, step: Any) -> tuple[Any, dict[str, Any]]:
        """The rule.

        Args:
            rows: (n, D) rows of a table, or a dense variable of any shape.
            gradient: Same shape.
            slots: Slot values of those rows.
            learning_rate: Scalar tensor.
            step: Number of this step, from 1, as a float32 scalar.

        Returns:
            New rows and new slots.
        """
        raise NotImplementedError

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        for variable in variables:
            table = is_table(variable)
            shapes = [shape for shape, _ in self.slots(tuple(variable.shape), table).values()]
            if table and variable.columns_apart and any(len(shape) < 2 for shape in shapes):
                raise ValueError(
                    f"{type(self).__name__}: it has one number for a whole row, but the plan shards a table by columns; shard it "
                    "by rows, or take another row rule."
                )
            slots = {}
            for name, (shape, initial) in self.slots(tuple(variable.shape), table).items():
                path, layout = f"{variable.path}_{name}".replace("/", "_"), _layout_of_slot(variable, len(shape))
                slot = self.add_variable(shape=shape, initializer=_Filled(initial), dtype="float32", name=path, **layout)
                if table and variable.sharded:
                    slot.sharded = True
                if table and backend.can_write():
                    use_huge_pages(slot)
                slots[name] = slot
            if table and variable.host is not None:
                specs = self.slots(tuple(variable.shape), table)
                variable.host.keep({name: (slot, specs[name][1]) for name, slot in slots.items()})
            self.held_slots.append(slots)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a whole variable. Keras calls this for dense parameters."""
        slots = self.held_slots[index_of(self, variable)]
        value = ops.convert_to_tensor(variable)
        new, changed = self._apply_rule(value, backend.densify(gradient), dict(slots), learning_rate)
        if is_table(variable):
            new = _stored(variable.dtype, ops.arange(variable.shape[0], dtype="int32"), new, self.iterations)
        self.assign(variable, ops.cast(new, variable.dtype))
        for name, slot in slots.items():
            self.assign(slot, changed[name])

    def update_rows(self, table: Any, ids: Any, gradient: Any, rows: Any = None) -> None:
        """Update rows of a table and their slots; nothing else is read or written.

        Unique ids are (n,), the gradient of each row, summed over repeats, and the rows, where they are at hand, (n, D).
        """
        check_known(self, table)
        slots = self.held_slots[index_of(self, table)]
        held = {name: backend.gather(slot, ids) for name, slot in slots.items()}
        rows = backend.gather(table, ids) if rows is None else backend.constant(rows)
        rows, changed = self._apply_rule(rows, gradient, held, self.learning_rate)
        backend.scatter(table, ids, _stored(table.dtype, ids, rows, self.iterations))
        for name, slot in slots.items():
            backend.scatter(slot, ids, changed[name])

    def update_values(
        self, rows: Any, ids: Any, gradient: Any, slots: dict[str, Any], learning_rate: Any, iterations: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The rule on values alone, for rows that no Keras variable of this process holds; arguments as of `update_rows`.

        New rows are in the dtype of the old ones. `iterations` counts the steps before this one.
        """
        new, changed = self._apply_rule(rows, gradient, slots, learning_rate, iterations)
        return _stored(rows.dtype, ids, new, iterations), changed

    def _apply_rule(self, rows: Any, gradient: Any, slots: dict[str, Any], learning_rate: Any, iterations: Any = None) -> Any:
        rows = ops.cast(rows, "float32")
        gradient = ops.cast(gradient, "float32")
        if self.l2:
            gradient = gradient + self.l2 * rows
        step = ops.cast((self.iterations if iterations is None else iterations) + 1, "float32")
        slots = {name: ops.convert_to_tensor(slot) for name, slot in slots.items()}
        return self.update(rows, gradient, slots, ops.cast(learning_rate, "float32"), step)

    def advance(self) -> None:
        """Count one step."""
        batches_of(self).assign_add(1)

    def save_own_variables(self, store: Any) -> None:
        if any(getattr(slot, "sharded", False) for slots in self.held_slots for slot in slots.values()):
            raise ValueError(
                f"{type(self).__name__}: a plan shards its slots, of which only a part would be saved; save a checkpoint "
                "(kd.checkpoint.save), and restore it into a model that was built without a plan."
            )
        if not any(_hosted(v) for v in self.variables):
            super().save_own_variables(store)
            return
        for i, variable in enumerate(self.variables):
            hosted = _hosted(variable)
            store[str(i)] = rows_between(variable, 0, variable.host.rows) if hosted else ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        if not any(_hosted(v) for v in self.variables):
            super().load_own_variables(store)
            return
        for i, variable in enumerate(self.variables):
            if _hosted(variable):
                replace_rows(variable, 0, np.asarray(store[str(i)]))
            else:
                variable.assign(store[str(i)])

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        own = {option: getattr(self, option) for option in self.options}
        return {"name": config["name"], "learning_rate": config["learning_rate"], "l2": self.l2, **own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "RowRule":
        config = dict(config)
        if isinstance(config["learning_rate"], dict):  # also in Keras's short form, without a module
            config["learning_rate"] = keras.optimizers.schedules.deserialize(config["learning_rate"], custom_objects)
        return cls(**config)


def _hosted(variable: Any) -> bool:
    """Whether a slot has only the cached rows of host tables."""
    return getattr(variable, "host", None) is not None


def _stored(dtype: Any, ids: Any, rows: Any, step: Any) -> Any:
    """New rows of a table in its dtype."""
    if keras.backend.standardize_dtype(dtype) == "bfloat16":
        return round_stochastically(rows, ids, step)
    return ops.cast(rows, dtype)


def _layout_of_slot(variable: Any, rank: int) -> dict[str, Any]:
    """The layout of a slot: on JAX the rows of a sharded table and of its slots are divided the same way."""
    layout = layout_of(variable)
    if layout is None or not getattr(variable, "sharded", False):
        return {}
    return {"layout": keras.distribution.TensorLayout([layout.axes[0], *[None] * (rank - 1)], layout.device_mesh)}


class _Filled:
    # keras.initializers.Constant multiplies by ones, and TensorFlow 2.21 keeps those: a table's worth of memory. An object, because
    # Keras has JAX compile the method of what fills a large variable that is on several devices.
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        return ops.full(shape, self.value, dtype=dtype)
