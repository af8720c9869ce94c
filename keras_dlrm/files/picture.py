"""Pictures in PNG files, drawn without a window system."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

from keras_dlrm.files.durable import write

INK, GRID = "#333333", "#E3E3E3"


@contextlib.contextmanager
def picture(path: str | os.PathLike[str], title: str, size: tuple[float, float], **spacing: Any) -> Iterator[Any]:
    """An empty Matplotlib figure below a title, which is written as PNG when the block ends without an error."""
    # The object-oriented interface: no global figure, no window system, safe in threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=size, dpi=150, layout=ConstrainedLayoutEngine(**spacing), facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=14, fontweight="bold", color=INK)
    yield figure
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    write(path, drawn.getvalue())
