"""The error where numbers stop being numbers."""


class NotFinite(ValueError):
    """A loss or a weight is NaN or infinite."""
