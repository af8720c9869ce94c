"""`KafkaStream`: Kafka topics as a stream of packed rows."""

from __future__ import annotations

import dataclasses
import types
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from keras_dlrm.data.preprocessor.bad_rows import BadRow
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.streaming.messages import BadMessage, Decoder
from keras_dlrm.data.streaming.stream import Packed, Piece, Stream, pack, tensorflow_io, text_frame

FETCH = 1024  # messages that one call into TensorFlow brings
GROUP = "keras_dlrm"  # a consumer must name one; nothing is committed to it
OURS = ("group.id", "enable.auto.commit", "auto.offset.reset", "bootstrap.servers", "enable.partition.eof")
# A consumer holds so much ahead of training; librdkafka's own default is 64 MB for each partition.
AHEAD = {"queued.max.messages.kbytes": "16384", "fetch.wait.max.ms": "100"}


class KafkaStream(Stream):
    """Messages of Kafka topics → packed rows.

    Messages come through tensorflow-io's `KafkaDataset`, one for each partition: the one of its classes that starts at
    a given offset and tells the offset of each message. Partitions, and the first and last offset of each, come from
    confluent-kafka. Nothing is committed to a consumer group: positions belong to whoever trains (see `train_online`).

    A chunk takes equally many messages of each partition, as long as there are; within a partition they keep their
    order. While the broker is away, reading waits for it.

    Args:
        topics: A topic, or several.
        servers: `host:port` of brokers, separated by commas.
        preprocessor: Fitted; see `Preprocessor`.
        format: What a message holds: `"json"`, `"csv"` or `"example"`; see `Decoder`.
        columns: Names of the fields of a CSV record.
        partitions: Numbers of those to read, of each topic; all by default, those added later included.
        start: Where to begin without stored positions: `"earliest"`, `"latest"`, or offsets by `"topic:partition"`
            (others begin at the earliest).
        on_error: What to do with messages that cannot be used: `"raise"` or `"skip"` (and count).
        max_skipped: With `"skip"`, an error when more than so many were left out.
        on_lost: What to do where the broker has deleted messages that were still to be read: `"raise"`, or
            `"continue"` with the first one that is left.
        config: Further properties of librdkafka, such as `{"security.protocol": "ssl"}`.
        poll: Seconds between two looks for more where the end was reached.
        timeout: Seconds to wait for the broker's word on a topic.

    Attributes:
        lost: How many offsets were passed over with `on_lost="continue"`.

    Raises:
        ImportError: not TensorFlow 2.16, or tensorflow-io or confluent-kafka is missing.
        ConnectionError: no broker answers.
        ValueError: an unknown topic, partition, format or option.

    Example:

    ```python
    stream = kd.data.streaming.KafkaStream("clicks", "broker:9092", preprocessor)
    chunk = stream.read(4096)
    model.train_on_batch(chunk.batch, chunk.label)
    ```
    """

    def __init__(
        self,
        topics: str | Sequence[str],
        servers: str,
        preprocessor: Preprocessor,
        *,
        format: str = "json",
        columns: Sequence[str] | None = None,
        partitions: Sequence[int] | None = None,
        start: str | Mapping[str, int] = "earliest",
        on_error: str = "raise",
        max_skipped: int | None = None,
        on_lost: str = "raise",
        config: Mapping[str, Any] | None = None,
        poll: float = 0.5,
        timeout: float = 10.0,
    ) -> None:
        super().__init__(preprocessor, on_error, max_skipped, poll)
        self.topics = [topics] if isinstance(topics, str) else list(topics)
        if not self.topics or len(set(self.topics)) < len(self.topics):
            raise ValueError(f"KafkaStream: topics={topics!r}; give one topic, or several different ones.")
        if not isinstance(start, Mapping) and start not in ("earliest", "latest"):
            raise ValueError(f"KafkaStream: start={start!r}; use 'earliest', 'latest', or offsets by 'topic:partition'.")
        if on_lost not in ("raise", "continue"):
            raise ValueError(f"KafkaStream: on_lost={on_lost!r} is unknown; use 'raise' or 'continue'.")
        self.lost = 0
        self._decoder = Decoder(preprocessor.schema, format, columns)
        self._chosen = None if partitions is None else sorted(set(partitions))
        self._starts = start if isinstance(start, Mapping) else {}
        self._latest = start == "latest"
        self._on_lost = on_lost
        self._config = _checked(config or {})
        self._servers = servers
        self._dataset = tensorflow_io("KafkaStream", "tensorflow_io.kafka").KafkaDataset
        self._partitions: dict[str, _Partition] = {}
        self._broker = _Broker(servers, self._config, timeout)
        self._numbers()  # an unknown topic is an error at once

    def _numbers(self) -> list[tuple[str, int]]:
        numbers = []
        for topic in self.topics:
            partitions = self._broker.partitions(topic)
            for number in partitions if self._chosen is None else self._chosen:
                if number not in partitions:
                    raise ValueError(f"KafkaStream: topic {topic!r} has no partition {number}; it has {partitions}.")
                numbers.append((topic, number))
        return numbers

    def _start(self) -> None:
        self._partitions = {}
        first = not self.positions
        for name in self._starts if first else ():
            if name not in [f"{topic}:{number}" for topic, number in self._numbers()]:
                raise ValueError(f"KafkaStream: start names {name!r}, which is not a topic:partition that is read here.")
        for topic, number in self._numbers():
            self._add(topic, number, first)

    def _add(self, topic: str, number: int, first: bool) -> None:
        name = f"{topic}:{number}"
        low, high = self._broker.ends(topic, number)
        if name not in self.positions:
            # A partition that appears later was empty before: its beginning, whatever `start` says.
            self.positions[name] = self._starts.get(name, high if self._latest else low) if first else low
        self._partitions[name] = _Partition(topic, number, self.positions[name], self._open)
        self._check(name, low, high)

    def _check(self, name: str, low: int, high: int) -> None:
        position = self.positions[name]
        if position < low and self._on_lost == "continue":
            self.lost += low - position
            self.positions[name] = low
            self._partitions[name].iterator = None
            self._partitions[name] = dataclasses.replace(self._partitions[name], position=low)
        elif not low <= position <= high:
            what = (
                "the broker has deleted the messages in between; on_lost='continue' continues without them"
                if position < low
                else "it may have been recreated; train into another folder"
            )
            raise ValueError(f"{name}: the next offset to read is {position}, but the topic holds {low} … {high}: {what}.")

    def _look(self) -> bool:
        if self._chosen is None:
            for topic, number in self._numbers():
                if f"{topic}:{number}" not in self._partitions:
                    self._add(topic, number, first=False)
        for name, partition in self._partitions.items():
            if partition.at_end:
                low, high = self._broker.ends(partition.topic, partition.number)
                self._check(name, low, high)
                self._partitions[name].at_end = self.positions[name] >= high
        return any(not partition.at_end for partition in self._partitions.values())

    def _take(self, rows: int) -> list[Piece]:
        ready = [partition for partition in self._partitions.values() if not partition.at_end]
        taken: list[Piece] = []
        for partition in ready:
            if messages := partition.take(min(max(1, rows // len(ready)), rows - sum(map(len, taken)))):
                taken.append(messages)
                self.positions[partition.name] = partition.position
        return taken

    def _pack(self, pieces: Sequence[Piece]) -> Packed | None:
        rows, sources, offsets = [], [], []
        bad: list[BadRow] = []
        for piece in pieces:
            for offset, message in zip(piece.numbers, piece.content, strict=True):
                try:
                    rows.append(self._decoder(message))
                except BadMessage as error:
                    bad.append(BadRow(piece.source, offset, error.column, error.value, error.reason, "offset"))
                    continue
                sources.append(piece.source)
                offsets.append(offset)
        frame = text_frame(self.preprocessor, self._decoder.names, rows)
        return pack(self.preprocessor, frame, sources, offsets, self.bad, bad, "offset")

    def _open(self, topic: str, number: int, offset: int) -> Any:
        properties = {**AHEAD, **self._config, "enable.auto.commit": "false"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a successor that tells no offsets
            dataset = self._dataset(
                [f"{topic}:{number}:{offset}"],
                servers=self._servers,
                group=GROUP,
                eof=True,
                message_offset=True,
                config_global=[f"{key}={value}" for key, value in properties.items()],
                # Without this, a reader whose offset is gone would continue at the end without a word.
                config_topic=["auto.offset.reset=error"],
            )
        return dataset.batch(FETCH).prefetch(2).as_numpy_iterator()

    def close(self) -> None:
        """Leave the broker."""
        for partition in self._partitions.values():
            partition.iterator = None
        self._broker.consumer.close()
        self._ready = False


@dataclasses.dataclass
class _Partition:
    """A partition that is read from a position on, to the end that it has by then."""

    topic: str
    number: int
    position: int
    open: Any
    at_end: bool = True
    iterator: Any = None
    ahead: deque[tuple[int, bytes]] = dataclasses.field(default_factory=deque)

    @property
    def name(self) -> str:
        return f"{self.topic}:{self.number}"

    def take(self, rows: int) -> Piece | None:
        """At most so many messages; fewer at the end, which is left only when `at_end` is reset."""
        ended = False
        while len(self.ahead) < rows and not ended:
            ended = not self._fetch()
        count = min(rows, len(self.ahead))
        self.at_end = ended and not len(self.ahead) > count
        if not count:
            return None
        taken = [self.ahead.popleft() for _ in range(count)]
        self.position = taken[-1][0] + 1
        return Piece(self.name, [offset for offset, _ in taken], [message for _, message in taken])

    def _fetch(self) -> bool:
        from keras_dlrm.data.packed.tf_data import OpError

        if self.iterator is None:
            offset = self.ahead[-1][0] + 1 if self.ahead else self.position
            self.iterator = self.open(self.topic, self.number, offset)
        try:
            messages, offsets = next(self.iterator)
        except StopIteration:
            self.iterator = None
            return False
        except OpError as error:
            self.iterator = None
            what = str(error.message).partition("}} ")[2] or str(error.message)
            raise RuntimeError(f"{self.name}, offset {self.position}: {what.partition(' [Op:')[0]}.") from error
        self.ahead.extend(zip((int(o.rpartition(b":")[2]) for o in offsets), messages, strict=True))
        return True


class _Broker:
    """A connection to a broker, for partitions and offsets of its topics."""

    def __init__(self, servers: str, config: Mapping[str, str], timeout: float) -> None:
        try:
            import confluent_kafka
        except ImportError as error:
            raise ImportError(
                f"KafkaStream needs confluent-kafka, which cannot be imported ({error}): pip install confluent-kafka."
            ) from error
        self._kafka = confluent_kafka
        self._servers = servers
        self._timeout = timeout
        settings = {**config, "bootstrap.servers": servers, "group.id": GROUP, "enable.auto.commit": "false"}
        # Its errors are raised, not logged.
        silent = types.SimpleNamespace(log=lambda *message: None)
        self.consumer = confluent_kafka.Consumer({**settings, "log_level": 0}, logger=silent)

    def partitions(self, topic: str) -> list[int]:
        try:
            metadata = self.consumer.list_topics(topic, timeout=self._timeout).topics[topic]
        except self._kafka.KafkaException as error:
            raise ConnectionError(
                f"KafkaStream: no broker answers at {self._servers} within {self._timeout:g} s "
                f"({error.args[0].str()}); check the address, or give a longer timeout."
            ) from error
        if metadata.error is not None or not metadata.partitions:
            reason = metadata.error.str() if metadata.error is not None else "it has no partitions"
            raise ValueError(f"KafkaStream: topic {topic!r} at {self._servers}: {reason}; create it first.")
        return sorted(metadata.partitions)

    def ends(self, topic: str, number: int) -> tuple[int, int]:
        """Offset of the first message that is there, and of the one that comes next."""
        try:
            partition = self._kafka.TopicPartition(topic, number)
            return self.consumer.get_watermark_offsets(partition, timeout=self._timeout)
        except self._kafka.KafkaException as error:
            raise ConnectionError(f"{topic}:{number} at {self._servers}: {error.args[0].str()}.") from error


def _checked(config: Mapping[str, Any]) -> dict[str, str]:
    for key, value in config.items():
        if key in OURS:
            raise ValueError(f"KafkaStream: config has {key!r}, which is set here; leave it out.")
        if "=" in f"{key}{value}":
            raise ValueError(f"KafkaStream: config[{key!r}] holds a '=', which tensorflow-io cannot pass on.")
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in config.items()}
