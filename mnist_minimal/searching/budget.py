"""What a search may spend: time, or images that trainings take."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mnist_minimal.errors import UserError

SECONDS = {"h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Budget:
    """Either of the two.

    Attributes:
        seconds: Wall-clock time, or None.
        passes: Images that all trainings take, each as often as it is taken; or None.
    """

    seconds: float | None = None
    passes: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """A budget as text: "2h", "30m", "1h30m" or "90s" of time; "5e9" or "250000" passes.

        Raises:
            UserError: if it is none.
        """
        parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text, re.ASCII)
        if parts and "".join(number + unit for number, unit in parts) == text:
            seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
            if seconds:
                return cls(seconds=seconds)
        if re.fullmatch(r"\d{1,18}(\.\d{1,18})?(e\d{1,2})?", text, re.ASCII) and float(text) >= 1:
            return cls(passes=int(float(text)))
        raise UserError(
            f"expected a time such as 2h, 30m or 1h30m, or a number of image passes such as 5e9, found {text!r}"
        )


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """How long at least one of the intervals, each from a time until another, lasted."""
    total, reached = 0.0, float("-inf")
    for begun, until in sorted(intervals):
        total += max(0.0, until - max(begun, reached))
        reached = max(reached, until)
    return total
