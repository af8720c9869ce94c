"""Metrics: streaming Keras metrics, exact scores, calibration, reliability, bootstrap."""

from keras_dlrm.metrics.bootstrap import Difference, paired_bootstrap, paired_bootstrap_runs
from keras_dlrm.metrics.reliability import Reliability, expected_calibration_error, reliability

# After `bootstrap`, which imports the module `scores`: here that is the function.
from keras_dlrm.metrics.scores import auc, calibration, grouped_auc, log_loss, normalized_entropy, scores
from keras_dlrm.metrics.streaming import Calibration, NormalizedEntropy

__all__ = [
    "Calibration", "Difference", "NormalizedEntropy", "Reliability", "auc", "calibration", "expected_calibration_error",
    "grouped_auc", "log_loss", "normalized_entropy", "paired_bootstrap", "paired_bootstrap_runs", "reliability", "scores",
]  # fmt: skip
