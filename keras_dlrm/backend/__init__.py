"""The seam: all that is special to TensorFlow, JAX or torch, one adapter each."""
