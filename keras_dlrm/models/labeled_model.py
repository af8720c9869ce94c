"""`LabeledModel`: training of models of one label or several: checks, losses and metrics of each."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_dlrm.losses import ESMM, InBatchSoftmax
from keras_dlrm.metrics.by_label import by_label
from keras_dlrm.models.label_losses import LabelLosses
from keras_dlrm.models.labels import Checks
from keras_dlrm.models.losses import from_logits, gives_logits, logits_of
from keras_dlrm.models.sparse_model import SparseTraining
from keras_dlrm.schema.schema import Schema
from keras_dlrm.step.batch import WholeBatch


class LabeledModel(SparseTraining):
    """Base of `ClickModel`: it predicts p (B, T) of the T labels of its `schema`, in their order.

    Of several labels the loss is that of each, summed with `loss_weights` by name, and a metric is one of each, called
    `auc_click` and the like. A missing label is NaN; its row counts for the others.
    """

    default_loss = "binary_crossentropy"
    schema: Schema

    @property
    def n_labels(self) -> int:
        """Number T of labels."""
        return len(self.schema.labels)

    def of_outputs(self, loss: Any, metrics: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        if isinstance(loss, (list, tuple)) and len(loss) == 1:
            loss = loss[0]
        if self.n_labels == 1 and not isinstance(loss, ESMM):
            return loss, metrics, options
        labels, options = self.schema.labels, dict(options)
        weights = options.pop("loss_weights", None)
        if not isinstance(loss, LabelLosses):
            loss = LabelLosses(loss, labels, weights)
        if options.get("weighted_metrics") is not None:
            options["weighted_metrics"] = by_label(options["weighted_metrics"], labels)
        return loss, None if metrics is None else by_label(metrics, labels), options

    def loss_to_compute(self, loss: Any) -> tuple[Any, Any]:
        if isinstance(loss, InBatchSoftmax):
            who = type(self).__name__
            raise ValueError(f"compile: InBatchSoftmax needs vectors of users and items, and {who} has none; use TwoTower.")
        return loss, from_logits(loss)

    def loss_and_prediction(self, x: Any, y: Any, part: WholeBatch, training: bool) -> tuple[Any, Any]:
        if not gives_logits(type(self).call):
            return super().loss_and_prediction(x, y, part, training)
        logits = self(x, training=training, return_logits=True)
        y_pred = ops.sigmoid(logits)
        return self.loss_of_logits(x, y, y_pred, logits, part, training), y_pred

    def loss_of_logits(self, x: Any, y: Any, y_pred: Any, logits: Any, part: WholeBatch, training: bool) -> Any:
        """The loss of a prediction whose logits are known."""
        factors = self.loss.factors(_shaped(y, (-1, self.n_labels)), part) if isinstance(self.loss, LabelLosses) else None
        with logits_of(y_pred, logits, factors):
            return self.loss_of_step(x, y, y_pred, part.sample_weight, training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss, regularization included.

        Raises:
            ValueError: no labels, or another number of them per row.
        """
        self._check_labels(y)
        self._check_weights(sample_weight)
        return super().compute_loss(x, _shaped(y, (-1, self.n_labels)), y_pred, _shaped(sample_weight, (-1,)), training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        self._check_labels(y)  # JAX and torch build the metrics before they compute a loss.
        return dict(super().compute_metrics(x, _shaped(y, (-1, self.n_labels)), y_pred, _shaped(sample_weight, (-1,))))

    def prepared_batch(self, x: Any, y: Any, sample_weight: Any, class_weight: Any) -> tuple[Any, Any, Any, Any]:
        self._check_class_weight(class_weight)
        return super().prepared_batch(x, y, sample_weight, class_weight)

    def _checks(self, who: str) -> Checks:
        if not isinstance(self.loss, LabelLosses):
            return super()._checks(who)
        esmm = isinstance(self.loss.loss, ESMM)  # of cross-entropies
        return Checks(who, self.default_loss if esmm else self.loss.loss, self.sharded, missing=True)

    def _checked(self, arguments: dict[str, Any], checks: Checks) -> dict[str, Any]:
        self._check_class_weight(arguments.get("class_weight"))
        self._check_order(arguments["y"])
        arguments = super()._checked(arguments, checks)
        self._check_outputs(arguments["y"], arguments["sample_weight"])
        return arguments

    def _checked_batch(self, who: str, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        self._check_order(y)
        x, y, sample_weight = super()._checked_batch(who, x, y, sample_weight)
        self._check_outputs(y, sample_weight)
        return x, y, sample_weight

    def _check_class_weight(self, class_weight: Any) -> None:
        if class_weight is not None and self.n_labels > 1:
            fix = "give loss_weights by name to compile, or a sample_weight"
            raise ValueError(f"{self.name}: class_weight={class_weight!r} is of one label, and there are several; {fix}.")

    def _check_outputs(self, y: Any, sample_weight: Any) -> None:
        """Before a step is compiled: TensorFlow's does not know the shape, and Keras says nothing of dicts."""
        for what, values in (("labels", y), ("sample weights", sample_weight)):
            if isinstance(values, Mapping):
                raise TypeError(f"{self.name}: the {what} are a dict with {list(values)}; give the array, as there is one output.")
        if y is not None:
            self._check_labels(y)
        self._check_weights(sample_weight)

    def _check_order(self, y: Any) -> None:
        """Columns of a frame are taken by place."""
        names, labels = list(getattr(y, "columns", ())), list(self.schema.labels)
        if self.n_labels > 1 and names != labels and set(names) & set(labels):
            raise ValueError(f"{self.name}: the labels have the columns {names}; give those of the schema in its order, {labels}.")

    def _check_weights(self, sample_weight: Any) -> None:
        shape: Any = getattr(sample_weight, "shape", ())
        if getattr(shape, "rank", 0) is not None and (len(shape) > 2 or tuple(shape[1:]) not in ((), (1,), (None,))):
            fix = "" if self.n_labels == 1 else "; labels are weighed by loss_weights"
            raise ValueError(f"{self.name}: the sample weights have shape {tuple(shape)}; they must be (B,) or (B, 1){fix}.")

    def _check_labels(self, y: Any) -> None:
        if y is None:
            raise ValueError(f"{self.name}: there are no labels; give fit and evaluate (batch, labels) or x=… and y=….")
        shape: Any = getattr(y, "shape", ())
        if getattr(shape, "rank", 0) is None:
            return  # TensorFlow does not know the rank where a model has seen labels of both forms.
        several = self.n_labels > 1
        allowed = ((self.n_labels,), (None,)) if several else ((), (1,), (None,))
        if len(shape) > 2 or tuple(shape[1:]) not in allowed:
            wanted = f"(B, {self.n_labels}), of {list(self.schema.labels)}" if several else "(B,) or (B, 1)"
            raise ValueError(f"{self.name}: the labels have shape {tuple(shape)}; they must be {wanted}.")


def _shaped(values: Any, shape: tuple[int, ...]) -> Any:
    """Labels → (B, T), sample weights → (B,): not every Keras metric takes either form of both.

    Without a look at their rank: TensorFlow does not know it where a model has seen both forms.
    """
    return None if values is None else ops.reshape(values, shape)
