"""Division of batches among the replicas of a tf.distribute strategy."""

from typing import Any

import keras
import tensorflow as tf

from keras_dlrm.backend.private_keras import WrappedAdapter
from keras_dlrm.sharding.part import FILLER


def cut(data: Any, n: int) -> Any:
    """A batch of B rows → (x, y, sample_weight), each array of shape (n, ⌈B/n⌉, …): filled up with rows that count nowhere.

    tf.distribute would give replicas parts of different sizes, and some none. Without labels `y` is `()`, which tf.data takes.
    """
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    rows = tf.shape(tf.nest.flatten(x)[0])[0]
    each = -(-rows // n)

    def parts(array: Any, filler: float) -> Any:
        missing = tf.fill(tf.concat([[each * n - rows], tf.shape(array)[1:]], 0), tf.cast(filler, array.dtype))
        divided = tf.reshape(tf.concat([array, missing], 0), tf.concat([[n, each], tf.shape(array)[1:]], 0))
        return tf.ensure_shape(divided, [n, None, *array.shape[1:]])

    # An id of -1 is padding.
    if isinstance(x, dict):
        x = {name: parts(array, -1 if name == "sparse" else 0) for name, array in x.items()}
    else:
        x = tf.nest.map_structure(lambda a: parts(a, -1 if a.dtype.is_integer and not a.dtype.is_unsigned else 0), x)
    weight = tf.ones((rows,)) if weight is None else tf.reshape(tf.cast(weight, tf.float32), (-1,))
    return x, () if y is None else tf.nest.map_structure(lambda a: parts(a, 0), y), parts(weight, FILLER)


class _Parts(tf.distribute.DistributedDataset):
    """A dataset that Keras takes for one that is distributed already, and asks for an iterator.

    Each element has the parts of all replicas here, and each replica picks its own. tf.distribute's own iterators take half a
    second to begin, and with several workers a collective of their own at each step.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __iter__(self) -> Any:
        return iter(self._dataset)

    @property
    def element_spec(self) -> Any:
        return self._dataset.element_spec

    def reduce(self, initial_state: Any, reduce_func: Any) -> Any:
        return self._dataset.reduce(initial_state, reduce_func)


class Divided(WrappedAdapter):
    """Keras's adapter of whole batches, but each element has the parts of this worker's replicas, one above the other.

    The whole batches are the same in every worker; of `n` replicas, `here` are here, from `first` on.
    """

    def __init__(self, whole: Any, n: int, first: int, here: int) -> None:
        super().__init__(whole)

        def parts(*batch: Any) -> Any:
            whole = cut(batch if len(batch) > 1 else batch[0], n)
            return tf.nest.map_structure(lambda part: part[first : first + here], whole)

        self._dataset = _Parts(whole.get_tf_dataset().map(parts).prefetch(1))

    def example(self) -> Any:
        """A batch of one replica, all zeros."""
        spec = self._dataset.element_spec
        return tf.nest.map_structure(lambda s: tf.zeros([2 if d is None else d for d in s.shape[1:]], s.dtype), spec)

    def get_tf_dataset(self) -> Any:
        return self._dataset
