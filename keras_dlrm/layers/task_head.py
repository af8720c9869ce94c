"""Heads for several labels: their base, and the shared bottom with a tower for each label."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from keras_dlrm.initializers import new_seed, part_seed
from keras_dlrm.layers.mlp import MLP, MLPOptions, TopMLP
from keras_dlrm.support.arguments import integer, widths


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """Base of the options `tasks=` of a model: what a head for several labels is made of, as plain values."""

    towers: Sequence[int] = ()
    #: The layer that they are the options of.
    head: ClassVar[type["TaskHead"]]

    def __post_init__(self) -> None:
        who = type(self).__name__
        for name, value in list(vars(self).items()):
            checked: Any = widths(who, name, value) if name in ("towers", "expert_mlp") else integer(who, name, value)
            if name == "expert_mlp" and not checked:
                raise ValueError(f"{who}: expert_mlp=[] must have a width at least.")
            object.__setattr__(self, name, checked)

    def config(self) -> dict[str, Any]:
        """The options as plain values."""
        return {"type": type(self).__name__, **vars(self)}

    def layer(self, labels: int, mlp: MLPOptions, **options: Any) -> "TaskHead":
        """The head for so many labels; its networks have a model's activation, dropout, normalization and regularization."""
        return self.head(self, labels, **{**vars(mlp), **options})


class TaskHead(keras.layers.Layer):
    """Base of the heads: a representation (B, n) → logits (B, T), float32, one for each label.

    Args:
        tasks: Options of the head, or a mapping of them.
        labels: Number T of labels.
        units: Not looked at; a head's widths are in its options.
        activation, dropout, batch_norm, kernel_l2: Of its networks, as of `MLP`.
        seed: Seed of the initial weights and of dropout; a fresh one if omitted.
    """

    def __init__(
        self, tasks: Any, labels: int, units: Sequence[int] = (), activation: Any = "relu", dropout: float = 0.0,
        batch_norm: bool = False, kernel_l2: float = 0.0, seed: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.tasks: Any = tasks_of(tasks)
        self.labels = integer(type(self).__name__, "labels", labels)
        self.mlp = MLPOptions((), activation, dropout, batch_norm, kernel_l2, who=type(self).__name__)
        self.seed = new_seed(seed)
        self.towers: list[TopMLP] = []

    def network(self, kind: type[MLP], n: int, units: Sequence[int], name: str, *part: int) -> Any:
        """A network (B, n) → (B, units[-1]), built; `part` numbers the head's networks, for their seeds."""
        options = {**vars(self.mlp), "units": units, "seed": part_seed(self.seed, *part), "dtype": self.dtype_policy}
        layer = kind(**options, name=name)
        layer.build((None, n))
        return layer

    def build_towers(self, n: int) -> None:
        """Make a tower for each label, which maps (B, n) to its logit."""
        units = [*self.tasks.towers, 1]
        self.towers = [self.network(TopMLP, n, units, f"tower_{t}", 0, t) for t in range(self.labels)]

    def logits(self, inputs: Sequence[Any], training: bool | None) -> Any:
        """Each tower's input (B, n) → logits (B, T)."""
        logits = [tower(x, training=training) for tower, x in zip(self.towers, inputs, strict=True)]
        return ops.concatenate(logits, axis=1)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], self.labels)

    def get_config(self) -> dict[str, Any]:
        mlp = {name: value for name, value in self.mlp.config().items() if name != "units"}
        return {**super().get_config(), "tasks": self.tasks.config(), "labels": self.labels, **mlp, "seed": self.seed}


def mixed(gates: Any, experts: Sequence[Any]) -> Any:
    """Gates' logits (B, G, E) and outputs of E experts, (B, m) each → G mixtures (B, G, m), weighted by a softmax."""
    weights = ops.softmax(ops.cast(gates, "float32"), axis=2)
    stacked = ops.stack(list(experts), axis=1)
    return ops.matmul(ops.cast(weights, stacked.dtype), stacked)


@keras.saving.register_keras_serializable("keras_dlrm")
class SharedBottomHead(TaskHead):
    """A tower for each label on the same representation.

    Args:
        tasks, labels, …: Arguments of `TaskHead`.

    Input: (B, n).
    Output: float32 (B, T).

    Source: Caruana 1997, "Multitask Learning".

    Example:

    >>> tuple(SharedBottomHead(SharedBottom(towers=[8]), labels=2)(np.ones((3, 5), "float32")).shape)
    (3, 2)
    """

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.build_towers(int(input_shape[-1] or 0))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.logits([inputs] * self.labels, training)


@dataclasses.dataclass(frozen=True)
class SharedBottom(TaskOptions):
    """Options of `SharedBottomHead`: a tower for each label on one shared representation.

    Without hidden layers that is what a model with several labels has by default: a last layer of one unit each.

    Args:
        towers: Widths of the hidden layers of each label's tower.

    Raises:
        ValueError: a width is not positive.

    Source: Caruana 1997, "Multitask Learning".

    Example:

    >>> schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 10)], label=["click", "like"])
    >>> model = kd.models.DCNv2(schema, 4, deep_mlp=[8], tasks=SharedBottom(towers=[6]))
    >>> model.predict(schema.pack({"x": [0.5], "c": [3]}), verbose=0).shape
    (1, 2)
    """

    head = SharedBottomHead


def tasks_of(tasks: Any) -> TaskOptions:
    """The options of a head, which may come as a mapping with their `type`; `ValueError` for anything else."""
    if isinstance(tasks, TaskOptions):
        return tasks
    kinds = {kind.__name__: kind for kind in TaskOptions.__subclasses__()}
    values = dict(tasks) if isinstance(tasks, Mapping) else {}
    kind = kinds.get(values.pop("type", None))
    known = {} if kind is None else {field.name for field in dataclasses.fields(kind)}
    if kind is None or set(values) - set(known):
        fix = f"give one of {sorted(kinds)} of kd.tasks, or a mapping of its type and options"
        options = f", whose options are {sorted(known)}" if kind is not None else ""
        raise ValueError(f"tasks={tasks!r} is no head for several labels; {fix}{options}.")
    return kind(**values)
