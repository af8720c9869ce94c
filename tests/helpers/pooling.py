"""Pooling of rows in NumPy, as the docstrings say."""

import numpy as np


def pooled(tables, schema, sparse, weights=None):
    """One example and one column at a time, as the docstrings say."""
    out = []
    for row in range(len(sparse)):
        vectors = []
        for column, start in zip(schema.categorical, schema.offsets, strict=True):
            table = tables[column.table_name].astype("float64")
            total, factors = np.zeros(table.shape[1]), []
            for place in range(start, start + column.hotness):
                i = int(sparse[row, place])
                if i != -1 and not 0 <= i < len(table):
                    i = -1 if column.oov is None else column.oov
                if i == -1:
                    continue
                factor = 1.0 if weights is None else float(weights[row, place])
                total += factor * table[i]
                factors.append(factor)
            if column.combiner == "mean" and sum(factors):
                total /= sum(factors)
            if column.combiner == "sqrtn" and np.dot(factors, factors):
                total /= np.sqrt(np.dot(factors, factors))
            vectors.append(total)
        out.append(vectors)
    return out
