"""`NotFinite`, the error for NaN and infinity."""


class NotFinite(ValueError):
    """A loss or a weight is NaN or infinite."""
