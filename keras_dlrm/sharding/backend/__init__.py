"""The collectives of each backend, chosen here and nowhere else. All processes call them, in the same order.

`start()` joins the processes that a launcher started; `world_size()` and `rank()` are N and this process's place among them
(on JAX a device's). `exchange(x)`: x[r] goes to rank r, and row s of the result is what rank s sent; it has a gradient, which
takes the way back. `all_sum(tensors)`: the sums over all ranks. `gather(x)`: every rank's x, one below the other.
`all_words(words)`: outside of steps, an int32 array of every process, (processes, n).
"""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_dlrm.sharding.backend.tensorflow import *
elif keras.backend.backend() == "jax":
    from keras_dlrm.sharding.backend.jax import *
else:
    from keras_dlrm.sharding.backend.torch import *
