"""Metrics: streaming Keras metrics, exact scores, calibration, slices, ranked lists, lift, importance, bootstrap."""

from keras_dlrm.metrics.bootstrap import Difference, paired_bootstrap, paired_bootstrap_runs
from keras_dlrm.metrics.distribution import ScoreDistribution, score_distribution
from keras_dlrm.metrics.importance import permutation_importance
from keras_dlrm.metrics.lift import Lift, lift
from keras_dlrm.metrics.paired import paired_difference
from keras_dlrm.metrics.ranking import ranking_scores, retrieval_scores
from keras_dlrm.metrics.reliability import Reliability, expected_calibration_error, reliability

# After `bootstrap`, which imports the module `scores`: here that is the function.
from keras_dlrm.metrics.scores import auc, calibration, grouped_auc, log_loss, normalized_entropy, scores
from keras_dlrm.metrics.slices import frequency_bands, scores_by_slice
from keras_dlrm.metrics.streaming import Calibration, LogLoss, NormalizedEntropy
from keras_dlrm.metrics.streaming_groups import GroupedAUC, Sliced
from keras_dlrm.metrics.streaming_ranking import NDCG, MeanReciprocalRank, RecallAtK
from keras_dlrm.metrics.windowed import Windowed

__all__ = [
    "Calibration", "Difference", "GroupedAUC", "Lift", "LogLoss", "MeanReciprocalRank", "NDCG", "NormalizedEntropy", "RecallAtK",
    "Reliability", "ScoreDistribution", "Sliced", "Windowed", "auc", "calibration", "expected_calibration_error",
    "frequency_bands", "grouped_auc", "lift", "log_loss", "normalized_entropy", "paired_bootstrap", "paired_bootstrap_runs",
    "paired_difference", "permutation_importance", "ranking_scores", "reliability", "retrieval_scores", "score_distribution",
    "scores", "scores_by_slice",
]  # fmt: skip
