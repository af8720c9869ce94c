"""Row rules, the optimizers of embedding rows, one file each; public as `kd.optimizers`."""

from keras_dlrm.embeddings.rules.adagrad import Adagrad
from keras_dlrm.embeddings.rules.adam import Adam
from keras_dlrm.embeddings.rules.hybrid import Hybrid
from keras_dlrm.embeddings.rules.rowwise_adagrad import RowwiseAdagrad
from keras_dlrm.embeddings.rules.rule import RowRule
from keras_dlrm.embeddings.rules.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "Hybrid", "RowRule", "RowwiseAdagrad"]
