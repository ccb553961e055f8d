"""Batches that are compared on some ranks, and by the oracle on one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist import distributed
from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, PairEmbeddings
from tests.objective.contrastive import oracle

Found = dict[str, Tensor]
"""Loss, figures, and gradients of a and b (B, D)."""


def batch(count: int, dim: int = 5, kind: str = "random") -> tuple[Tensor, Tensor]:
    """Rows a, b (B, D) in float64. Of `tied` ones many are equal, with exact products; of `siblings` each b
    is close to the a before it, too."""
    random = torch.Generator().manual_seed(count)  # the global one belongs to all threads
    if kind == "tied":
        a, b = torch.randint(0, 2, (2, count, dim), generator=random, dtype=torch.float64)
        return a / 2, b / 2
    a, b = functional.normalize(torch.randn(2, count, dim, generator=random, dtype=torch.float64), dim=2)
    near = b + a + (2 * a.roll(1, dims=0) if kind == "siblings" else 0)
    return a, functional.normalize(near, dim=1)


def compared(
    world: World,
    settings: Mapping[str, Any],
    sides: tuple[Tensor, Tensor],
    each: int = 1,
    precision: str = "ieee",
) -> Found:
    """What the contrastive term of all ranks gives: means over ranks, as DeepSpeed takes them."""
    plan = BatchPlan(len(sides[0]) // each, each, 1, world.size)
    mine = slice(world.rank * plan.local_pairs, (world.rank + 1) * plan.local_pairs)
    tree = {"contrastive": settings, "swamp": {"weight": 0}, "precision": precision}
    labels = labels_of(len(sides[0]))[mine]
    objective = build_objective(
        ObjectiveSettings.model_validate(tree),
        plan,
        sides[0].shape[1],
        world.device,
        sides[0].dtype,
        world.rank,
    )
    a, b = (side[mine].clone().requires_grad_() for side in sides)
    logits = logits_of(settings, a)
    entries = (torch.arange(plan.pairs) // each)[mine]
    terms = objective(
        PairEmbeddings(a, b, None, *logits), torch.arange(plan.pairs)[mine], entries, 0, world, labels=labels
    )
    on_a, on_b, *on_logits = torch.autograd.grad(terms.total, (a, b, *logits))
    found = {"loss": terms.total.detach(), **terms.diagnostics}
    means = {name: distributed.mean_over_ranks(value.clone(), world) for name, value in found.items()}
    shared = zip(("on_scale", "on_bias"), on_logits, strict=False)
    means |= {name: distributed.mean_over_ranks(value.clone(), world) for name, value in shared}
    gathered = {"on_a": distributed.gather(on_a, world), "on_b": distributed.gather(on_b, world)}
    return means | {name: rows / world.size for name, rows in gathered.items()}


def expected(settings: Mapping[str, Any], sides: tuple[Tensor, Tensor], each: int = 1) -> Found:
    """The same by the oracle."""
    a, b = (side.clone().requires_grad_() for side in sides)
    x, logits, keys = a @ b.t(), logits_of(settings, a), _keys(settings, len(a), each)
    soft = _soft_targets(settings, a.detach(), b.detach())
    if soft is None:
        loss = _loss(settings, oracle.cells(x), keys, each, logits)
    else:
        loss = oracle.soft_infonce(oracle.cells(x), *soft[0], logits[0])
    loss = len(x) * loss if settings.get("reduction") == "sum" else loss
    on_a, on_b, *on_logits = torch.autograd.grad(loss, (a, b, *logits))
    found = {"loss": loss.detach(), "on_a": on_a, "on_b": on_b}
    found |= dict(zip(("on_scale", "on_bias"), on_logits, strict=False))
    found |= dict(zip(("contrastive/logit_scale", "contrastive/logit_bias"), logits, strict=False))
    counts = x.new_tensor([keys.count(key) for key in keys])
    if settings.get("positives", "partner") != "partner":
        found["contrastive/positives"] = counts.mean()
        if settings.get("multiple_positives") == "mil_nce":
            found["contrastive/log_positives"] = counts.log().mean()
    found |= {} if soft is None else soft[1]
    found = {name: value.detach() for name, value in found.items()}
    return found | oracle.figures(oracle.cells(x.detach()), keys)


def labels_of(count: int) -> Tensor:
    """A class of each pair: some large, some of one pair."""
    return torch.tensor([(i * i) % 7 for i in range(count)])


def logits_of(settings: Mapping[str, Any], like: Tensor) -> list[Tensor]:
    """Scale and bias as a model gives them, where the form has them."""
    values = {"infonce": [7.0], "sigmoid": [7.0, -1.5]}.get(settings.get("form", "all"), [])
    return [like.new_tensor(value).requires_grad_() for value in values]


def _soft_targets(
    settings: Mapping[str, Any], a: Tensor, b: Tensor
) -> tuple[tuple[Tensor, Tensor], Found] | None:
    """Targets of anchors a and of anchors b, and their figures; None where partners have them whole."""
    asked = settings.get("targets")
    if asked is None:
        return None
    count, figures = len(a), {}
    if asked["kind"] == "within_modality":
        found = tuple(oracle.within_modality(side, asked["weight"], asked["temperature"]) for side in (a, b))
    elif asked["kind"] == "balanced_plan":
        numbers = asked["weight"], asked["epsilon"], asked["iterations"]
        found = oracle.balanced_plan(a, b, *numbers), oracle.balanced_plan(b, a, *numbers)
        figures["contrastive/plan_error"] = a.new_tensor(_plan_error(a, b, asked))
    else:
        x, weight = a @ b.t(), asked["weight"]
        of_a, first = oracle.pseudo_positives(x, weight)
        of_b, second = oracle.pseudo_positives(x.t(), weight)
        found = of_a, of_b
        figures["contrastive/pseudo_positives"] = a.new_tensor((first + second) / (2 * count * (count - 1)))
    entropy = sum(torch.special.entr(targets).sum() for targets in found) / (2 * count)
    return found, figures | {"contrastive/target_entropy": entropy}


def _plan_error(a: Tensor, b: Tensor, asked: Mapping[str, Any]) -> float:
    """Mean |share - 1| of what candidates get, the larger of both directions: of the plan before the last
    iteration, which measures it."""
    plans = (
        oracle.balanced_plan(anchors, others, 1.0, asked["epsilon"], asked["iterations"] - 1)
        for anchors, others in ((a, b), (b, a))
    )
    return max(float((plan.sum(dim=0) - 1).abs().mean()) for plan in plans)


def _keys(settings: Mapping[str, Any], count: int, each: int) -> list[int]:
    kinds = {"partner": list(range(count)), "entry": [i // each for i in range(count)]}
    return (kinds | {"class": labels_of(count).tolist()})[settings.get("positives", "partner")]


def _loss(
    settings: Mapping[str, Any], x: oracle.Cells, keys: oracle.Keys, each: int, logits: list[Tensor]
) -> Tensor:
    form, margin = settings.get("form", "all"), settings.get("margin", 0.1)
    if form == "hardest" and not settings.get("all_negatives_steps"):
        return oracle.hardest(x, keys, margin)
    if form == "infonce":
        return oracle.infonce(x, keys, logits[0], settings.get("multiple_positives", "supcon"))
    if form == "sigmoid":
        return oracle.sigmoid(x, keys, logits[0], logits[1])
    share = settings.get("in_entry_share", 0.5) if form == "all" and each > 1 else None
    weights = None if share is None else oracle.entry_weights([i // each for i in range(len(x))], share)
    return oracle.mean_hinge(x, keys, margin, weights)
