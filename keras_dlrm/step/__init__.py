"""The sparse train step, one file for each framework; replicas and batches of many processes."""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_dlrm.step.tensorflow_step import SparseStep
elif keras.backend.backend() == "jax":
    from keras_dlrm.step.jax_step import SparseStep
else:
    from keras_dlrm.step.torch_step import SparseStep

__all__ = ["SparseStep"]
