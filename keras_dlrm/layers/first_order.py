"""First-order terms: a weight for each row of a table, which adds to the logit without any interaction."""

from typing import Any

from keras import ops

# With it a step of Adam moves the term three times as far as an element of a vector, and L2 on the row holds it a ninth as much:
# one number has to say what a vector says with many.
SCALE = 3.0


def split_first_order(rows: Any, labels: int = 1) -> tuple[Any, Any]:
    """Pooled rows, float32 (B, F, D + T) → vectors (B, F, D), and the logits' first-order terms, float32 (B, T), of T labels.

    The last number of each row, or one of the last for each label, is its weight: the logistic regression's part of Rendle 2010,
    "Factorization Machines", equation 1. As one more column of the tables it costs no second lookup.

    Example:

    >>> vectors, logit = split_first_order(np.array([[[1.0, 2.0, 0.5], [3.0, 4.0, -0.25]]], "float32"))
    >>> tuple(vectors.shape), float(logit[0, 0])
    ((1, 2, 2), 0.75)
    """
    return rows[:, :, :-labels], SCALE * ops.sum(rows[:, :, -labels:], axis=1)
