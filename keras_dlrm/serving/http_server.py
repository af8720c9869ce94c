"""HTTP connections: uvicorn that refuses what is over the limits, ends gently and survives a lack of descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import logging
import socket
import struct
import sys
from collections import Counter
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from keras_dlrm.serving.limits import Limits

# A client may have connected just before the server stops: its request is waited for so long, and answered.
_LAST_REQUEST_SECONDS, _LAST_WORD_SECONDS = 0.5, 1.0
log = logging.getLogger("keras_dlrm.serving")
_ACCEPTED_AT_ONCE, _RETRY_SECONDS = 16, 0.05
_HANDSHAKE_SECONDS = 0.1
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def stop_handshakes(listening: socket.socket) -> None:
    """Let no connection begin any more, so that those that have begun can be accepted before the socket is closed.

    Linux resets what waits to be accepted when a listening socket closes, and between the last look and the close
    one more may come. So the kernel is told to drop SYN packets (a socket filter, see bpf(4)): the client tries again
    after a second and is refused, or comes to another server. Elsewhere than on Linux nothing is done.
    """
    if sys.platform != "linux":
        return
    # Load the byte of TCP's flags; return 0 (drop) if of SYN and ACK only SYN is set, else all of the packet.
    steps = [(0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    with contextlib.suppress(OSError):  # a kernel without filters
        attach_filter = 26  # SO_ATTACH_FILTER, which the socket module does not know
        listening.setsockopt(socket.SOL_SOCKET, attach_filter, struct.pack("HL", len(steps), ctypes.addressof(program)))


class Connections:
    """The open connections by client; those that wait for a request in the order in which they began to."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[str, dict[Connection, None]] = {}
        self._open: Counter[str] = Counter()
        self.stopping = False

    def enter(self, connection: Connection, client: str) -> bool:
        """Count a new connection in, making room where there is none; `False` where all others are being answered."""
        self._open[client] += 1
        if self._open[client] > self._limits.client_connections:
            return self._make_room(client)
        if self._open.total() > self._limits.connections:
            return self.make_room()
        return True

    def leave(self, connection: Connection, client: str) -> None:
        """Count a closed connection out."""
        self.answering(connection, client)
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]
            self._waiting.pop(client, None)

    def waiting(self, connection: Connection, client: str) -> None:
        """Note that a connection waits for a request from now on."""
        self._waiting.setdefault(client, {})[connection] = None

    def answering(self, connection: Connection, client: str) -> None:
        """Note that a connection's request has arrived."""
        self._waiting.get(client, {}).pop(connection, None)

    def make_room(self) -> bool:
        """Close what has waited longest of the client that has most waiting; `False` where none waits."""
        return self._make_room(max(self._waiting, key=lambda client: len(self._waiting[client]), default=""))

    def _make_room(self, client: str) -> bool:
        oldest = next(iter(self._waiting.get(client, {})), None)
        if oldest is None:
            return False
        self.answering(oldest, client)
        oldest.refuse(503, "all connections are taken, and this one has waited longest.", at_once=True)
        return True


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with bounds: a client has `request_seconds` to send a request, and as many to read the answer."""

    def __init__(self, limits: Limits, table: Connections, **others: Any) -> None:
        super().__init__(**others)
        self._limits, self._table = limits, table
        self._timer: asyncio.TimerHandle | None = None
        self._address = ""
        self._deaf = False  # whether the last word is said
        self._new_request()

    def _new_request(self) -> None:
        self._receiving = self._heading = False  # whether a request has begun and not ended; whether its headers have not
        self._head_bytes = self._heads = self._unread = 0
        self._refused: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if not self._table.enter(self, self._address):
            self.refuse(503, "all connections are taken; try again.", at_once=True)
            return
        self._table.waiting(self, self._address)
        self._start_timer()
        if self._table.stopping:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._table.leave(self, self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return
        if self._timer is None and not self._busy:
            self._start_timer()
        self._unread += len(data)
        super().data_received(data)
        # What the parser keeps to itself: a header, or an extension of a chunk, that never ends.
        if self._unread > self._limits.header_bytes:
            self.refuse(431, f"the headers are larger than the {self._limits.header_bytes} bytes allowed.")

    @property
    def _busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def on_message_begin(self) -> None:
        self._new_request()
        self._receiving = self._heading = True
        if self._timer is None or self._table.stopping:
            self._start_timer()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._heads += 1
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._heading, self._unread = False, 0
        super().on_headers_complete()
        if self._table.stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving, self._unread = False, 0
        if self._busy:
            self._stop_timer()
            self._table.answering(self, self._address)
        else:  # it was answered before all of it was read
            self._start_timer()
        super().on_message_complete()

    def _count_head(self, count: int) -> None:
        self._unread = 0
        self._head_bytes += count
        limits = self._limits
        if self._head_bytes > limits.header_bytes:
            self._refused = 431, f"the headers are larger than the {limits.header_bytes} bytes allowed."
        elif self._heads > limits.headers:
            self._refused = 431, f"the request has more than the {limits.headers} headers allowed."
        if self._refused:
            raise ValueError(self._refused[1])  # the parser stops, and uvicorn sends what `send_400_response` says

    def send_400_response(self, msg: str) -> None:
        """Not HTTP, or beyond a bound."""
        self.refuse(*(self._refused or (400, "the request is not HTTP.")))

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            self._abort_later()
        else:
            self._table.waiting(self, self._address)
        super().on_response_complete()

    def refuse(self, status: int, why: str, at_once: bool = False) -> None:
        """Say why, where an answer is owed, and close: after a moment, unless `at_once`, so that the client can read it."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        if self.cycle is None or self._heading or not self.cycle.response_started:
            body = json.dumps({"error": why}).encode()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        if at_once:
            self._close()
        else:
            self.transport.write_eof()
            self._stop_timer()
            self._timer = self.loop.call_later(_LAST_WORD_SECONDS, self._close)

    def shutdown(self) -> None:
        """The server stops: the request that runs, or that a client is just sending, is the last one."""
        if self._busy:
            self.cycle.keep_alive = False
        elif not self._receiving:
            self._stop_timer()
            self._timer = self.loop.call_later(_LAST_REQUEST_SECONDS, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        if not self._busy:
            self._close()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
            self._abort_later()

    def _abort_later(self) -> None:
        """A client that does not read keeps no memory of ours."""
        self._stop_timer()
        self._timer = self.loop.call_later(self._limits.request_seconds, self.transport.abort)

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self._limits.request_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self._busy and not self.cycle.more_body:
            self._start_timer()  # the next request already comes in while one is answered
        elif self._receiving:
            self.refuse(408, f"the request did not arrive within {self._limits.request_seconds:g} s.")
        else:
            self.timeout_keep_alive_handler()


class HttpServer(uvicorn.Server):
    """uvicorn, with an accepting loop that survives a lack of file descriptors, and an end that resets no connection."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket, limits: Limits) -> None:
        super().__init__(config)
        self._table, self._limits, self._listening = Connections(limits), limits, listening
        self._taking: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._listening.setblocking(False)
        self._listening.listen(self.config.backlog)
        self._accept_when_there_is_one()
        await super().startup(sockets=[])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the connections that wait to be accepted, no more of them, and answer what runs."""
        stop_handshakes(self._listening)
        await asyncio.sleep(_HANDSHAKE_SECONDS)  # for those under way
        asyncio.get_running_loop().remove_reader(self._listening)
        self._table.stopping = True
        while self._accept():
            pass
        self._listening.close()
        await asyncio.gather(*self._taking, return_exceptions=True)
        await super().shutdown(sockets=[])

    def _accept_when_there_is_one(self) -> None:
        if not self._table.stopping:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _accept(self) -> bool:
        """Accept some connections; whether there may be more."""
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    if not self._table.make_room():
                        log.error("a connection cannot be accepted: %s", error.strerror)
                    loop.remove_reader(self._listening)
                    loop.call_later(_RETRY_SECONDS, self._accept_when_there_is_one)
                    return False
                continue  # the client is gone
            task = loop.create_task(self._take(accepted))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)
        return True

    async def _take(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        options = {"config": self.config, "server_state": self.server_state, "app_state": {}}
        connection = partial(Connection, self._limits, self._table, **options)
        await asyncio.get_running_loop().connect_accepted_socket(connection, accepted)
