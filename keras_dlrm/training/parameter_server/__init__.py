"""Training on parameter servers, TensorFlow's: see docs/parameter-servers.md."""

from keras_dlrm.lazy import lazy
from keras_dlrm.training.parameter_server.cluster import SERVER_LOST as SERVER_LOST
from keras_dlrm.training.parameter_server.cluster import launch as launch
from keras_dlrm.training.parameter_server.cluster import task as task
from keras_dlrm.training.parameter_server.placement import for_servers as for_servers

__all__ = ["SERVER_LOST", "ParameterServerTraining", "ServerLostError", "for_servers", "launch", "serve", "task"]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "ParameterServerTraining": "tensorflow.job",
        "ServerLostError": "tensorflow.job",
        "serve": "tensorflow.serve",
    },
)
