"""A broker for tests, as a process of its own: librdkafka's, which keeps messages in memory and speaks Kafka over TCP.

Prints its address, then carries out one JSON command a line: `{"topic": …, "partition": …, "messages": […]}` appends.
It answers each with the number of messages that the broker acknowledged, and ends with its standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class Broker:
    """The process, seen from a test."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).resolve())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the broker has ended"
        return line

    def produce(self, topic: str, messages: list[Any], partition: int = 0, compression: str = "none") -> None:
        """Append messages, JSON values or bytes, to a partition; returns when the broker has them."""
        texts = [m.decode("latin-1") if isinstance(m, bytes) else json.dumps(m) for m in messages]
        command = {"topic": topic, "partition": partition, "compression": compression, "messages": texts}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        assert int(self._answer()) == len(messages)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()


def main() -> None:
    from confluent_kafka import Producer

    host = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(host.list_topics(timeout=20).brokers.values()))
    address = f"{broker.host}:{broker.port}"
    print(address, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        acknowledged: list[Any] = []
        producer = Producer(
            {"bootstrap.servers": address, "compression.type": command["compression"], "queue.buffering.max.messages": 0}
        )

        def count(error: Any, message: Any, to: list[Any] = acknowledged) -> None:
            if error is None:
                to.append(message.offset())

        for text in command["messages"]:
            producer.produce(
                command["topic"], text.encode("latin-1"), partition=command["partition"], on_delivery=count
            )
            producer.poll(0)
        producer.flush(30)
        print(len(acknowledged), flush=True)


if __name__ == "__main__":
    main()
