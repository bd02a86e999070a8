"""Numbers in few characters, for lines and bars that people read."""

import math
import statistics
from collections.abc import Callable, Sequence

from tqdm import tqdm

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}  # of time, in seconds


def three_digits(value: float) -> str:
    """5.68, 10.8, 292, 12.3k, 1.23M: up to five characters for numbers from 0.01 on."""
    return tqdm.format_sizeof(value) if math.isfinite(value) else f"{value}"


def four_digits(value: float) -> str:
    """4.213, 24.35, 292.3, and larger ones in three, 49.0k, or as 3e15: up to five characters for positive numbers."""
    for limit, decimals in ((9.9995, 3), (99.995, 2), (999.95, 1)):
        if value < limit:
            return f"{value:.{decimals}f}"
    return power(value, 0) if value >= 1e15 else three_digits(value)


def power(value: float, decimals: int = 1) -> str:
    """2.5e-4: a number of any size, its exponent without zeros."""
    mantissa, e, exponent = f"{value:.{decimals}e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def plain(value: float) -> str:
    """0.312, 1.2, 142, and 2.5e-4 or 3.1e4 for what is far smaller or larger."""
    return f"{value:.3g}" if 0.1 <= value < 999.5 else power(value)


def duration(seconds: float) -> str:
    """45s, 4.5m, 12h, 3.2d: two digits in the largest unit that fits; ? for what nobody knows."""
    if not math.isfinite(seconds):
        return "?"
    unit = next((unit for unit, size in UNITS.items() if seconds >= size), "s")
    value = seconds / UNITS[unit]
    return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"


def with_spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    """24.35 ± 0.12: the mean, and the standard deviation where there are several values."""
    spread = f" ± {write(deviation(values))}" if len(values) > 1 else ""
    return write(statistics.fmean(values)) + spread


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; NaN where it has a single value, or one that is not finite."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan
