"""Criteo's raw text logs (Kaggle, Terabyte) to a processed directory: parser, ids, dialects."""

from keras_dlrm.data.criteo.preprocessing import encode as encode
from keras_dlrm.data.criteo.preprocessing import preprocess as preprocess
