"""Row rules in NumPy, one row at a time, straight from the papers' formulas: `(row, gradient, state, rate, step) → row`.

`state` is what a rule keeps of a row: a dictionary, empty at first, which the function changes.
"""

import functools

import numpy as np


def sgd(row, g, state, rate, step):
    return row - rate * g


def adagrad(row, g, state, rate, step, start=0.0, epsilon=1e-10, in_root=False, rowwise=False):
    square = np.mean(g**2) if rowwise else g**2
    state["accumulator"] = state.get("accumulator", start) + square
    root = np.sqrt(state["accumulator"] + epsilon) if in_root else np.sqrt(state["accumulator"]) + epsilon
    return row - rate * g / np.where(root > 0, root, 1.0)


rowwise_adagrad = functools.partial(adagrad, rowwise=True)


def adam(row, g, state, rate, step):
    m = state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    v = state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    return row - rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) * m / (np.sqrt(v) + 1e-7)
