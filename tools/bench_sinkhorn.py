"""The solve beside POT and SwAV's loop: the same iterations, the plan of all rows included, in one run.

    OMP_NUM_THREADS=1 python tools/bench_sinkhorn.py                                # all sizes
    OMP_NUM_THREADS=1 python tools/bench_sinkhorn.py --size 2048x500 --epsilon 0.05

Timings are medians over repetitions in which the programs take turns. An iteration is told in reads of the
scores, as they lie in the caches of the run and from memory; nothing is asserted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from bench_step import print_machine, take_turns, timed
from torch import Tensor
from torch.nn import functional

from swamp_dist.distributed import join, leave
from swamp_dist.objective.solve.sinkhorn import assign, solve

SIZES = {"2048x500": (2048, 500), "8192x1000": (8192, 1000)}
STOPS = {0.05: (0.01, 100), 0.005: (0.1, 200), 0.0005: (0.4, 100)}
"""Tolerance and most iterations by epsilon."""


def clustered_scores(rows: int, prototypes: int, dim: int = 64) -> Tensor:
    """(2, N, K) cosines of rows around a third as many centres, as embeddings of a trained model lie."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(prototypes // 3, dim, generator=generator)
    owner = torch.randint(len(centres), (2, rows), generator=generator)
    points = functional.normalize(
        centres[owner] + 0.7 * torch.randn(2, rows, dim, generator=generator), dim=2
    )
    targets = functional.normalize(torch.randn(prototypes, dim, generator=generator), dim=1)
    return points @ targets.t()


def marginal_error(plan: Tensor) -> float:
    """mean_k |K * mean_i q_ik - 1| of row-normalised plans (M, N, K), the larger of the M."""
    mass = plan.double().mean(dim=1) * plan.shape[2]
    return float((mass - 1).abs().mean(dim=1).max())


def exp_domain(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The loop of SwAV: exponentiate once, then divide by sums; overflows for small epsilon."""
    plan = torch.exp(scores / epsilon).t()
    plan /= plan.sum()
    for _ in range(iterations):
        plan /= plan.sum(dim=1, keepdim=True)
        plan /= len(plan)
        plan /= plan.sum(dim=0, keepdim=True)
        plan /= plan.shape[1]
    return (plan * plan.shape[1]).t()


def pot_plan(scores: Tensor, epsilon: float, count: int, method: str) -> Tensor:
    """Plans (M, N, K) of POT by one of its methods, each row over its share."""
    import ot

    rows, prototypes = scores.shape[1:]
    a, b = torch.full((rows,), 1 / rows), torch.full((prototypes,), 1 / prototypes)
    how = {"reg": epsilon, "method": method, "numItermax": count, "stopThr": 0, "warn": False}
    return torch.stack([ot.sinkhorn(a, b, -s, **how) for s in scores]) * rows


def read_speed() -> float:
    """Bytes per second of one long sum over 256 MiB, which no cache holds; the best of five."""
    memory = torch.ones(2**26)
    return memory.numel() * memory.element_size() / min(timed(memory.sum)[0] for _ in range(5))


def bench_sinkhorn(
    rows: int, prototypes: int, epsilon: float, tolerance: float, limit: int, repetitions: int
) -> None:
    scores = clustered_scores(rows, prototypes)
    kwargs = {"tolerance": tolerance, "max_iterations": limit}
    solution = solve(scores, rows, epsilon, **kwargs)  # type: ignore[arg-type]
    count, work, plan = solution.iterations, torch.empty_like(scores), torch.empty_like(scores)

    def potentials(is_compiled: bool) -> Tensor:
        how = {"iterations": count, "bound": 1.0, "work": work, "is_compiled": is_compiled}
        return solve(scores, rows, epsilon, **how).log_v  # type: ignore[arg-type]

    def ours(is_compiled: bool) -> Tensor:
        return assign(scores, potentials(is_compiled), epsilon, plan, is_compiled=is_compiled)

    def swav() -> Tensor:
        return torch.stack([exp_domain(s.clone(), epsilon, count) for s in scores])

    whole: dict[str, Callable[[], Tensor]] = {
        "ours, numba": lambda: ours(True),
        "ours, torch": lambda: ours(False),
        "POT sinkhorn (Knopp)": lambda: pot_plan(scores, epsilon, count, "sinkhorn"),
        "POT sinkhorn_log": lambda: pot_plan(scores, epsilon, count, "sinkhorn_log"),
        "exp-domain loop": swav,
    }
    parts: dict[str, Callable[[], object]] = {
        "solve alone, numba": lambda: potentials(True),
        "solve alone, torch": lambda: potentials(False),
        "one read": lambda: scores.sum(),
    }
    found = take_turns({**whole, **parts}, repetitions)
    print(
        f"\nSinkhorn: N = {rows}, K = {prototypes}, both modalities, epsilon = {epsilon}, cold, {count} "
        "iterations, the plan of all rows included"
    )
    for name, program in whole.items():
        print(
            f"  {name:20s} {1e3 * found[name]:9.2f} ms   {found[name] / found['ours, numba']:6.1f} x ours"
            f"   marginal error {marginal_error(program()):.4f}"
        )
    read, speed = found["one read"], read_speed()
    from_memory = scores.numel() * scores.element_size() / speed
    print(
        f"  one read of the scores {1e3 * read:.2f} ms as they lie in the caches, {1e3 * from_memory:.2f} ms "
        f"from memory ({speed / 1e9:.1f} GB/s)"
    )
    for name in ("solve alone, numba", "solve alone, torch"):
        each = found[name] / count
        print(
            f"  {name:20s} {1e3 * found[name]:9.2f} ms   an iteration: {each / read:.1f} reads as they lie, "
            f"{each / from_memory:.1f} from memory (goal: at most 2.2)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, action="append", help="rows x prototypes (default: all)")
    parser.add_argument("--epsilon", type=float, choices=STOPS, action="append", help="default: all")
    parser.add_argument("--repetitions", type=int, default=5)
    chosen = parser.parse_args()
    print_machine(join())
    for size in chosen.size or SIZES:
        for epsilon in chosen.epsilon or STOPS:
            bench_sinkhorn(*SIZES[size], epsilon, *STOPS[epsilon], chosen.repetitions)
    leave()


if __name__ == "__main__":
    main()
