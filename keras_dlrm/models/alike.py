"""Agreement of processes that train one model: settings must be the same."""

from typing import Any

from keras_dlrm.checkpoint.state import of_training, value_of
from keras_dlrm.sharding import everyone
from keras_dlrm.sharding.part import Part


def check_model(model: Any) -> None:
    """`ValueError` in all processes where one of them has other layers, columns, optimizers, rates or another loss."""
    everyone.require_alike(model.name, of_training(model))


def check_weights(model: Any) -> None:
    """`ValueError` in all processes where one of them starts with other weights."""
    copies = [v for v in model.weights if not getattr(v, "sharded", False)]
    name = everyone.first_that_differs((v.path, value_of(v)) for v in copies)
    if name is not None:
        raise ValueError(
            f"{model.name}: {name} is not the same in all processes, so that they would train different models. Build the model "
            "after kd.sharding.start(), the same way in all of them, with the same seeds if any."
        )


def check_data(model: Any, x: Any) -> None:
    """`ValueError` in all processes where one of them is given rows of other columns, or another number of batches."""
    if isinstance(x, Part):
        schema = getattr(x.dataset, "schema", None)
        everyone.require_alike(model.name, {"data": {"schema": None if schema is None else schema.to_dict(), "batches": len(x)}})
