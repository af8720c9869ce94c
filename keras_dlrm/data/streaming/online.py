"""`train_online`: read a chunk, train, commit, repeat."""

import dataclasses
import os
import time
from collections.abc import Callable

import keras

from keras_dlrm.data.streaming.commits import Commits
from keras_dlrm.data.streaming.stream import Chunk, Stream
from keras_dlrm.support.arguments import integer
from keras_dlrm.support.values import NotFinite


@dataclasses.dataclass
class Online:
    """Progress of an online training.

    Args:
        model: The model.
        positions: Where the stream continues.
        read: Rows read since the first start, bad ones included, each counted once.
        trained: Rows trained on since the first start, each counted once.
        commits: Number of the last commit.
        scores: Loss and metrics over the last chunk, each row predicted before the model learned from it.
        seconds: Since this process began to read.
    """

    model: keras.Model
    positions: dict[str, int]
    read: int = 0
    trained: int = 0
    commits: int = 0
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def train_online(
    build: Callable[[], keras.Model],
    stream: Stream,
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 1024,
    chunk: int = 64,
    max_wait: float = 10.0,
    until_end: bool = False,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[Online, Chunk], None] | None = None,
    keep: int = 2,
) -> Online:
    """Train on a stream as it comes: read a chunk, `model.fit` it once, commit model and positions together.

    Started again, also after a kill at any moment, it resumes from the last commit: with the model, the optimizer and
    the positions of that commit. What was read after it is read and trained again, by a model that has not seen it. So
    no row is left out, and in the model that is committed each row was learned from exactly once; only what a killed
    process had told others (predictions, logs) may be told twice.

    Args:
        build: Makes the compiled model, where there is no commit yet.
        stream: `KafkaStream`, `ParquetStream`, or a `Stream` of your own.
        folder: Where the commits are kept; see `Commits`.
        batch_size: Rows of a training batch.
        chunk: Batches between two commits. A commit writes the whole model: take so many that this costs little.
        max_wait: Seconds that a chunk waits to become full.
        until_end: Return when all that is there was trained on, instead of waiting for more.
        stop: Asked after each chunk, and while waiting; true commits what was read and returns.
        progress: Called after each commit.
        keep: How many of the latest commits stay.

    Returns:
        The model and how far it is.

    Raises:
        ValueError: a bad row, another preprocessor, or a loss that is not finite. The last commit is untouched.
        RuntimeError: another process trains into the folder.

    Example:

    ```python
    stream = kd.data.streaming.KafkaStream("clicks", "broker:9092", preprocessor)
    online = kd.data.streaming.train_online(lambda: compiled(schema), stream, "runs/online")
    ```
    """
    integer("train_online", "batch_size", batch_size)
    integer("train_online", "chunk", chunk)
    with Commits(folder, keep) as commits:
        commits.check(stream.preprocessor)
        if commits.number:
            model, state = commits.load()
            online = Online(model, state["positions"], state["read"], state["trained"], commits.number)
            stream.seek(state["positions"])
            stream.bad.restore(state["bad"])
        else:
            stream.seek()
            online = Online(build(), dict(stream.positions))
            # The start too: "latest" is another place after a kill.
            _commit(commits, online, stream)
        begun = time.perf_counter()
        while stop is None or not stop():
            part = stream.read(batch_size * chunk, max_wait, until_end, stop)
            if part is None:
                break
            if part.batch is not None:
                try:
                    fitted = online.model.fit(part.batch, part.label, batch_size=batch_size, shuffle=False, verbose=0)
                except NotFinite as error:
                    raise NotFinite(
                        f"train_online: in the chunk that ends at {part.positions}: {error} The last commit is from before it."
                    ) from error
                online.scores = {name: float(values[-1]) for name, values in fitted.history.items()}
            online.positions = part.positions
            online.read += part.read
            online.trained += part.rows
            online.seconds = time.perf_counter() - begun
            _commit(commits, online, stream)
            if progress is not None:
                progress(online, part)
        return online


def _commit(commits: Commits, online: Online, stream: Stream) -> None:
    state = {name: getattr(online, name) for name in ("positions", "read", "trained", "scores")}
    commits.save(online.model, {**state, "bad": stream.bad.state()})
    online.commits = commits.number
