"""Scores of an evaluation, normalised by a bank of training queries."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from swamp_dist.bounds import Count, Scale, Seed
from swamp_dist.settings import Settings

_USED = {"qb_norm": {"beta", "nearest"}, "sinkhorn": {"epsilon"}}


class NormaliseSettings(Settings):
    """What is taken off the scores of every item that is ranked, s(i, j) - h(j), so that no item stands near
    every query.

    h is found from the gallery and a bank of training queries alone, never from the queries that are ranked;
    it knows the gallery as a whole, so an evaluation by it is transductive in the gallery."""

    method: Literal["qb_norm", "sinkhorn"]
    """`qb_norm`: h(j) = log sum_b exp(beta s(b, j)) / beta over the bank, for queries whose nearest item is
    among the `nearest` of a bank query; scores of the others stay (QB-Norm with the dynamic inverted softmax,
    Bogolin et al. 2022). `sinkhorn`: h(j) = -epsilon log v_j of the plan under which the bank is shared
    evenly by the gallery, for all queries (as Pan et al. 2025, with a bank of queries alone)."""
    bank: str
    """Split of the bank, `train` as a rule; never the evaluated one. Texts are ranked by its texts, and the
    other modality by its own."""
    entries: Count = 10_000
    """Entries of the bank with all their items, drawn by `seed`; at most all."""
    seed: Seed = 0
    """Of the draw: a part of the figures' definition, whatever the seed of the training."""
    beta: Scale = 20.0
    """`qb_norm`: inverse temperature."""
    nearest: Count = 1
    """`qb_norm`: items of each bank query that count as near to some; k of the paper."""
    epsilon: Scale = 0.05
    """`sinkhorn`: entropic regularisation; 1 / beta."""

    @property
    def title(self) -> str:
        """What figures are told apart by."""
        return f"{self.method} by {self.bank}"

    @model_validator(mode="after")
    def _settings_count(self) -> NormaliseSettings:
        fields = type(self).model_fields
        for name in ("beta", "nearest", "epsilon"):
            value = getattr(self, name)
            if name not in _USED[self.method] and value != fields[name].default:
                raise ValueError(
                    f"{name} = {value:g} with method = {self.method}: it would not count; set another "
                    f"method, or leave {name} at {fields[name].default:g}"
                )
        if self.method == "sinkhorn" and self.epsilon < 1e-3:
            raise ValueError(
                f"epsilon = {self.epsilon:g}: scores are rounded to float32, so exponents of the plan "
                f"would be off by {2.0**-24 / self.epsilon:.2g}; expected at least 0.001"
            )
        return self
