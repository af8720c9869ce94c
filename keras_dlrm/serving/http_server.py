"""HTTP server: uvicorn, with a gentle end and tolerance for a lack of file descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from functools import partial

import uvicorn

from keras_dlrm.serving.http_connection import Connection, Connections
from keras_dlrm.serving.limits import Limits

log = logging.getLogger("keras_dlrm.serving")
_ACCEPTED_AT_ONCE, _RETRY_SECONDS = 16, 0.05
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class HttpServer(uvicorn.Server):
    """uvicorn, with an accepting loop that survives a lack of file descriptors, and an end that resets no connection.

    asyncio's own loop logs a traceback for each connection that it cannot accept, thousands in a second.
    """

    def __init__(self, config: uvicorn.Config, listening: socket.socket, limits: Limits) -> None:
        self._table = Connections(limits)
        self._limits = limits
        super().__init__(config)
        self._listening = listening
        self._taking: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._listening.setblocking(False)
        self._listening.listen(self.config.backlog)
        self._accept_when_there_is_one()
        await super().startup(sockets=[])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the connections that wait to be accepted, no more of them, and answer what runs."""
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
