"""Parameter servers of TensorFlow: `tf.distribute.ParameterServerStrategy` and its `ClusterCoordinator`."""
