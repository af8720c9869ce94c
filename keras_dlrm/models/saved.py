"""Saving and loading of models: configuration, frozen parts at any depth, refusals."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_dlrm.backend.private_keras import default, layers_just_in, own_trainable_variables, writes_hdf5
from keras_dlrm.models.losses import config_of
from keras_dlrm.models.not_finite import require_finite

Frozen = dict[str, bool]


def frozen_of(model: Any) -> Frozen:
    """Parts of a model that are not as trainable as the part around them: path → `trainable`, the outside before the inside.

    A path has the attributes that layers are, as in `top_mlp/dense_layers.0`, because names that Keras gives count up within a
    process; `#N` stands for the N-th layer where it is not an attribute, and at the end `@N` for the N-th variable. The model
    itself is "".
    """
    frozen: Frozen = {}
    for path, around, layer in _walk(model, "", True):
        if layer.trainable != around:
            frozen[path] = layer.trainable
        if layer.trainable:
            for i, variable in enumerate(own_trainable_variables(layer)):
                if not variable.trainable:
                    frozen[_inside(path, f"@{i}")] = False
    return frozen


def with_frozen(config: dict[str, Any], model: Any) -> dict[str, Any]:
    """A model's configuration, with its frozen parts as `"frozen"`, if there are any."""
    frozen = frozen_of(model)
    return {**config, "frozen": frozen} if frozen else config


def freeze(model: Any, frozen: Mapping[str, bool] | Sequence[str]) -> None:
    """Make the parts of a model as trainable as those of one of the same configuration; `ValueError` for a part it does not have.

    `frozen` is of `frozen_of`; or names of layers, as earlier versions of this package wrote them.
    """
    if not isinstance(frozen, Mapping):
        for layer in model.layers:
            if layer.name in frozen:
                layer.trainable = False
        return
    for path, trainable in frozen.items():
        part = model
        for place in path.split("/") if path else ():
            inside = {f"@{i}": v for i, v in enumerate(own_trainable_variables(part))} if place[0] == "@" else _layers(part)
            if place not in inside:
                raise ValueError(
                    f"{model.name}: the configuration freezes part {path!r}, which the model does not have; make its layers in "
                    "__init__, the same ones as when it was saved."
                )
            part = inside[place]
        part.trainable = trainable


def _walk(layer: Any, path: str, around: bool) -> Iterator[tuple[str, bool, Any]]:
    yield path, around, layer
    for place, part in _layers(layer).items():
        yield from _walk(part, _inside(path, place), layer.trainable)


def _layers(layer: Any) -> dict[str, Any]:
    """Layers in a layer, by what a path calls them."""
    names: dict[int, str] = {}
    # torch keeps attributes that are modules apart.
    modules = dict(layer.named_children()) if hasattr(layer, "named_children") else {}
    for name, value in {**vars(layer), **modules}.items():
        if not name.startswith("_"):
            several = isinstance(value, (list, tuple))
            names.update({id(part): f"{name}.{i}" for i, part in enumerate(value)} if several else {id(value): name})
    inside = layers_just_in(layer)
    return {names.get(id(part), f"#{i}"): part for i, part in enumerate(inside)}


def _inside(path: str, place: str) -> str:
    return f"{path}/{place}" if path else place


_NO_HDF5 = (
    "save: an HDF5 file of a whole model holds neither embedding tables by name nor the slots of a row rule; save it as .keras, or "
    "the weights alone with model.save_weights('model.weights.h5')."
)


def refuse_hdf5_in_writing() -> None:
    """`ValueError` where `keras.saving.save_model(model, "model.h5")` asks for a configuration: it asks no method of the model."""
    if writes_hdf5():
        raise ValueError(_NO_HDF5)


class Saved(keras.Model):
    """Saving of the model, and loading as it was."""

    #: Whether `kd.export` takes such a model.
    exported_by_us = False

    _jit_compile_asked: Any = "auto"

    def get_compile_config(self) -> dict[str, Any] | None:
        """Arguments of `compile`, as a saved model holds them."""
        config: dict[str, Any] | None = super().get_compile_config()
        if config:  # Of a model that was not compiled Keras has an empty one, which must stay so.
            # What was asked, not what this backend made of "auto": another one may load the file.
            config["jit_compile"] = self._jit_compile_asked
            config["loss"] = config_of(self.loss)
            config = with_frozen(config, self)
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was, with the same parts frozen."""
        config = dict(config)
        # Here, too, because a class of the user's may make its configuration alone.
        freeze(self, config.pop("frozen", {}))
        self.compile(**keras.saving.deserialize_keras_object(config))

    @default
    def get_config(self) -> dict[str, Any]:
        """The configuration, frozen parts included."""
        refuse_hdf5_in_writing()
        return with_frozen(super().get_config(), self)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The model of a configuration, frozen parts included."""
        config = dict(config)
        frozen = config.pop("frozen", {})
        model = super().from_config(config, custom_objects=custom_objects)
        if model.built:  # else when it is compiled
            freeze(model, frozen)
        return model

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Save as `keras.Model.save` does, into a `.keras` file.

        Raises:
            ValueError: the file is HDF5, which holds neither tables by name nor a row rule's slots.
        """
        if isinstance(filepath, (str, os.PathLike)) and str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(_NO_HDF5)
        super().save(filepath, *args, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Export as `keras.Model.export` does, for a subclass of `SparseModel`; other models are exported by `kd.export`.

        Raises:
            NotFinite: a weight is NaN or infinite.
            ValueError: a functional model or one of `kd.models`, or a subclass that Keras cannot export; the message says how it is
                exported.
        """
        if self.exported_by_us:
            raise ValueError(
                f"{self.name}: model.export would write a model whose inputs have no names and whose ids are floats; use "
                "kd.export.savedmodel(model, folder), kd.export.onnx(model, path) or kd.export.litert(model, path)."
            )
        require_finite("export", self)
        try:
            return super().export(filepath, *args, **kwargs)
        except Exception as error:
            raise ValueError(
                f"{self.name}: Keras cannot export this model ({error}); make it a functional SparseModel, or a subclass of a "
                "model of kd.models, which kd.export.savedmodel and kd.export.onnx write."
            ) from error
