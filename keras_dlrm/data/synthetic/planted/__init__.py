"""Planted click logs, whose true probabilities and best possible AUC are known."""
