"""Measured times of a training step, stage by stage, beside the limits of the machine."""

from __future__ import annotations

import dataclasses

from counting import STAGES, Count

WHOLE = ("sum of the stages", "train_on_batch", "fit")


@dataclasses.dataclass
class Profile:
    """Measured times and counted work.

    Attributes:
        seconds: Of each stage, of `train_on_batch` and of `fit`, for one step.
        counts: Of each stage.
        bytes_per_s, flops_per_s: Limits of the machine.
        unique: Rows of tables that a batch looks up, on average.
    """

    seconds: dict[str, float]
    counts: dict[str, Count]
    bytes_per_s: float
    flops_per_s: float
    unique: float

    def __post_init__(self) -> None:
        self.seconds[WHOLE[0]] = sum(self.seconds[stage] for stage in STAGES)
        total = sum(self.counts.values(), Count())
        self.counts |= dict.fromkeys(WHOLE, total)

    def least(self, stage: str) -> float:
        """Seconds that the limits allow."""
        return self.counts[stage].seconds(self.bytes_per_s, self.flops_per_s)

    def rows(self) -> list[dict[str, str]]:
        """The table."""
        rows, fit = [], self.seconds["fit"]
        for name in (*STAGES, *WHOLE):
            count, seconds = self.counts[name], self.seconds[name]
            bound = "bytes" if count.bytes / self.bytes_per_s >= count.flops / self.flops_per_s else "FLOP"
            rows.append(
                {"stage": name, "ms": f"{1e3 * seconds:.2f}", "of fit": f"{seconds / fit:.1%}",
                 "MFLOP": _digits(count.flops / 1e6), "MB": _digits(count.bytes / 1e6), "FLOP/byte": _digits(count.intensity),
                 "GFLOP/s": _digits(count.flops / seconds / 1e9), "GB/s": _digits(count.bytes / seconds / 1e9),
                 "least ms": _digits(1e3 * self.least(name)), "limited by": bound,
                 "share of the limit": f"{self.least(name) / seconds:.1%}"}
            )  # fmt: skip
        left = fit - self.seconds[WHOLE[0]]
        rest = {"stage": "left over in fit", "ms": f"{1e3 * left:.2f}", "of fit": f"{left / fit:.1%}"}
        rows.append({key: rest.get(key, "") for key in rows[0]})
        widest = {key: max(len(row[key]) for row in rows) for key in rows[0]}
        return [{k: cell if k == "stage" else cell.rjust(widest[k]) for k, cell in row.items()} for row in rows]


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
