"""Saving and loading of models: configuration, frozen parts, refusals."""

from __future__ import annotations

import os
from typing import Any

import keras

from keras_dlrm.backend.private_keras import default, writes_hdf5
from keras_dlrm.models.frozen import freeze, with_frozen
from keras_dlrm.models.losses import config_of
from keras_dlrm.models.not_finite import require_finite

_MESSAGE = (
    "save: an HDF5 file of a whole model holds neither embedding tables by name nor the slots of a row rule; save it as .keras, or "
    "the weights alone with model.save_weights('model.weights.h5')."
)


def refuse_hdf5(path: Any) -> None:
    """`ValueError` for the path of an HDF5 file of a whole model."""
    if isinstance(path, (str, os.PathLike)) and str(path).endswith((".h5", ".hdf5")):
        raise ValueError(_MESSAGE)


def refuse_hdf5_in_writing() -> None:
    """`ValueError` where `keras.saving.save_model(model, "model.h5")` asks for a configuration: it asks no method of the model."""
    if writes_hdf5():
        raise ValueError(_MESSAGE)


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
        refuse_hdf5(filepath)
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
