"""Click logs with a known best answer."""
