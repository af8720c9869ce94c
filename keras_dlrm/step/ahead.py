"""Look-ahead: batches of `fit` that are known some steps before their own."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from keras_dlrm.backend.private_keras import WrappedAdapter

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


class AdapterAhead(WrappedAdapter):
    """An adapter whose batches are looked at ahead: on torch Keras hands over no iterator."""

    def __init__(self, whole: Any, expect: Callable[[Any], None]) -> None:
        super().__init__(whole)
        self._ahead = LookAhead(expect)

    def get_numpy_iterator(self) -> Iterator[Any]:
        return self._ahead(super().get_numpy_iterator())

    def get_torch_dataloader(self) -> Any:
        return self._ahead(iter(self.whole.get_torch_dataloader()))
