"""Metrics: streaming Keras metrics, exact scores, calibration, reliability, bootstrap."""

from keras_dlrm.metrics.bootstrap import Difference, paired_bootstrap, paired_bootstrap_runs
from keras_dlrm.metrics.calibration import Calibration
from keras_dlrm.metrics.normalized_entropy import NormalizedEntropy
from keras_dlrm.metrics.reliability import Reliability, expected_calibration_error, reliability

# Last, so that `calibration`, `normalized_entropy` and `scores` are the functions here and not the modules.
from keras_dlrm.metrics.scores import auc, calibration, grouped_auc, log_loss, normalized_entropy, scores

__all__ = [
    "Calibration",
    "Difference",
    "NormalizedEntropy",
    "Reliability",
    "auc",
    "calibration",
    "expected_calibration_error",
    "grouped_auc",
    "log_loss",
    "normalized_entropy",
    "paired_bootstrap",
    "paired_bootstrap_runs",
    "reliability",
    "scores",
]
