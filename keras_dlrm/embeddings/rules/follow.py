"""Choice of the row rule by name, and of the rule that follows a dense optimizer."""

from collections.abc import Callable
from typing import Any

import keras

from keras_dlrm.backend.private_keras import rate_of
from keras_dlrm.embeddings.rules.adagrad import Adagrad
from keras_dlrm.embeddings.rules.adam import Adam
from keras_dlrm.embeddings.rules.rowwise_adagrad import RowwiseAdagrad
from keras_dlrm.embeddings.rules.rule import RowRule
from keras_dlrm.embeddings.rules.sgd import SGD

RULES: dict[str, Any] = {"sgd": SGD, "adagrad": Adagrad, "rowwise_adagrad": RowwiseAdagrad, "adam": Adam}
# Options of Keras's optimizers that a row rule does not have.
_EXTRAS = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "loss_scale_factor")


def get(identifier: Any) -> RowRule:
    """A row rule from a name, a rule, or a Keras optimizer with the same mathematics; `ValueError` where there is none."""
    if isinstance(identifier, RowRule):
        return identifier
    if isinstance(identifier, str):
        if identifier.lower() in RULES:
            return RULES[identifier.lower()]()  # type: ignore[no-any-return]
        raise ValueError(f"embedding_optimizer={identifier!r} is unknown; use one of {sorted(RULES)} or a row rule.")
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    if isinstance(identifier, keras.optimizers.Optimizer):
        return follow(identifier)
    raise TypeError(f"embedding_optimizer={identifier!r}: use one of {sorted(RULES)} or a rule of kd.optimizers.")


def follow(optimizer: keras.optimizers.Optimizer) -> RowRule:
    """The row rule with the mathematics of a dense optimizer; `ValueError` says what to pass instead where there is none.

    There is one for a row rule (copied), Keras's SGD without momentum, Adagrad, and Adam without AMSGrad (on rows it becomes
    lazy, see `Adam`).
    """
    if isinstance(optimizer, RowRule):
        return type(optimizer).from_config(optimizer.get_config())
    who = type(optimizer).__name__
    fix = "pass embedding_optimizer=… explicitly (kd.optimizers.SGD, Adagrad, RowwiseAdagrad or Adam) for the tables"
    for option in _EXTRAS:
        if getattr(optimizer, option, None):
            raise ValueError(
                f"{option}={getattr(optimizer, option)!r} of the optimizer {who} is not defined on embedding rows; {fix}."
            )
    makers: dict[type, Callable[[Any, Any], RowRule | None]] = {
        keras.optimizers.SGD: lambda o, rate: None if o.momentum or o.nesterov else SGD(rate),
        keras.optimizers.Adagrad: lambda o, rate: Adagrad(rate, o.initial_accumulator_value, o.epsilon, epsilon_in_root=True),
        keras.optimizers.Adam: lambda o, rate: None if o.amsgrad else Adam(rate, o.beta_1, o.beta_2, o.epsilon),
    }
    for kind, make in makers.items():
        # Keras makes backend-specific subclasses; AdamW is a subclass of Adam with another meaning.
        if isinstance(optimizer, kind) and who == kind.__name__:
            rate = fixed_rate(optimizer)
            rule = make(optimizer, rate_of(optimizer) if rate is None else rate)
            if rule is not None:
                return rule
    config, names = optimizer.get_config(), ("momentum", "nesterov", "amsgrad")
    options = ", ".join(f"{name}={config[name]}" for name in names if config.get(name)) or "its options"
    raise ValueError(f"the optimizer {who} with {options} has no row rule of the same mathematics; {fix}.")


def fixed_rate(optimizer: Any) -> float | None:
    """An optimizer's learning rate now; `None` of a schedule."""
    rate = rate_of(optimizer)
    return float(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(rate))) if isinstance(rate, keras.Variable) else None
