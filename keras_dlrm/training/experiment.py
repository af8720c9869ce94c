"""An experiment as data: one YAML file that reproduces a result."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

# Not Keras and what needs it: an experiment is read and checked before a framework is imported.
from keras_dlrm import data
from keras_dlrm.files.documents import from_yaml, read
from keras_dlrm.files.durable import write
from keras_dlrm.support.arguments import boolean, choice, integer, number, shown
from keras_dlrm.training.model_types import MODELS, check_arguments, is_type, model_class

MONITORS = ("auc", "logloss", "both")
LOSSES = ("binary_crossentropy", "esmm")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model, its optimizers and the rules of training.

    Args:
        model: `{"type": "DLRM", …}`, or another type of `kd.models`, with its arguments besides schema and seed; a type
            `"module:Class"` is a `ClickModel` of one's own, which takes schema, seed, dtype and those arguments.
        optimizer: Of the dense parameters: a name or `{"name": …, "learning_rate": …, …}`. `sgd`, `adagrad`,
            `rowwise_adagrad` and `adam` are the rules of `kd.optimizers`; other names are Keras's. A `learning_rate`
            of `{"warmup_steps": …, …}` is a `WarmupHoldDecay`.
        embedding_optimizer: Row rule of the tables, likewise; follows `optimizer` if omitted.
        batch_size: Rows of a training batch.
        epochs: Most epochs.
        monitor: Validation score that decides on the best model: `"auc"`, `"logloss"`, or `"both"`: AUC minus normalized
            entropy.
        patience: Epochs without a better score before training stops; 0: never.
        lr_factor: Factor on the learning rates after each epoch without a better score; 1: none, as schedules need it.
        label_smoothing: Of the binary cross-entropy, in [0, 1).
        loss: `"binary_crossentropy"`; or `"esmm"` of two labels, the second of which follows the first.
        loss_weights: Weights of labels in the loss by name, where there are several; 1 for others.
        mixed_precision: Whether to compute in bfloat16 (variables, logits and loss stay float32).
        seed: Of initial weights, dropout and the order of the rows.
        checkpoint_steps: Steps between resumable checkpoints within an epoch; each epoch's end is one, too.
        time_budget: Seconds of training and scoring after which it stops, also within an epoch, and the best so far is kept;
            those before a resumed checkpoint count; 0: no end.
        averaging: Decay per step of an exponential moving average of the weights, which is scored and saved in their place;
            0: none.
        calibrate: Whether the best model's logits are shifted to the click rate of the validation part, where the clicks that it
            expects there differ by more than four standard errors; only where there is a test part, and for labels with a bias.
        reasons: Reason for a value by its key, such as `"model.dropout"`; `save` writes them as comments.

    Example:

    >>> Experiment.from_dict({"model": {"type": "DCN"}, "epochs": 3}).override(["model.cross_layers=2"]).model
    {'type': 'DCN', 'cross_layers': 2}
    """

    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"type": "DLRM"})
    optimizer: Any = "adam"
    embedding_optimizer: Any = None
    batch_size: int = 2048
    epochs: int = 1
    monitor: str = "auc"
    patience: int = 2
    lr_factor: float = 1.0
    label_smoothing: float = 0.0
    loss: str = "binary_crossentropy"
    loss_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    mixed_precision: bool = False
    seed: int = 0
    checkpoint_steps: int = 1000
    time_budget: float = 0.0
    averaging: float = 0.0
    calibrate: bool = False
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        kind = self.model.get("type") if isinstance(self.model, Mapping) else None
        if not is_type(kind):
            own = "or of module:Class, a ClickModel of one's own"
            meant = [f"did you mean {name!r}? " for name in MODELS if isinstance(kind, str) and name.lower() == kind.lower()]
            allowed = f"it must be a mapping with a type of {MODELS}, {own}"
            raise ValueError(f"experiment: model={shown(self.model)}: {''.join(meant)}{allowed}.")
        for field, low in (("batch_size", 1), ("epochs", 1), ("patience", 0), ("seed", 0), ("checkpoint_steps", 1)):
            object.__setattr__(self, field, integer("experiment", field, getattr(self, field), low))
        choice("experiment", "monitor", self.monitor, MONITORS)
        choice("experiment", "loss", self.loss, LOSSES)
        if not isinstance(self.loss_weights, Mapping):
            fix = "must be a mapping by label, such as {like: 0.5}"
            raise ValueError(f"experiment: loss_weights={shown(self.loss_weights)} {fix}.")
        if self.loss == "esmm" and self.label_smoothing:
            raise ValueError(f"experiment: label_smoothing={self.label_smoothing} is not of loss='esmm'; leave it out.")
        if not isinstance(self.lr_factor, (int, float)) or not 0 < self.lr_factor <= 1:
            raise ValueError(f"experiment: lr_factor={shown(self.lr_factor)} must be in (0, 1].")
        object.__setattr__(self, "label_smoothing", number("experiment", "label_smoothing", self.label_smoothing, below=1))
        object.__setattr__(self, "time_budget", number("experiment", "time_budget", self.time_budget))
        object.__setattr__(self, "averaging", number("experiment", "averaging", self.averaging, below=1))
        for field in ("mixed_precision", "calibrate"):
            object.__setattr__(self, field, boolean("experiment", field, getattr(self, field)))
        for field in ("optimizer", "embedding_optimizer"):
            self._check_optimizer(field, getattr(self, field))

    def _check_optimizer(self, field: str, spec: Any) -> None:
        if spec is None and field == "embedding_optimizer":
            return
        name = spec.get("name") if isinstance(spec, Mapping) else spec
        if not isinstance(name, str) or not name:
            mapping = "a mapping with a name, such as {name: adagrad, learning_rate: 0.02}"
            raise ValueError(f"experiment: {field}={shown(spec)} must be a name, such as adagrad, or {mapping}.")
        rate = spec.get("learning_rate") if isinstance(spec, Mapping) else None
        if isinstance(rate, (int, float)):
            number("experiment", f"{field}.learning_rate", rate)
        if isinstance(rate, Mapping) and self.lr_factor < 1:
            schedule = f"{field}.learning_rate={shown(dict(rate))}, which is a schedule"
            fix = "set lr_factor=1, or give one number as the learning rate."
            raise ValueError(f"experiment: lr_factor={self.lr_factor} cannot lower {schedule}; {fix}")

    @classmethod
    def from_dict(cls, data: Any) -> Experiment:
        """Inverse of `to_dict`. An unknown key is an error that names it."""
        if not isinstance(data, Mapping):
            raise ValueError(f"experiment: expected a mapping, not {shown(data)}.")
        known = [f.name for f in dataclasses.fields(cls) if f.name != "reasons"]
        for key in data:
            if key not in known:
                raise ValueError(f"experiment: unknown key {shown(key)}; known are {known}.")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, defaults included; the reasons are not among them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "reasons"}

    @classmethod
    def load(cls, path: str | Path) -> Experiment:
        """Read a YAML file."""
        content = read(path, "an experiment")
        try:
            return cls.from_dict(content or {})
        except ValueError as error:
            raise ValueError(f"experiment file {path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write a YAML file."""
        outer, lines = "", []
        for line in yaml.safe_dump(self.to_dict(), sort_keys=False).splitlines():
            key = line.strip().partition(":")[0]
            if not line.startswith((" ", "-")):
                outer = key
            reason = self.reasons.get(key if key == outer else f"{outer}.{key}")
            lines.append(f"{line}  # {reason}" if reason else line)
        write(path, "\n".join(lines) + "\n")

    def override(self, assignments: Sequence[str] | Mapping[str, Any]) -> Experiment:
        """A copy with other values of some keys, such as `batch_size` and `model.dropout`.

        `model.embedding_dim` and the last width of `model.bottom_mlp` follow each other; several widths have no first order.

        Args:
            assignments: Values by key; or texts `key=value`, whose values are read as YAML.
        """
        data = self.to_dict()
        changes = assignments.items() if isinstance(assignments, Mapping) else [_assigned(text) for text in assignments]
        for key, value in changes:
            *outer, last = key.split(".")
            target: Any = data
            for part in outer:
                if key.startswith("embedding_optimizer.") and target.get(part) is None and last != "name":
                    target[part] = copy.deepcopy(data["optimizer"])  # which it follows
                if target.get(part) is None or isinstance(target[part], str):
                    target[part] = {"name": target[part]} if isinstance(target.get(part), str) else {}
                target = target[part]
                if not isinstance(target, dict):
                    raise ValueError(f"experiment: {key[:200]!r} cannot be set: {part!r} has no parts.")
            target[last] = value
        keys = {key for key, _ in changes}
        if "model" not in keys:
            _fit_widths(data["model"], keys)
        reasons = {key: why for key, why in self.reasons.items() if not any(f"{key}.".startswith(f"{c}.") for c in keys)}
        if "averaging" in reasons and (data["model"].get("embedding_options") or {}).get("host"):  # it was a recipe's choice
            data["averaging"], reasons["averaging"] = 0.0, "host tables have no averages"
        return dataclasses.replace(type(self).from_dict(data), reasons=reasons)

    def resolved(self, model: Any) -> Experiment:
        """The experiment with what a model that it built uses by default: the model's arguments and learning rates.

        It builds the same model. An embedding optimizer that follows the other still does.
        """
        others = ("name", "schema", "seed", "dtype", "frozen")
        options = {name: value for name, value in model.get_config().items() if name not in others}
        rows = self.embedding_optimizer and _with_rate(self.embedding_optimizer, model.optimizer.rows)
        values = json.loads(json.dumps({"type": self.model["type"], **options}))  # tuples are lists in YAML, too
        return dataclasses.replace(
            self, model=values, optimizer=_with_rate(self.optimizer, model.optimizer.dense), embedding_optimizer=rows
        )

    def build(self, schema: Any, seed: int | None = None) -> Any:
        """The compiled model.

        Args:
            schema: A fitted `Schema`.
            seed: Instead of the experiment's.
        """
        import keras

        from keras_dlrm import losses, metrics

        options = dict(self.model)
        kind, dtype = options.pop("type"), "mixed_bfloat16" if self.mixed_precision else "float32"
        check_arguments(self.model)
        try:
            model = model_class(kind)(schema, seed=self.seed if seed is None else seed, dtype=dtype, **options)
        except TypeError as error:
            raise ValueError(f"experiment: model {kind}: {error}") from error
        if model.host_tables and self.averaging:
            fix = "averages are copies of whole tables, and the model has host tables. Set averaging=0, or leave host out."
            raise ValueError(f"experiment: averaging={self.averaging}: {fix}")
        if model.open_collections and self.averaging:
            fix = "an average of a row would mix the ids that an open vocabulary gives it. Set averaging=0, or leave open out."
            raise ValueError(f"experiment: averaging={self.averaging}: {fix}")
        rule = self.embedding_optimizer and _optimizer("embedding_optimizer", self.embedding_optimizer)
        loss = losses.ESMM() if self.loss == "esmm" else keras.losses.BinaryCrossentropy(label_smoothing=self.label_smoothing)
        scores = [keras.metrics.AUC(name="auc"), metrics.LogLoss(name="logloss")]
        model.compile(
            optimizer=_optimizer("optimizer", self.optimizer), embedding_optimizer=rule, loss=loss,
            metrics=[*scores, metrics.NormalizedEntropy(name="ne")],
            count_out_of_range=not model.host_tables,  # in their steps there are places of rows, not ids
            **({"loss_weights": self.loss_weights} if self.loss_weights else {}),
        )  # fmt: skip
        return model


def _fit_widths(model: dict[str, Any], keys: Collection[str]) -> None:
    """Fit arguments of a model that are not among `keys`, which were set, to those that are."""
    width, bottom = model.get("embedding_dim"), model.get("bottom_mlp")
    of_dim, of_mlp = (f"model.{name}" in keys for name in ("embedding_dim", "bottom_mlp"))
    if of_dim and model.get("first_order") and not isinstance(width, int) and "model.first_order" not in keys:
        model["first_order"] = False
    if of_dim == of_mlp or not isinstance(bottom, list) or not bottom:
        return
    if of_dim:
        bottom[-1] = max(width.values(), default=bottom[-1]) if isinstance(width, dict) else width
    elif isinstance(width, int):
        model["embedding_dim"] = bottom[-1]


def _assigned(assignment: str) -> tuple[str, Any]:
    """Key and value of `key=value`."""
    key, equals, value = assignment.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {assignment[:200]!r}: expected key=value, such as model.embedding_dim=8.")
    try:
        return key, from_yaml(value)
    except ValueError as error:
        raise ValueError(f"--set {assignment[:200]!r}: {error} Mind brackets and quotes.") from None


def _with_rate(spec: Any, optimizer: Any) -> Any:
    """An optimizer's specification with the rate that it has by default."""
    if isinstance(spec, Mapping) and "learning_rate" in spec:
        return spec
    return {**({"name": spec} if isinstance(spec, str) else spec), "learning_rate": float(f"{float(optimizer.learning_rate):.7g}")}


def _optimizer(field: str, spec: Any) -> Any:
    """An optimizer from a name or `{"name": …, "learning_rate": …}`; `field` of the experiment holds it."""
    import keras

    from keras_dlrm.embeddings.rules.follow import RULES

    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name")
    if "learning_rate" in options:
        options["learning_rate"] = _learning_rate(f"{field}.learning_rate", options["learning_rate"])
    if name not in RULES and not _is_keras_optimizer(name):
        known = f"one of {sorted(RULES)}, or the name of a Keras optimizer"
        raise ValueError(f"experiment: {field}={shown(name)} is unknown; use {known}.")
    try:
        if name in RULES:
            return RULES[name](**options)
        return keras.optimizers.get({"class_name": name, "config": options})
    except (TypeError, ValueError) as error:
        raise ValueError(f"experiment: {field} {name!r}: {error}") from error


def _learning_rate(field: str, rate: Any) -> Any:
    """A number, or the schedule that a mapping describes."""
    if isinstance(rate, Mapping):
        from keras_dlrm.schedules import WarmupHoldDecay

        try:
            return WarmupHoldDecay(**rate)
        except (TypeError, ValueError) as error:
            raise ValueError(f"experiment: {field}={shown(dict(rate))}: {error}") from None
    try:
        return float(rate)
    except (TypeError, ValueError):
        allowed = "a number, or the arguments of WarmupHoldDecay as a mapping"
        raise ValueError(f"experiment: {field}={shown(rate)} must be {allowed}.") from None


def _is_keras_optimizer(name: str) -> bool:
    import keras

    try:
        with contextlib.suppress(TypeError):  # it needs arguments
            keras.optimizers.get(name)
    except ValueError:
        return False
    return True


# The built-in default: DLRM on a planted log of Criteo's shape, scaled down.
SCALE = 1e-4
ROWS = {"train": 1_000_000, "valid": 50_000, "test": 100_000}
EXPERIMENT = Experiment(
    model={"type": "DLRM", "embedding_dim": 16, "bottom_mlp": [64, 16], "top_mlp": [128, 64, 1], "init_scale": 0.01},
    # 1,954 steps in two epochs: the rate falls to zero over them.
    optimizer={
        "name": "adam",
        "learning_rate": {"learning_rate": 0.005, "warmup_steps": 50, "decay_start_step": 50, "decay_steps": 1904},
    },
    batch_size=1024,
    epochs=2,
)


def planted_log(directory: Path, console: Console | None = None) -> Any:
    """The planted log in a directory, written once: a `ClickLog` whose `best` is what the best possible model reaches."""
    if not directory.exists():
        if console is not None:
            console.print(f"writing a planted click log of {sum(ROWS.values()):,} rows to {directory}", highlight=False)
        schema = data.synthetic.criteo_shape(SCALE)
        directory.parent.mkdir(parents=True, exist_ok=True)
        data.synthetic.PlantedClickLog(schema, seed=0).write(directory, rows=ROWS)
    return data.open(directory)
