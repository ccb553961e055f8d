"""The forms of the contrastive term as literal double loops over the similarities of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

Keys = list[int]
"""Of each pair; pairs with equal keys are positives of each other."""

Cells = list[tuple[Tensor, ...]]
"""x_ij, each 0-d with gradient."""


def cells(x: Tensor) -> Cells:
    """The similarities (B, B) one by one; their gradient comes together in one matrix."""
    return [row.unbind() for row in x.unbind()]


def mean_hinge(x: Cells, keys: Keys, margin: float, weights: Tensor | None = None) -> Tensor:
    """(1/B^2) sum_ij W_ij ([m + x_ij - x_ii]+ + [m + x_ij - x_jj]+), the diagonal a floor of 2 m W_ii, other
    positives left out."""
    count, total = len(x), x[0][0].new_zeros(())
    if len(set(keys)) == 1:
        return total * sum(row[0] for row in x)
    for i in range(count):
        for j in range(count):
            weight = 1.0 if weights is None else float(weights[i, j])
            if i == j:
                total = total + weight * 2 * margin
            elif keys[i] != keys[j]:
                total = total + weight * _hinge(margin + x[i][j] - x[i][i])
                total = total + weight * _hinge(margin + x[i][j] - x[j][j])
    return total / count**2


def hardest(x: Cells, keys: Keys, margin: float) -> Tensor:
    """(1/B) sum_i [m + max_j x_ij - x_ii]+ + [m + max_j x_ji - x_ii]+, j negative; ties to the lowest."""
    count, total = len(x), x[0][0].new_zeros(())
    for i in range(count):
        others = [j for j in range(count) if keys[j] != keys[i]]
        if not others:
            return total * sum(row[0] for row in x)
        total = total + _hinge(margin + _first_largest([x[i][j] for j in others]) - x[i][i])
        total = total + _hinge(margin + _first_largest([x[j][i] for j in others]) - x[i][i])
    return total / count


def soft_infonce(x: Cells, of_a: Tensor, of_b: Tensor, scale: Tensor) -> Tensor:
    """(1/2B) sum_ij -T^a_ij log softmax_j(z_ij) - T^b_ij log softmax_j(z_ji)."""
    count, total = len(x), x[0][0].new_zeros(())
    for direction, targets in ((x, of_a), (list(zip(*x, strict=True)), of_b)):
        for i in range(count):
            exponentials = [torch.exp(scale * direction[i][j]) for j in range(count)]
            whole = sum(exponentials)
            for j in range(count):
                total = total - float(targets[i, j]) * torch.log(exponentials[j] / whole)
    return total / (2 * count)


def within_modality(side: Tensor, weight: float, temperature: float) -> Tensor:
    """T of anchors (B, D) by comparing them with each other."""
    count, found = len(side), torch.zeros(len(side), len(side), dtype=side.dtype)
    for i in range(count):
        near = [float(torch.exp((side[i] * side[j]).sum() / temperature)) for j in range(count)]
        for j in range(count):
            found[i, j] = weight * near[j] / sum(near) + (1 - weight) * (i == j)
    return found


def balanced_plan(anchors: Tensor, others: Tensor, weight: float, epsilon: float, iterations: int) -> Tensor:
    """T of anchors (B, D), whose partners are `others`: every number of the plan by itself."""
    count = len(anchors)
    plan = torch.zeros(count, count, dtype=anchors.dtype)
    for i in range(count):
        for j in range(count):
            similarity = anchors[i] @ anchors[j] + others[i] @ others[j] + anchors[i] @ others[j]
            plan[i, j] = 0.0 if i == j else torch.exp(similarity / epsilon)
    for _ in range(iterations):
        for i in range(count):
            plan[i] /= plan[i].sum() * count
        for j in range(count):
            plan[:, j] /= plan[:, j].sum() * count
    rows = [weight * row / row.sum() for row in plan]
    return torch.stack(rows) + (1 - weight) * torch.eye(count, dtype=plan.dtype)


def pseudo_positives(x: Tensor, weight: float) -> tuple[Tensor, int]:
    """T of the rows of the similarities (B, B), and how many others are as near as partners."""
    count, found, others = len(x), torch.zeros_like(x), 0
    for i in range(count):
        likely = [j for j in range(count) if j == i or float(x[i, j]) >= float(x[i, i]) - 2e-15]
        others += len(likely) - 1
        for j in likely:
            found[i, j] = weight / len(likely)
        found[i, i] += 1 - weight
    return found, others


def infonce(x: Cells, keys: Keys, scale: Tensor, kind: str) -> Tensor:
    """(1/2B) sum_i of the cross-entropy of my positives among all, a to b and b to a."""
    count, total = len(x), x[0][0].new_zeros(())
    if len(set(keys)) == 1:
        return total * scale * sum(row[0] for row in x)
    for direction in (x, list(zip(*x, strict=True))):
        for i in range(count):
            exponentials = [torch.exp(scale * direction[i][j]) for j in range(count)]
            shares = [exponentials[j] / sum(exponentials) for j in range(count) if keys[j] == keys[i]]
            if kind == "mil_nce":
                total = total - torch.log(sum(shares))  # type: ignore[arg-type]
            else:
                total = total - sum(torch.log(share) for share in shares) / len(shares)
    return total / (2 * count)


def sigmoid(x: Cells, keys: Keys, scale: Tensor, bias: Tensor) -> Tensor:
    """(1/B) sum_ij -log sigmoid(l_ij (scale x_ij + bias)), l_ij = 1 for positives and -1 for others."""
    count, total = len(x), x[0][0].new_zeros(())
    if len(set(keys)) == 1:
        return total * (scale + bias) * sum(row[0] for row in x)
    for i in range(count):
        for j in range(count):
            label = 1 if keys[i] == keys[j] else -1
            total = total - torch.nn.functional.logsigmoid(label * (scale * x[i][j] + bias))
    return total / count


def entry_weights(entries: list[int], share: float) -> Tensor:
    """W_ij: E h inside an entry, E (1 - h) / (E - 1) across, E entries."""
    number = len(set(entries))
    inside, across = number * share, number * (1 - share) / (number - 1)
    rows = [[inside if i == j else across for j in entries] for i in entries]
    return torch.tensor(rows, dtype=torch.float64)


def figures(x: Cells, keys: Keys) -> dict[str, Tensor]:
    """What is logged of the similarities (B, B)."""
    count = len(x)
    apart = [(i, j) for i in range(count) for j in range(count) if keys[i] != keys[j]]
    if not apart:
        return {"similarity/positive": torch.stack([x[i][i] for i in range(count)]).mean()}
    of_rows = [max((float(x[i][j]) for i, j in apart if i == k)) for k in range(count)]
    of_columns = [max((float(x[i][j]) for i, j in apart if j == k)) for k in range(count)]
    return {
        "similarity/positive": torch.stack([x[i][i] for i in range(count)]).mean(),
        "similarity/negative": torch.stack([x[i][j] for i, j in apart]).mean(),
        "similarity/hardest_negative": x[0][0].new_tensor(of_rows + of_columns).mean(),
    }


def _hinge(value: Tensor) -> Tensor:
    return value if float(value.detach()) > 0 else 0 * value


def _first_largest(values: list[Tensor]) -> Tensor:
    numbers = [float(value.detach()) for value in values]
    return values[numbers.index(max(numbers))]
