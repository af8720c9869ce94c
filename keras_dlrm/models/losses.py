"""Losses of `compile`: Keras's own cross-entropies are computed from logits."""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_dlrm.support.scoped import Scoped

CROSS_ENTROPIES = {
    keras.losses.binary_crossentropy: keras.losses.BinaryCrossentropy,
    keras.losses.binary_focal_crossentropy: keras.losses.BinaryFocalCrossentropy,
}

_known = Scoped((None, None, None))


def logits_of(y_pred: Any, logits: Any, factors: Any = None) -> contextlib.AbstractContextManager[Any]:
    """While this context is open, losses on this thread know the logits of this very prediction.

    Of several labels they know the factors of each, too; see `LabelLosses.factors`.
    """
    return _known.using((y_pred, logits, factors))


def known_logits(y_pred: Any) -> tuple[Any, Any]:
    """Logits of a prediction and factors of its labels, as `logits_of` knows them; `None` where it does not."""
    known, logits, factors = _known.value
    return (logits, factors) if y_pred is known else (None, None)


class FromLogits(keras.losses.Loss):
    """One of Keras's own binary cross-entropies, computed from the logits of a prediction where they are known.

    For any other prediction it is the original loss, as a training step of the user's own may ask for it.

    Example:

    >>> loss = FromLogits(keras.losses.BinaryCrossentropy())
    >>> label, logit = keras.ops.ones((1, 1)), keras.ops.full((1, 1), -100.0)
    >>> p = keras.ops.sigmoid(logit)
    >>> with logits_of(p, logit):
    ...     exact = float(loss(label, p))
    >>> round(exact, 2)
    100.0
    """

    def __init__(self, original: keras.losses.Loss) -> None:
        super().__init__(original.name, original.reduction, original.dtype)
        self.original = original
        self.of_logits = type(original)(**{**original.get_config(), "from_logits": True, "dtype": original.dtype})

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        logits, _ = known_logits(y_pred)
        if logits is not None:
            return self.of_logits(y_true, logits, sample_weight)
        return self.original(y_true, y_pred, sample_weight)


def from_logits(loss: Any) -> Any:
    """A loss for `compile`: `FromLogits` of Keras's own binary cross-entropies, anything else as it is.

    Keras's own are told by identity, never by name: its functions, instances of its classes, not of subclasses, and its names
    for them.
    """
    known = resolved(loss)
    if inspect.isfunction(known) and known in CROSS_ENTROPIES:
        return FromLogits(CROSS_ENTROPIES[known]())
    return FromLogits(known) if type(known) in CROSS_ENTROPIES.values() else loss


def resolved(loss: Any) -> Any:
    """A name or a class of a loss as what it stands for, anything else as it is."""
    if isinstance(loss, str) or inspect.isclass(loss):
        with contextlib.suppress(ValueError):  # Keras says so when it builds the loss
            return keras.losses.get(loss)
    return loss


def function_of(loss: Any) -> Any:
    """The function that a loss computes, where it is one of Keras's own; else `None`."""
    loss = resolved(loss)
    if isinstance(loss, keras.losses.Loss):
        kind: Any = type(loss)
        if kind.call is not keras.losses.BinaryCrossentropy.call or kind.__call__ is not keras.losses.Loss.__call__:
            return None
        loss = getattr(loss, "fn", None)
    own = inspect.isfunction(loss) and getattr(keras.losses, loss.__name__, None) is loss
    return loss if own else None


def config_of(loss: Any) -> Any:
    """A loss as a saved model holds it.

    Keras writes a function by its name alone, and loads one of its own of that name where there is one: a user's `bce` would
    come back as another loss. With its module it is found among registered and custom objects, or not at all.
    """
    if isinstance(loss, dict):
        return {name: config_of(one) for name, one in loss.items()}
    if isinstance(loss, list):
        return [config_of(one) for one in loss]
    config = keras.saving.serialize_keras_object(resolved(loss) if inspect.isclass(loss) else loss)
    if inspect.isfunction(loss) and isinstance(config, dict) and config.get("class_name") == "function":
        own = loss.__module__.split(".")[0] == "keras"
        return config if own else {**config, "module": loss.__module__}
    return config


@functools.cache
def gives_logits(call: Callable[..., Any]) -> bool:
    """Whether a model's `call` takes `return_logits`; one of the user's own, which does not, gives what it gives."""
    return "return_logits" in inspect.signature(call).parameters
