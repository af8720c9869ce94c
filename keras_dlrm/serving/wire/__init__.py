"""Requests and answers on the wire: tensors, JSON, tf.Examples, error statuses."""
