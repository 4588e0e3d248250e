"""What a smaller model may cost and must reach: the limits that the user cares about, turned into pass or fail."""

import math
from dataclasses import dataclass

from budwood.core.errors import UsageError

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """Limits for `shrink`; None means no limit.

    Raises:
        UsageError: a limit is out of range; the message names the range.
    """

    max_drop: float = 0.01
    """Largest drop of the headline metric against the parent, as a share: 0.01 is one point."""
    max_p95_ms: float | None = None
    """Largest 95th percentile of the end-to-end time of one row, in milliseconds, on this machine."""
    max_mb: float | None = None
    """Largest size of what a server loads, in megabytes (10^6 bytes)."""
    max_class_drop: float = 0.1
    """Largest drop of a single class, as a share; a larger one counts when it is more than chance."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise UsageError(
                f"max_drop is {self.max_drop:g}, expected a share with 0 <= max_drop < 1",
                where="--max-drop",
                fix="for one point of accuracy type --max-drop 0.01",
            )
        if not 0 <= self.max_class_drop <= 1:
            raise UsageError(
                f"max_class_drop is {self.max_class_drop:g}, expected a share with 0 <= max_class_drop <= 1",
                where="--max-class-drop",
                fix="for ten points type --max-class-drop 0.1; 1 sets no floor",
            )
        for name, value in (("max_p95_ms", self.max_p95_ms), ("max_mb", self.max_mb)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(
                    f"{name} is {value:g}, expected a positive number",
                    where=f"--{name.replace('_', '-')}",
                    fix="leave it out for no limit",
                )

    def __str__(self) -> str:
        points = f"{100 * self.max_drop:g}"
        parts = [f"drop below {points} point{'' if points == '1' else 's'}"]
        parts += [f"p95 up to {self.max_p95_ms:g} ms"] if self.max_p95_ms is not None else []
        parts += [f"up to {self.max_mb:g} MB"] if self.max_mb is not None else []
        return ", ".join(parts)

    def check(self, p95_ms: float, size_mb: float) -> list[str]:
        """The limits of speed and size that are not met, one sentence each; empty when all are.

        The drop is not checked here: a number alone cannot, it takes the paired test of `statistics.non_inferiority`.
        """
        reasons = []
        if self.max_p95_ms is not None and not p95_ms <= self.max_p95_ms:
            reasons.append(f"p95 {p95_ms:.1f} ms is above {self.max_p95_ms:g} ms")
        if self.max_mb is not None and not size_mb <= self.max_mb:
            reasons.append(f"{size_mb:.1f} MB is above {self.max_mb:g} MB")
        return reasons
