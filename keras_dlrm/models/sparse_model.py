"""`SparseModel`: training that updates only the looked-up rows of tables."""

import functools
import inspect
from typing import Any

import keras
from keras import ops

from keras_dlrm import backend
from keras_dlrm.backend.private_keras import (
    Functional,
    OpenFunctional,
    has_compiled_metrics,
    layers_in,
    loss_tracker,
    variables_of,
)
from keras_dlrm.checkpoint.state import of_training, value_of
from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.inputs import Narrowing, check_dense, is_dense
from keras_dlrm.embeddings.lookup import CountingTape, is_table, taped
from keras_dlrm.embeddings.rules.hybrid import Hybrid, own
from keras_dlrm.embeddings.sparse_core.tpu_embedding import rule_of
from keras_dlrm.losses.in_batch_softmax import InBatchSoftmax
from keras_dlrm.models.checked_training import CheckedTraining
from keras_dlrm.models.saved import Saved
from keras_dlrm.sharding.part import Part
from keras_dlrm.step.batch import PartOfBatch, WholeBatch

OMITTED = type("Omitted", (), {"__repr__": lambda self: "the model's own"})()


class SparseTraining(Saved, CheckedTraining):
    """A `keras.Model` with an optimizer for rows and the sparse train step."""

    #: Whether `fit` ends with an error when the loss or a weight is NaN or infinite; to be set on a model.
    stops_when_not_finite = True

    # "alone" where no other process takes part, "checked" where they are told the same.
    _known_alike = ""

    #: What `compile` takes for the loss if it is omitted.
    default_loss: Any = None

    def compile(
        self, optimizer: Any = "adagrad", loss: Any = OMITTED, metrics: Any = None, embedding_optimizer: Any = None,
        count_out_of_range: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        """Configure training.

        Args:
            optimizer: Optimizer of the dense parameters: a Keras optimizer, a rule of `kd.optimizers`, or a name.
                `"sgd"`, `"adagrad"`, `"rowwise_adagrad"` and `"adam"` are the rules of `kd.optimizers`.
            loss: As `keras.Model.compile` takes it; if omitted, the binary cross-entropy in the models of `kd.models`, none in
                others. In the models of `kd.models` it is a loss on p(click). Keras's own binary cross-entropies, plain and
                focal, are computed from the logits there, with or without `from_logits`; every other loss, whatever it is
                called or inherits from, sees p(click).
            metrics: As `keras.Model.compile` takes them.
            embedding_optimizer: Row rule of the embedding tables; if omitted, that of the model's `TPUEmbedding`, or else it
                follows `optimizer`.
            count_out_of_range: Whether logs of a model of `kd.models` get `ids_out_of_range`: ids so far in the epoch that are
                neither padding nor in their column's vocabulary.
            **kwargs: As `keras.Model.compile` takes them.

        Raises:
            ValueError: a loss without reduction, no row rule follows `optimizer`, an option is not defined on rows, or a
                `TPUEmbedding` has another rule.
        """
        if not isinstance(optimizer, Hybrid):
            embedding_optimizer = rule_of(layers_in(self), embedding_optimizer)
            optimizer = Hybrid(optimizer, embedding_optimizer)
        elif embedding_optimizer is not None:
            raise ValueError("compile: embedding_optimizer was given alongside a Hybrid optimizer, which has its own.")
        elif self.built:
            optimizer = own(optimizer, self.trainable_variables)
        if self.compute_dtype == "float16":
            raise ValueError(
                f"compile: {self.name} computes in float16, which needs loss scaling, and that is not defined on embedding "
                "rows; use mixed_bfloat16."
            )
        loss, metrics, kwargs = self.of_outputs(self.default_loss if loss is OMITTED else loss, metrics, kwargs)
        for each in keras.tree.flatten(loss):
            if isinstance(each, keras.losses.Loss) and each.reduction in (None, "none"):
                raise ValueError(f"compile: loss {each.name!r} has no reduction, and training needs one number; give \"sum\".")
        self._jit_compile_asked = kwargs.get("jit_compile", "auto")
        if self.sharded and metrics is not None:
            from keras_dlrm.sharding import collectives  # not loaded by programs of one process

            if not collectives.CUTS_ROWS:  # rows that fill up a part of a batch have weight 0, which plain metrics would not see
                kwargs["weighted_metrics"] = [*_listed(metrics), *_listed(kwargs.get("weighted_metrics"))]
                metrics = None
        if self.host_tables:
            self._check_host_tables(optimizer, loss, count_out_of_range)
        loss, computed = self.loss_to_compute(loss)
        if inspect.isclass(computed):  # Keras takes it, but could not save it
            loss = computed = computed()
        self.count_ids(count_out_of_range)
        self._known_alike = ""
        super().compile(optimizer=optimizer, loss=computed, metrics=metrics, **kwargs)
        if computed is not loss:
            self.loss = loss  # what was given
        self.check_compiled(keras.tree.flatten([metrics, kwargs.get("weighted_metrics")]))
        if self.sharded:
            from keras_dlrm.sharding import everyone

            # Before variables are made, which on JAX all processes make together.
            everyone.require_alike(self.name, of_training(self))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def _check_host_tables(self, optimizer: Hybrid, loss: Any, count_out_of_range: bool) -> None:
        reasons = {
            "count_out_of_range=True: a step sees places of rows, not ids": count_out_of_range,
            "gradient_accumulation_steps: rows move between batches": optimizer.dense.gradient_accumulation_steps,
            "loss=InBatchSoftmax, which looks up items that are not in the batch": isinstance(loss, InBatchSoftmax),
        }
        for reason, here in reasons.items():
            if here:
                raise ValueError(f"compile: {self.name} has host tables, which do not work with {reason}; leave it out.")

    def of_outputs(self, loss: Any, metrics: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Loss, metrics and further arguments of `compile` as they are for what the model predicts."""
        return loss, metrics, options

    def loss_to_compute(self, loss: Any) -> tuple[Any, Any]:
        """A loss as it is kept and saved, and the one that is computed of it."""
        return loss, loss

    def count_ids(self, count_out_of_range: bool) -> None:
        """Begin, or end, to count ids that are out of range."""
        if count_out_of_range:
            raise ValueError(f"compile: count_out_of_range is for the models of kd.models, not for {type(self).__name__}.")

    def check_training(self, x: Any, batch_size: int | None = None, batch: Any = None) -> None:
        self._check_trainable()
        self._check_alike(x)
        if batch is not None:
            x, batch_size = batch, len(keras.tree.flatten(batch)[0])
        self.make_room(x, batch_size)

    def _check_trainable(self) -> None:
        """Refuse what Keras only warns of: on each backend something else would be trained."""
        if not self.compiled or not self.optimizer.built:
            return
        known = {id(v): v.path for v in variables_of(self.optimizer)}
        now = {id(v): v.path for v in self.trainable_variables}
        for ours, theirs, change in ((known, now, "frozen"), (now, known, "unfrozen")):
            changed = [path for key, path in ours.items() if key not in theirs]
            if changed:
                raise ValueError(
                    f"{self.name}: {changed[0]!r} was {change} after compile, which made the optimizer for the variables that "
                    "were trainable then; set trainable first, and compile again."
                )

    def _check_alike(self, x: Any = None) -> None:
        """Before the first step after `compile`: all processes are told the same, and start with the same weights.

        And always: they are given rows of the same columns, and as many batches. `ValueError` in all where one differs.
        """
        if self._known_alike == "alone" or (self._known_alike and x is None) or not self.compiled:
            return
        if not self.shared:
            self._known_alike = "alone" if self.built else ""
            return
        from keras_dlrm.sharding import everyone

        if not self._known_alike:
            everyone.require_alike(self.name, of_training(self))
            if self.built and not self.in_replicas:  # replicas start with the weights of the first
                copies = [v for v in self.weights if not getattr(v, "sharded", False)]
                name = everyone.first_that_differs((v.path, value_of(v)) for v in copies)
                if name is not None:
                    raise ValueError(
                        f"{self.name}: {name} is not the same in all processes, so that they would train different "
                        "models. Build the model after kd.sharding.start(), the same way in all of them, with the same "
                        "seeds if any."
                    )
            self._known_alike = "checked" if self.built else ""
        if isinstance(x, Part):
            schema = getattr(x.dataset, "schema", None)
            everyone.require_alike(self.name, {"data": {"schema": schema and schema.to_dict(), "batches": len(x)}})

    def make_room(self, x: Any, batch_size: int | None = None) -> None:
        """Make the optimizer's variables that accumulate gradients of rows over batches, where it does.

        `ValueError` where the data `x` of `fit` do not show the size of their batches.
        """
        if self.optimizer is None or not self.optimizer.dense.gradient_accumulation_steps:
            return
        if self.collections_before_steps:
            raise ValueError(
                f"{self.name}: gradient_accumulation_steps would add gradients to rows that have another id by then, as open "
                "vocabularies and tables on the host give them; leave it out, or take larger batches."
            )
        batch = _first_batch(x, batch_size)
        if not self.built:
            raise ValueError(
                f"{self.name}: gradient_accumulation_steps needs a model that is built; call it on a batch before fit."
            )
        rows = len(keras.tree.flatten(batch)[0])
        if rows <= self.optimizer.room_for:
            return  # A forward pass that counts is not for every batch.
        self.optimizer.build(self.trainable_variables)
        with taped(CountingTape()) as tape:
            self(batch, training=False)
        tables = [v for v in self.trainable_variables if is_table(v)]
        self.optimizer.make_room([tape.rows.get(id(table), 1) for table in tables])
        self.optimizer.room_for = rows

    @property
    def narrowing(self) -> Narrowing:
        return Narrowing([layer.schema for layer in layers_in(self) if isinstance(layer, EmbeddingCollection)])

    @property
    def collections_before_steps(self) -> list[Any]:
        return [layer for layer in layers_in(self) if isinstance(layer, EmbeddingCollection) and layer.before_steps]

    @property
    def sharded(self) -> bool:
        return any(isinstance(layer, EmbeddingCollection) and layer.sharded for layer in layers_in(self))

    @property
    def shared(self) -> bool:
        """Whether other processes take part in its training."""
        if self.in_replicas:
            from keras_dlrm.sharding import collectives as backend

            return bool(backend.process_count() > 1)
        return self.sharded

    def part_of_step(self, x: Any, sample_weight: Any) -> WholeBatch:
        alone = not (self.sharded or self.in_replicas)
        return WholeBatch(sample_weight) if alone else PartOfBatch(self, x, sample_weight)

    @property
    def kept_of_rows(self) -> list[Any]:
        # Replicas of a strategy do so themselves. A change is what is added up, so that constants among these stay as they are.
        if self.in_replicas or not self.sharded:
            return []
        kept = [v for v in self.non_trainable_variables if not is_table(v)]
        return [v for v in kept if keras.backend.is_float_dtype(keras.backend.standardize_dtype(v.dtype))]

    def loss_and_prediction(self, x: Any, y: Any, part: WholeBatch, training: bool) -> tuple[Any, Any]:
        y_pred = self(x, training=training)
        # Keras's own call of `compute_loss`, which may be overridden without `training`.
        return self.loss_of_step(x, y, y_pred, part.sample_weight, training), y_pred

    def update_metrics(self, x: Any, y: Any, y_pred: Any, part: WholeBatch, loss: Any) -> dict[str, Any]:
        rows, sample_weight = part.rows, part.sample_weight
        if sample_weight is not None and getattr(self.loss, "reduction", None) == "mean_with_sample_weight":
            # Rows without weight, such as those that pad a last batch, are not in this mean.
            rows = part.sum([ops.sum(sample_weight)])[0]
        elif rows is None:
            rows = ops.shape(keras.tree.flatten(x)[0])[0]
        loss_tracker(self).update_state(loss, sample_weight=rows)
        if has_compiled_metrics(self):
            y, y_pred, sample_weight = part.gather(y, y_pred)
        return dict(self.compute_metrics(x, y, y_pred, sample_weight=sample_weight))


@keras.saving.register_keras_serializable("keras_dlrm")
class SparseModel(SparseTraining):
    """`keras.Model`, functional or subclassed, for models of your own with an `EmbeddingCollection`.

    Its training step costs what the batch looks up, whatever the size of the tables, and each row gets the sum of its
    gradients in the batch. A stock `keras.Model` with an `EmbeddingCollection` trains to the same weights where the
    optimizer is SGD or Adagrad, but reads and writes whole tables at every step.

    Args:
        inputs: Inputs of a functional model, as in `keras.Model(inputs, outputs)`.
        outputs: Its outputs.
        **kwargs: `name` and the like.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("C1", 10), kd.Categorical("C2", 5)])
    >>> ids = keras.Input((2,), dtype="int32")
    >>> pooled = kd.layers.EmbeddingCollection(schema, 4, concatenate=True)(ids)
    >>> model = SparseModel(ids, keras.layers.Dense(1, activation="sigmoid")(pooled))
    >>> model.compile("adagrad", loss="binary_crossentropy")
    >>> len(model.fit(np.array([[1, 2], [1, 3]]), np.array([0, 1]), verbose=0).history["loss"])
    1
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is SparseModel:
            functional = len(args) + ("inputs" in kwargs) + ("outputs" in kwargs) >= 2
            return super().__new__(FunctionalSparseModel if functional else cls)
        # A class without a `call` of its own can only be functional.
        if not issubclass(cls, Functional) and cls.call is keras.Model.call:
            model_class: Any = cls
            cls = _functional(model_class)
        return super().__new__(cls)


