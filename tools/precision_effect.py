"""What `objective.precision` does to similarities, losses, gradients and ranks, on any machine.

    python tools/precision_effect.py [--pairs 4096] [--dim 512] [--only terms] [--only ranks]

The first tables compare one step of the contrastive term with float64, on simulated unit rows whose pairs
are alike. The last trains two small networks with each precision and compares the ranks of unseen pairs,
which are counted in float64 throughout. What another order of float32's sums (`chunk`) and another start do
to ranks stands beside: a training magnifies any rounding. Printed as Markdown; nothing is asserted.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from swamp_dist import SwampLoss
from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import alone
from swamp_dist.objective.objective import build_objective
from swamp_dist.objective.products import Precision, cosine_bound, multiply
from swamp_dist.records import BatchPlan, PairEmbeddings

PRECISIONS: tuple[Precision, ...] = ("ieee", "tf32", "bf16")
FORMS: dict[str, dict[str, Any]] = {
    "infonce, T 0.05": {"form": "infonce", "temperature": 0.05},
    "infonce, T 0.1": {"form": "infonce", "temperature": 0.1},
    "sigmoid, T 0.1": {"form": "sigmoid", "temperature": 0.1},
    "all, margin 0.1": {"form": "all", "margin": 0.1},
    "all, margin 0.2": {"form": "all", "margin": 0.2},
    "hardest, margin 0.2": {"form": "hardest", "margin": 0.2},
}
WIDTH, LATENT, TRAINED, TESTED, BATCH = 64, 24, 4096, 1000, 256


class Effect(NamedTuple):
    """How far a step is from float64, as shares of what float64 says."""

    loss: float
    typical: float
    """Median over rows of |g - g*| / |g*|."""
    worst: float
    """The largest of them."""


def similar_rows(pairs: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows a, b (B, D), float64, of float32 numbers; the cosine of a pair is 0.2 on average.

    At D = 512 one similarity in seventy then violates a margin of 0.1.
    """
    random = torch.Generator().manual_seed(seed)
    a, noise = torch.randn(2, pairs, dim, generator=random)
    rows = functional.normalize(a, dim=1), functional.normalize(a + 5 * noise, dim=1)
    return rows[0].double(), rows[1].double()


def step(
    asked: dict[str, Any], sides: tuple[Tensor, Tensor], precision: Precision
) -> tuple[float, list[Tensor]]:
    """Loss and gradients (B, D) of one step of the term alone."""
    tree = {"contrastive": asked, "swamp": {"weight": 0}, "precision": precision}
    pairs, dim = sides[0].shape
    plan, ids = BatchPlan(pairs, 1, 1, 1), torch.arange(pairs)
    objective = build_objective(
        ObjectiveSettings.model_validate(tree), plan, dim, torch.device("cpu"), sides[0].dtype
    )
    leaves = [side.clone().requires_grad_() for side in sides]
    loss = objective(PairEmbeddings(leaves[0], leaves[1], None), ids, ids, 0, alone()).total
    return float(loss.detach()), [g.double() for g in torch.autograd.grad(loss, leaves)]


def effects(asked: dict[str, Any], sides: tuple[Tensor, Tensor]) -> dict[Precision, Effect]:
    """Of one form, for every precision."""
    exact_loss, exact = step(asked, sides, "ieee")
    found = {}
    for precision in PRECISIONS:
        loss, gradients = step(asked, (sides[0].float(), sides[1].float()), precision)
        off = torch.cat([(g - e).norm(dim=1) for g, e in zip(gradients, exact, strict=True)])
        sizes = torch.cat([e.norm(dim=1) for e in exact])
        shares = (off / sizes)[sizes > 0]  # an item that a hinge does not pull has none
        found[precision] = Effect(abs(loss / exact_loss - 1), float(shares.median()), float(shares.max()))
    return found


def similarity_errors(sides: tuple[Tensor, Tensor], precision: Precision) -> tuple[float, float]:
    """Root mean square and largest |x - x*| over all pairs of rows."""
    a, b = sides
    off = multiply(b.float(), a.float().t(), precision).double().sub_(b @ a.t()).abs_()
    return float(off.square().mean().sqrt()), float(off.max())


