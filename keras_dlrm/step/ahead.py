"""Look-ahead: batches of `fit` that are known some steps before their own."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from keras_dlrm.backend.private_keras import DataAdapter

AHEAD = 2  # batches


class LookAhead:
    """Tells `expect` of each batch of an iterator, two batches before that comes."""

    def __init__(self, expect: Callable[[Any], None]) -> None:
        self._expect = expect
        self._latest: tuple[Any, Any] = (None, None)

    def __call__(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; of an iterator that is given again, those that are left."""
        if self._latest[0] is not batches:
            self._latest = (batches, self._each(batches))
        return self._latest[1]  # type: ignore[no-any-return]

    def _each(self, batches: Iterator[Any]) -> Iterator[Any]:
        waiting: deque[Any] = deque()
        for i, batch in enumerate(batches):
            self._expect(batch)
            waiting.append(batch)
            # Keras looks at one batch to build a model; no more are taken from a generator then.
            if i == 0 or len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting


class AdapterAhead(DataAdapter):
    """An adapter whose batches are looked at ahead: on torch Keras hands over no iterator."""

    def __init__(self, adapter: Any, expect: Callable[[Any], None]) -> None:
        self._adapter, self._expect = adapter, expect

    def get_numpy_iterator(self) -> Any:
        return LookAhead(self._expect)(self._adapter.get_numpy_iterator())

    def get_torch_dataloader(self) -> Any:
        return LookAhead(self._expect)(iter(self._adapter.get_torch_dataloader()))

    @property
    def num_batches(self) -> Any:
        return self._adapter.num_batches

    @property
    def batch_size(self) -> Any:
        return self._adapter.batch_size

    @property
    def has_partial_batch(self) -> Any:
        return self._adapter.has_partial_batch

    @property
    def partial_batch_size(self) -> Any:
        return self._adapter.partial_batch_size

    def on_epoch_begin(self) -> None:
        self._adapter.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._adapter.on_epoch_end()
