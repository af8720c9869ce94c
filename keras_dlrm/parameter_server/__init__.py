"""Training on parameter servers, TensorFlow's: see docs/parameter-servers.md."""

from keras_dlrm.parameter_server.cluster import SERVER_LOST as SERVER_LOST
from keras_dlrm.parameter_server.cluster import launch as launch
from keras_dlrm.parameter_server.cluster import task as task
from keras_dlrm.parameter_server.placement import for_servers as for_servers
from keras_dlrm.support.lazy import lazy

__all__ = ["SERVER_LOST", "ParameterServerTraining", "ServerLostError", "for_servers", "launch", "serve", "task"]
__getattr__, __dir__ = lazy(__name__, {"ParameterServerTraining": "job", "ServerLostError": "job", "serve": "serve"})
