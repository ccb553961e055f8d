"""What the contrastive term costs beside the same formula in plain torch, forward and backward, in one run.

    python tools/bench_contrastive.py                        # 2,048 and 4,096 pairs of size 512
    python tools/bench_contrastive.py --pairs 8192 --dim 256
    python tools/bench_contrastive.py --precision tf32 --precision bf16  # beside ieee, on the device at hand

Plain torch makes the matrix of all similarities once and leaves the gradient to autograd. Medians over
repetitions in which the programs take turns, each in its own process (`own_process.py`); one rank, so nothing
is sent. A CPU emulates tf32 and bf16, which takes longer than ieee (`objective/products.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from bench_step import print_machine
from own_process import Program, own_processes, take_turns_apart
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, join, leave
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, PairEmbeddings

MARGIN = 0.2


def plain_hardest(a: Tensor, b: Tensor) -> Tensor:
    """Eq. 1 as a mean."""
    scores = a @ b.t()
    own = scores.diagonal()
    others = scores.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), -torch.inf)
    of_rows, of_columns = others.max(dim=1).values, others.max(dim=0).values
    return ((MARGIN + of_rows - own).relu() + (MARGIN + of_columns - own).relu()).mean()


def plain_all(a: Tensor, b: Tensor) -> Tensor:
    """The published loss (`MaxMarginRankingLoss` of Miech et al. 2019, without weights)."""
    scores = a @ b.t()
    own = scores.diagonal()
    return ((MARGIN + scores - own[:, None]).relu() + (MARGIN + scores - own[None, :]).relu()).mean()


def plain_infonce(a: Tensor, b: Tensor) -> Tensor:
    """CLIP's, at temperature 0.1."""
    logits, right = 10 * (a @ b.t()), torch.arange(len(a), device=a.device)
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.t(), right)) / 2


def plain_sigmoid(a: Tensor, b: Tensor) -> Tensor:
    """SigLIP's, at temperature 0.1 and bias -10."""
    logits = 10 * (a @ b.t()) - 10
    labels = 2 * torch.eye(len(a), device=a.device) - 1
    return -functional.logsigmoid(labels * logits).sum() / len(a)


FORMS: dict[str, tuple[dict[str, Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "all": ({"margin": MARGIN}, plain_all),
    "hardest": ({"form": "hardest", "margin": MARGIN}, plain_hardest),
    "infonce": ({"form": "infonce"}, plain_infonce),
    "sigmoid": ({"form": "sigmoid"}, plain_sigmoid),
}
"""Settings of the term, and the same in plain torch."""


def ours(
    contrastive: dict[str, Any], pairs: int, dim: int, world: World, precision: str = "ieee"
) -> Callable[[Tensor, Tensor], Tensor]:
    """The objective of a stage without SwAMP."""
    tree = {"contrastive": contrastive, "swamp": {"weight": 0}, "precision": precision}
    settings = ObjectiveSettings.model_validate(tree)
    objective = build_objective(settings, BatchPlan(pairs, 1, 1, 1), dim, world.device)
    ids = torch.arange(pairs, device=world.device)
    return lambda a, b: objective(PairEmbeddings(a, b, None), ids, ids, 0, world).total


def build(form: str, changes: dict[str, Any] | None, precision: str, pairs: int, dim: int) -> Program:
    """Forward and backward of the term, changed so, or in plain torch without changes; the loss."""
    world, (settings, loss) = join(), FORMS[form]
    if changes is not None:
        loss = ours(settings | changes, pairs, dim, world, precision)
    random = torch.Generator().manual_seed(0)
    rows = functional.normalize(torch.randn(2, pairs, dim, generator=random), dim=2).to(world.device)
    sides = rows[0].requires_grad_(), rows[1].requires_grad_()

    def step() -> Tensor:
        found = loss(*sides)
        torch.autograd.grad(found, sides)
        return found.detach()

    return step


def value(program: Program) -> float:
    """The loss."""
    found = program()
    assert isinstance(found, Tensor)
    return float(found)


def bench(form: str, pairs: int, dim: int, chosen: argparse.Namespace) -> None:
    variants: dict[str, tuple[dict[str, Any] | None, str]] = {
        "plain torch": (None, "ieee"),
        form: ({}, "ieee"),
        f"{form}, chunk 512": ({"chunk": 512}, "ieee"),
    }
    variants |= {f"{form}, {precision}": ({}, precision) for precision in chosen.precision or ()}
    builds = {name: partial(build, form, *variant, pairs, dim) for name, variant in variants.items()}
    with own_processes(builds) as programs:
        found = take_turns_apart(programs, chosen.repetitions)
        values = {name: program.ask(value) for name, program in programs.items()}
    print(f"\n{form}: {pairs:,} pairs, D = {dim}")
    for name, seconds in found.items():
        ratio = seconds / found["plain torch"]
        print(f"  {name:22s} {1e3 * seconds:9.1f} ms   {ratio:5.2f} x plain torch   loss {values[name]:.7f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, action="append", help="B; default: 2048 and 4096")
    parser.add_argument("--dim", type=int, default=512, help="D (default: %(default)s)")
    parser.add_argument("--form", choices=FORMS, action="append", help="default: all of them")
    parser.add_argument("--precision", choices=["tf32", "bf16"], action="append", help="besides ieee")
    parser.add_argument("--repetitions", type=int, default=5)
    chosen = parser.parse_args()
    print_machine(join())
    leave()
    for form in chosen.form or FORMS:
        for pairs in chosen.pairs or (2048, 4096):
            bench(form, pairs, chosen.dim, chosen)


if __name__ == "__main__":
    main()
