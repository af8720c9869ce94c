"""Batches that workers of a `PyDataset` read ahead, each one once and in order."""

import itertools
import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any


class _Worker:
    """Reads batches in a process of its own."""

    dataset: Any

    @classmethod
    def begin(cls, dataset: Any) -> None:
        cls.dataset = dataset

    @classmethod
    def read(cls, i: int) -> Any:
        return cls.dataset[i]


def in_order(dataset: Any, shuffle: bool) -> Iterator[Any]:
    """One pass over a dataset by its own workers, threads or processes; without end where it has no number of batches."""
    count = dataset.num_batches
    order: Any = itertools.count() if count is None else range(count)
    if shuffle and count is not None:
        order = list(order)
        random.shuffle(order)  # as Keras does without workers
    pool: Any
    if dataset.use_multiprocessing:
        pool, read = ProcessPoolExecutor(dataset.workers, initializer=_Worker.begin, initargs=(dataset,)), _Worker.read
    else:
        pool, read = ThreadPoolExecutor(dataset.workers), dataset.__getitem__
    waiting: deque[Any] = deque()
    try:
        for i in order:
            waiting.append(pool.submit(read, i))
            if len(waiting) > dataset.max_queue_size:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