@keras.saving.register_keras_serializable("keras_dlrm")
class FunctionalSparseModel(SparseModel, OpenFunctional):
    """Functional `SparseModel`, which `SparseModel(inputs, outputs)` makes."""

    exported_by_us = True

    def checked_inputs(self, inputs: list[Any]) -> list[Any]:
        narrowing = self.narrowing
        for k, (x, of) in enumerate(zip(inputs, self.inputs, strict=False)):
            if x is None:
                continue
            integer = "int" in keras.backend.standardize_dtype(of.dtype)
            if integer and not of.sparse and not of.ragged:
                check_dense(f"{self.name}: input {of.name!r}", x)
                if "int" not in keras.backend.standardize_dtype(x.dtype):
                    raise TypeError(
                        f"{self.name}: input {of.name!r} has dtype {keras.backend.standardize_dtype(x.dtype)}; it must be integer, "
                        f"as its Input is {of.dtype}."
                    )
            if len(of.shape) == 2 and of.shape[1] is not None and is_dense(x):
                x = backend.with_width(x, of.shape[1])
            inputs[k] = narrowing.tensor(x) if integer and keras.backend.standardize_dtype(of.dtype) == "int32" else x
        return inputs


def _listed(metrics: Any) -> list[Any]:
    return list(metrics) if isinstance(metrics, (list, tuple)) else [] if metrics is None else [metrics]


