"""Asynchronous training on TensorFlow's parameter servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_dlrm.parameter_server.cluster import SERVER_LOST as SERVER_LOST
from keras_dlrm.parameter_server.cluster import launch as launch
from keras_dlrm.parameter_server.cluster import task as task
from keras_dlrm.parameter_server.placement import for_servers as for_servers
from keras_dlrm.support.lazy import lazy

if TYPE_CHECKING:
    from keras_dlrm.parameter_server.chief import ParameterServerTraining as ParameterServerTraining
    from keras_dlrm.parameter_server.chief import ServerLostError as ServerLostError
    from keras_dlrm.parameter_server.server import serve as serve

__all__ = ["SERVER_LOST", "ParameterServerTraining", "ServerLostError", "for_servers", "launch", "serve", "task"]
__getattr__, __dir__ = lazy(__name__, {"ParameterServerTraining": "chief", "ServerLostError": "chief", "serve": "server"})
