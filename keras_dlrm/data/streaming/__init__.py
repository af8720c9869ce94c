"""Online training from streams (Kafka, Parquet): messages, packed rows, commits.

`KafkaStream` and `ParquetStream` read through tensorflow-io, whose native code loads on TensorFlow 2.16 only: they need
an environment of its own, see `docs/streaming.md`. `train_online` and `Commits` work with any stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.support.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.data.streaming.commits import Commits as Commits
    from keras_dlrm.data.streaming.kafka import KafkaStream as KafkaStream
    from keras_dlrm.data.streaming.online import Online as Online
    from keras_dlrm.data.streaming.online import train_online as train_online
    from keras_dlrm.data.streaming.parquet import ParquetStream as ParquetStream
    from keras_dlrm.data.streaming.stream import Chunk as Chunk
    from keras_dlrm.data.streaming.stream import Stream as Stream

_NAMES = {
    **{"Commits": "commits", "KafkaStream": "kafka", "ParquetStream": "parquet"},
    **dict.fromkeys(("Chunk", "Stream"), "stream"),
    **dict.fromkeys(("Online", "train_online"), "online"),
}
__all__ = sorted(_NAMES)

__getattr__, __dir__ = lazy(__name__, _NAMES)
