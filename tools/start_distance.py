"""How far the targets of a solve that is cut short are from those of the converged plan, for both starts.

    python tools/start_distance.py [--rows 2048] [--prototypes 500] [--dim 128] [--tau 0.25] [--scores FILE]

A cold start takes its first masses from exp(s / epsilon) (`objective.swamp.sinkhorn.start: scores`) or from
the paper's literal cost -log softmax(s / tau) (`literal`). Printed is the total variation between targets,
mean_i sum_k |q_ik - q*_ik| / 2, against the plan solved to a marginal error of 1e-9, and between both starts.
Without FILE (n, K) of scores, rows are drawn around a hundred centres and prototypes at random; float64, CPU.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.objective.solve.sinkhorn import assign, solve

EPSILONS = (0.05, 0.01, 0.005)
ITERATIONS = (1, 3, 5, 10, 50)
_CENTRES, _SPREAD = 100, 1.0


def drawn_scores(rows: int, prototypes: int, dim: int, seed: int = 0) -> Tensor:
    """Cosines (1, rows, prototypes): rows lie about as far from their centre as centres from the origin."""
    generator = torch.Generator().manual_seed(seed)
    centres, noise, directions = (
        torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in (_CENTRES, rows, prototypes)
    )
    x = centres[torch.randint(0, _CENTRES, (rows,), generator=generator)] + _SPREAD * noise
    return (functional.normalize(x, dim=1) @ functional.normalize(directions, dim=1).t())[None]


def total_variation(q: Tensor, p: Tensor) -> float:
    """Mean over rows of half the summed difference; 0 to 1."""
    return float((q - p).abs().sum(dim=2).mean() / 2)


def distances(scores: Tensor, epsilon: float, tau: float) -> list[tuple[float, float, float]]:
    """Of every number of `ITERATIONS`: start from the scores, literal start, and between the two."""
    rows, found = scores.shape[1], []
    how = {"tolerance": 1e-9, "max_iterations": 200_000, "check_every": 50, "momentum": True}
    end = assign(scores, solve(scores, rows, epsilon, **how).log_v, epsilon)  # type: ignore[arg-type]
    for iterations in ITERATIONS:
        plain, literal = (
            assign(scores, solve(scores, rows, epsilon, iterations=iterations, literal=t).log_v, epsilon)
            for t in (None, tau)
        )
        pairs = ((plain, end), (literal, end), (plain, literal))
        found.append(tuple(total_variation(*pair) for pair in pairs))
    return found  # type: ignore[return-value]


def main(arguments: list[str] | None = None) -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--prototypes", type=int, default=500)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--tau", type=float, default=0.25)
    parser.add_argument("--scores", help="a .npy file of scores (n, K)")
    args = parser.parse_args(arguments)
    if args.scores is None:
        scores = drawn_scores(args.rows, args.prototypes, args.dim)
    else:
        scores = torch.from_numpy(np.load(args.scores)).double()[None]
    print("| epsilon | iterations | scores | literal | between them |\n|---|---|---|---|---|")
    for epsilon in EPSILONS:
        for iterations, found in zip(ITERATIONS, distances(scores, epsilon, args.tau), strict=True):
            print(f"| {epsilon} | {iterations} | " + " | ".join(f"{x:.4f}" for x in found) + " |", flush=True)


if __name__ == "__main__":
    main()