def print_terms(pairs: int, dim: int) -> None:
    sides = similar_rows(pairs, dim)
    print(f"{pairs:,} pairs, D = {dim}\n")
    print("| precision | similarity: typical | worst | bound |\n|---|---|---|---|")
    for precision in PRECISIONS:
        typical, worst = similarity_errors(sides, precision)
        print(f"| {precision} | {typical:.1e} | {worst:.1e} | {cosine_bound(precision):.1e} |", flush=True)
    print("\n| form | precision | loss | gradient of a row: typical | worst |\n|---|---|---|---|---|")
    for form, asked in FORMS.items():
        for precision, found in effects(asked, sides).items():
            figures = " | ".join(f"{x:.1e}" for x in found)
            print(f"| {form} | {precision} | {figures} |", flush=True)


# -- ranks -----------------------------------------------------------------------------------------


def simulated(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (n, WIDTH) of two modalities: different functions of the same hidden vector, with noise."""
    fixed, random = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    maps = torch.randn(2, LATENT, WIDTH, generator=fixed)
    hidden = torch.randn(count, LATENT, generator=random)
    noise = torch.randn(2, count, WIDTH, generator=random)
    return torch.tanh(hidden @ maps[0] / 3) + noise[0] / 2, torch.tanh(hidden @ maps[1] / 3) + noise[1] / 2


def trained(objective: dict[str, Any], dim: int, steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit embeddings (t, D) of unseen pairs after so many steps of Adam, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        towers = [nn.Sequential(nn.Linear(WIDTH, 256), nn.ReLU(), nn.Linear(256, dim)) for _ in range(2)]
    loss = SwampLoss(dim, {"swamp": {"weight": 0}} | objective)
    optimizer = torch.optim.Adam([p for tower in towers for p in tower.parameters()], lr=1e-3)
    sides, order = simulated(TRAINED, 1), torch.Generator().manual_seed(2)
    for _ in range(steps):
        chosen = torch.randperm(TRAINED, generator=order)[:BATCH]
        out = loss(*(tower(side[chosen]) for tower, side in zip(towers, sides, strict=True)), chosen)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = [tower(side) for tower, side in zip(towers, simulated(TESTED, 3), strict=True)]
    return functional.normalize(found[0].double(), dim=1), functional.normalize(found[1].double(), dim=1)


def ranks(scores: Tensor) -> Tensor:
    """Rank (t,) of each row's own column, 1 for the best; equal scores stand before it."""
    return (scores >= scores.diagonal()[:, None]).sum(dim=1)


def print_ranks(form: str, dim: int, steps: int) -> None:
    asked: dict[str, dict[str, Any]] = {
        "ieee": {},
        "ieee, `chunk` 100": {"chunk": 100},
        "ieee, another start": {},
        "tf32": {},
        "bf16": {},
    }
    found = {}
    for name, changed in asked.items():
        precision = name.split(",")[0]
        objective = {"contrastive": FORMS[form] | changed, "precision": precision}
        found[name] = trained(objective, dim, steps, seed=int(name.endswith("start")))
    of_ieee = ranks(found["ieee"][0] @ found["ieee"][1].t())
    print(f"\n{form}, D = {dim}, {steps} steps, {TESTED:,} unseen pairs\n")
    print("| trained | R@1 | R@10 | pairs of another rank than with ieee |\n|---|---|---|---|")
    rows = {f"trained {name}": ranks(a @ b.t()) for name, (a, b) in found.items()}
    a, b = (side.float() for side in found["ieee"])
    rows |= {f"ieee, ranked by {p} scores": ranks(multiply(a, b.t(), p)) for p in PRECISIONS[1:]}
    for name, mine in rows.items():
        recall = " | ".join(f"{100 * (mine <= k).double().mean():.1f}" for k in (1, 10))
        print(f"| {name} | {recall} | {(mine != of_ieee).double().mean():.1%} |", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--steps", type=int, default=200, help="of a training")
    parser.add_argument("--only", choices=["terms", "ranks"], action="append")
    chosen = parser.parse_args(arguments)
    only = chosen.only or ["terms", "ranks"]
    if "terms" in only:
        print_terms(chosen.pairs, chosen.dim)
    if "ranks" in only:
        for form in ("infonce, T 0.05", "hardest, margin 0.2"):
            print_ranks(form, chosen.dim, chosen.steps)


if __name__ == "__main__":
    main()
