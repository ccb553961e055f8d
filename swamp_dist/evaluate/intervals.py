"""Mean, deviation and Student's t interval of a few numbers; the quantile is computed here, without scipy."""

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
    """x with P(T <= x) = probability for Student's t with `freedom` degrees of freedom.

    Bisection on the upper tail P(T > x) = I_{v/(v+x^2)}(v/2, 1/2) / 2; probability in (0, 1).
    """
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while _upper_tail(high, freedom) > 1 - probability:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        if _upper_tail(middle, freedom) > 1 - probability:
            low = middle
        else:
            high = middle
    return middle


def _upper_tail(x: float, freedom: int) -> float:
    return regularized_beta(freedom / (freedom + x * x), freedom / 2, 0.5) / 2


def regularized_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, for x in [0, 1] and a, b > 0.

    The continued fraction (Abramowitz & Stegun 26.5.8) converges fast below the mean of the
    distribution; above it the symmetry I_x(a, b) = 1 - I_{1-x}(b, a) is used.
    """
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - regularized_beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _beta_fraction(x, a, b))


def _beta_fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)) of 26.5.8, by Lentz's method."""
    tiny, value, c, d = 1e-300, 1.0, 1.0, 0.0
    for step in range(1, 10_000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise ArithmeticError(f"the incomplete beta function did not converge at x = {x}, a = {a}, b = {b}")