def _first_batch(x: Any, batch_size: int | None) -> Any:
    """The inputs of a batch that is as large as they become."""
    if isinstance(x, keras.utils.PyDataset):
        return keras.utils.unpack_x_y_sample_weight(x[0])[0]
    if hasattr(x, "element_spec") or hasattr(x, "batch_sampler"):  # tf.data, torch's DataLoader
        batch = next(iter(x))
        return keras.utils.unpack_x_y_sample_weight(tuple(batch) if isinstance(batch, list) else batch)[0]
    if all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(x)):
        return keras.tree.map_structure(lambda leaf: leaf[: batch_size or 32], x)
    raise ValueError(
        f"fit: gradient_accumulation_steps needs to know the size of a batch, which {type(x).__name__} does not show; give "
        "arrays, a PyDataset, a tf.data.Dataset or a DataLoader."
    )


@functools.cache
def _functional(model_class: Any) -> Any:
    """A class of the user's, whose models hand their inputs and outputs to `SparseModel`, as a functional one of the same name."""
    same = {name: getattr(model_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    functional = type(model_class.__name__, (model_class, FunctionalSparseModel), same)
    package, _, name = keras.saving.get_registered_name(model_class).rpartition(">")
    return keras.saving.register_keras_serializable(package, name)(functional) if package else functional
