"""Quantization of embedding rows: int8, int4, float16, bfloat16 (NumPy)."""

import dataclasses

import ml_dtypes
import numpy as np

from keras_dlrm.support.arguments import choice

KINDS = ("float32", "bfloat16", "float16", "int8", "int4")
_FLOATS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@dataclasses.dataclass(frozen=True)
class QuantizedRows:
    """n rows of a table of width D, as they are stored.

    Codes are the rows themselves for the kinds of float. `"int8"`: int8 (n, D). `"int4"`: uint8 (n, ⌈D/2⌉), two codes a byte: the
    low halves are columns 0 … ⌈D/2⌉-1, the high halves the others.
    """

    kind: str  # one of `KINDS`
    width: int
    codes: np.ndarray
    scale: np.ndarray | None = None  # bfloat16 (n, 1), what one step of a code is worth; `None` for floats
    offset: np.ndarray | None = None  # bfloat16 (n, 1), what the code 0 is worth; `None` where it is 0

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Stored arrays by name."""
        arrays = {"codes": self.codes, "scale": self.scale, "offset": self.offset}
        return {name: array for name, array in arrays.items() if array is not None}


def layout(kind: str, width: int) -> dict[str, tuple[np.dtype, int]]:
    """Arrays that `quantize` makes of rows of a width: name → dtype and columns.

    Example:

    >>> {name: (dtype.name, columns) for name, (dtype, columns) in layout("int8", 16).items()}
    {'codes': ('int8', 16), 'scale': ('bfloat16', 1)}
    """
    some = quantize(np.zeros((1, width), np.float32), kind)
    return {name: (array.dtype, array.shape[1]) for name, array in some.arrays.items()}


def row_bytes(kind: str, width: int) -> int:
    """Bytes of a stored row of a width.

    Example:

    >>> [row_bytes(kind, 16) for kind in KINDS]
    [64, 32, 32, 18, 12]
    """
    return sum(dtype.itemsize * columns for dtype, columns in layout(kind, width).values())


def quantize(rows: np.ndarray, kind: str) -> QuantizedRows:
    """Rows of a table → their codes, each row with a scale of its own.

    - `"int8"`: x ≈ code · scale, codes -127 … 127, the largest of a row's magnitudes at the end.
    - `"int4"`: x ≈ code · scale + offset, codes 0 … 15 from a row's smallest value to its largest.
    - `"float32"`, `"bfloat16"`, `"float16"`: x rounded to the nearest.

    Scales and offsets are bfloat16, which has float32's range: 16 int8 columns and their scale are 18 bytes of 64. They
    are rounded outwards, before codes are computed: an element is off by at most half a step.

    Args:
        rows: float32 (n, D), finite.
        kind: One of `KINDS`.

    Raises:
        ValueError: unknown kind; a value that is not finite, or too large for the kind.

    Source: Guan et al. 2019, "Post-Training 4-bit Quantization on Embedding Tables".

    Example:

    >>> q = quantize(np.array([[127.0, -64.0, 0.4, 0.0], [0.5, 0.25, 0.0, 0.0]], np.float32), "int8")
    >>> q.codes.tolist(), q.scale[:, 0].astype(np.float32).tolist()
    ([[127, -64, 0, 0], [126, 63, 0, 0]], [1.0, 0.0039...])
    """
    choice("quantize", "tables", kind, KINDS)
    rows = np.asarray(rows, np.float32)
    if rows.ndim != 2:
        raise ValueError(f"quantize: rows have the shape {rows.shape}; they must be (n, D).")
    width = rows.shape[1]
    if kind not in ("float32", "bfloat16"):  # those hold every float32, if only nearly
        # A sum of squares, say, would overflow; the extremes of each row show NaN and infinity, too.
        most = np.abs(rows).max(axis=1, initial=0)
        limit = 65504.0 if kind == "float16" else np.finfo(np.float32).max / 2
        bad = ~(most <= limit)
        if bad.any():
            row = int(np.argmax(bad))
            fix = f"of tables that are stored as {kind} all must be finite and at most {limit:g}. Use 'float32', or mend the row."
            raise ValueError(f"quantize: row {row} has a value of {most[row]}; {fix}")
    if kind in _FLOATS:
        return QuantizedRows(kind, width, rows.astype(_FLOATS[kind]))
    if kind == "int8":
        scale = _up(np.abs(rows).max(axis=1, keepdims=True, initial=0) / np.float32(127))
        return QuantizedRows(kind, width, np.rint(_steps(rows, scale)).astype(np.int8), scale)
    offset = -_up(-rows.min(axis=1, keepdims=True, initial=np.inf))
    above = rows - offset.astype(np.float32)
    scale = _up(above.max(axis=1, keepdims=True, initial=0) / np.float32(15))
    codes = np.rint(_steps(above, scale)).astype(np.uint8)
    half = -(-width // 2)
    packed = codes[:, :half].copy()
    packed[:, : width - half] |= codes[:, half:] << 4
    return QuantizedRows(kind, width, packed, scale, offset)


def dequantize(quantized: QuantizedRows) -> np.ndarray:
    """Rows that the codes stand for: float32 (n, D), as every exported graph computes them.

    Example:

    >>> dequantize(quantize(np.array([[0.0, 0.5, 1.5]], np.float32), "int4")).tolist()
    [[0.0, 0.5..., 1.5...]]
    """
    codes = quantized.codes
    if quantized.kind == "int4":
        codes = np.concatenate([codes & 15, codes >> 4], axis=1)[:, : quantized.width]
    rows = codes.astype(np.float32)
    if quantized.scale is not None:
        rows *= quantized.scale.astype(np.float32)
    if quantized.offset is not None:
        rows += quantized.offset.astype(np.float32)
    return rows


def _up(values: np.ndarray) -> np.ndarray:
    """float32 → bfloat16, towards positive infinity."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    # The lower half is cut off: of a positive number that goes down, of a negative one up.
    bits = np.where(values > 0, bits + np.uint32(0xFFFF), bits)
    return (bits >> np.uint32(16)).astype(np.uint16).view(ml_dtypes.bfloat16)


def _steps(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    steps = scale.astype(np.float32)
    # A row without a scale is constant.
    counted: np.ndarray = np.divide(rows, steps, out=np.zeros_like(rows), where=steps > 0)
    return counted
