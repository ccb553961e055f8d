"""Mean, deviation and Student's t interval of a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Mean over n values; the sample deviation (n - 1) and the 95% t interval need n > 1."""

    mean: float
    n: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def summarize(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Mean, sample deviation and two-sided t interval of at least one value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(mean, n)
    sd = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1))
    half = t_quantile(0.5 + confidence / 2, n - 1) * sd / math.sqrt(n)
    return Summary(mean, n, sd, mean - half, mean + half)


def t_quantile(probability: float, freedom: int) -> float:
    """x with P(T <= x) = probability for Student's t with `freedom` degrees of freedom; probability in (0,
    1)."""
    from scipy.special import stdtrit  # what scipy.stats.t.ppf calls; scipy.stats takes a second to import

    return float(stdtrit(freedom, probability))
