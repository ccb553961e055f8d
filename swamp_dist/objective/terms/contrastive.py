"""The contrastive term: which form, which positives, and how the batch is compared.

With x_ij the cosine of a_i and b_j, m the margin, z = scale * x + bias and B pairs in the global batch:
`all` (Miech et al. 2019): (1/B^2) sum_ij W_ij ([m + x_ij - x_ii]+ + [m + x_ij - x_jj]+);
`hardest` (paper, eq. 1): (1/B) sum_i [m + max_j x_ij - x_ii]+ + [m + max_j x_ji - x_ii]+;
`infonce` (CLIP, Radford et al. 2021): (1/2B) sum_i -log softmax_j(z_ij)_i - log softmax_j(z_ji)_i;
`sigmoid` (SigLIP, Zhai et al. 2023): (1/B) sum_ij -log sigmoid(+-z_ij), + for positives.
Each is a mean; `reduction: sum` is B times it. The formulas are in `contrastive`, one module per form. Shape
letters: b pairs on this rank, D embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from swamp_dist.config import ContrastiveSettings
from swamp_dist.distributed import gather
from swamp_dist.objective.contrastive.batch_rows import BatchRows
from swamp_dist.objective.contrastive.columns import Block, Gathered, Ring, pieces
from swamp_dist.objective.contrastive.compare import Compared, Comparison, Leaves, compare
from swamp_dist.objective.contrastive.entry_weights import entry_weights
from swamp_dist.objective.contrastive.hardest import hardest_negative, search
from swamp_dist.objective.contrastive.infonce import InfoNce
from swamp_dist.objective.contrastive.mean_hinge import MeanHinge
from swamp_dist.objective.contrastive.negative_weights import PairWeights, negative_weights
from swamp_dist.objective.contrastive.pair_targets import PairTargets, find_pair_targets
from swamp_dist.objective.contrastive.positives import Positives, find_positives
from swamp_dist.objective.contrastive.sigmoid import Sigmoid
from swamp_dist.objective.products import multiply
from swamp_dist.objective.term import Term, TermInputs

TAGS: Mapping[str, str] = {
    "loss/contrastive": "Contrastive term before its weight, mean over ranks.",
    "similarity/positive": "Mean cosine of matching pairs.",
    "similarity/negative": "Mean cosine of pairs that do not match.",
    "similarity/hardest_negative": "Mean cosine of each row's most similar non-matching partner.",
    "contrastive/logit_scale": "What cosines are multiplied by, 1 / temperature; at most 100 where learned.",
    "contrastive/logit_bias": "What the sigmoid loss adds to them then.",
    "contrastive/positives": "Positives of a pair in the batch, itself among them: mean over pairs.",
    "contrastive/log_positives": "Mean of the logarithm of their number, for `mil_nce`.",
    "contrastive/target_entropy": "Mean entropy of soft targets in nats; 0 where the partner has all of it.",
    "contrastive/negative_weight": "Mean weight of pairs that do not match, where SwAMP's targets say it.",
    "contrastive/plan_error": "Mean relative error of what items get in the `balanced_plan` of the batch.",
    "contrastive/pseudo_positives": "Share of the other items that score at least as high as the partner.",
}


def term(settings: ContrastiveSettings, inputs: TermInputs) -> Term:
    """L_c of my pairs against all columns (B, D), and its figures; nothing is computed where its weight is
    0."""
    if settings.weight == 0:
        return Term()
    # 1. Compare my rows with all columns, both directions. The start against collapse takes all negatives.
    positives = _positives(settings, inputs)
    targets = _targets(settings, inputs)
    weights, weight_figures = _weights(settings, inputs)
    if settings.takes_hardest(inputs.step):
        found = _with_the_hardest(settings, inputs, positives)
    else:
        found = _with_all(settings, inputs, weights, positives, targets)
    # 2. A sum is named; never a local one.
    loss = inputs.plan.pairs * found.loss if settings.reduction == "sum" else found.loss
    figures = {
        "similarity/positive": inputs.own.mean(),
        "similarity/negative": found.negative,
    }
    if found.hardest is not None:
        figures["similarity/hardest_negative"] = found.hardest
    figures |= (
        _logit_figures(settings, inputs) | _positive_figures(settings, positives, loss) | weight_figures
    )
    if found.target_entropy is not None:
        figures["contrastive/target_entropy"] = found.target_entropy
    if targets is not None:
        figures |= targets.figures
    return Term(settings.weight, loss, figures)


def _logit_figures(settings: ContrastiveSettings, inputs: TermInputs) -> dict[str, Tensor]:
    if not settings.has_logits:
        return {}
    scale, bias = (x.detach() for x in _logits(settings, inputs))
    has_bias = settings.form == "sigmoid"
    return {"contrastive/logit_scale": scale} | ({"contrastive/logit_bias": bias} if has_bias else {})


def _positive_figures(
    settings: ContrastiveSettings, positives: Positives | None, like: Tensor
) -> dict[str, Tensor]:
    if positives is None:
        return {}
    counts = positives.counts.to(like.dtype)
    joined = settings.multiple_positives == "mil_nce"
    logarithm = {"contrastive/log_positives": counts.log().mean()} if joined else {}
    return {"contrastive/positives": counts.mean()} | logarithm


def _with_all(
    settings: ContrastiveSettings,
    inputs: TermInputs,
    weights: PairWeights | None,
    positives: Positives | None,
    targets: PairTargets | None,
) -> Compared:
    b, (scale, bias) = inputs.mine.b, _logits(settings, inputs)
    own = b.new_empty(0) if inputs.all_own is None else inputs.all_own
    how = Comparison(
        _form(settings, scale.detach(), bias.detach()),
        inputs.world,
        inputs.first_row,
        settings.chunk,
        weights,
        positives,
        inputs.is_ring,
        targets,
        inputs.precision,
        inputs.is_logged,
    )
    a = inputs.mine.a if inputs.is_ring else inputs.gathered_a()
    return compare(Leaves(b, a, own, scale, bias), how)


def _logits(settings: ContrastiveSettings, inputs: TermInputs) -> tuple[Tensor, Tensor]:
    """Scale and bias of the logits, 0-d: the model's, else those of the settings."""
    mine = inputs.mine
    scale, bias = mine.logit_scale, mine.logit_bias
    scale = mine.a.new_tensor(1 / settings.temperature) if scale is None else scale
    return scale, mine.a.new_tensor(settings.logit_bias) if bias is None else bias


def _form(settings: ContrastiveSettings, scale: Tensor, bias: Tensor) -> MeanHinge | InfoNce | Sigmoid:
    if settings.form == "infonce":
        several = settings.positives != "partner"
        return InfoNce(scale, joins_positives=several and settings.multiple_positives == "mil_nce")
    return Sigmoid(scale, bias) if settings.form == "sigmoid" else MeanHinge(settings.margin)


def _positives(settings: ContrastiveSettings, inputs: TermInputs) -> Positives | None:
    """Which pairs are positives of each other; None where these are the partners alone."""
    if settings.positives == "partner":
        return None
    keys = inputs.entries if settings.positives == "entry" else inputs.labels
    if keys is None:
        raise ValueError("positives = class: the batch has no labels")
    return find_positives(keys, inputs.world)


def _targets(settings: ContrastiveSettings, inputs: TermInputs) -> PairTargets | None:
    """Soft targets of my rows and all columns; None where these are the partners."""
    if not settings.targets.is_soft:
        return None
    mine, all_b = inputs.mine, inputs.columns[1]
    batch = BatchRows(
        mine.a.detach(),
        mine.b.detach(),
        inputs.gathered_a().detach(),
        None if all_b is None else all_b.detach(),
        inputs.world,
        inputs.first_row,
    )
    return find_pair_targets(settings.targets, batch, settings.chunk)


def _weights(
    settings: ContrastiveSettings, inputs: TermInputs
) -> tuple[PairWeights | None, dict[str, Tensor]]:
    """Weights of some rows and columns, by SwAMP's targets or by entries, and their figures; None where all
    pairs weigh the same."""
    if inputs.targets is not None:
        weights, mean = negative_weights(inputs.targets, inputs.world)
        return weights, {"contrastive/negative_weight": mean}
    share, plan, entries = settings.in_entry_share, inputs.plan, inputs.entries
    if settings.form != "all" or plan.pairs_per_entry == 1 or share is None:
        return None, {}
    all_entries = gather(entries, inputs.world)

    def by_entries(rows: slice, columns: slice) -> Tensor:
        return entry_weights(entries[rows], all_entries[columns], plan.entries, share, inputs.mine.a.dtype)

    return by_entries, {}


def _with_the_hardest(
    settings: ContrastiveSettings, inputs: TermInputs, positives: Positives | None
) -> Compared:
    a, b, world = inputs.mine.a, inputs.mine.b, inputs.world
    source = Ring(a, world) if inputs.is_ring else Gathered(inputs.gathered_a().detach())
    mine = slice(inputs.first_row, inputs.first_row + len(b))
    left_out = None if positives is None else partial(positives.matches, mine)
    similarities = b.new_zeros(())

    def columns() -> Iterator[Block]:
        """Every block on its way to the search; of its similarities those with negatives are added up."""
        for block in pieces(source.lap(), settings.chunk):
            with torch.no_grad():  # a sum of products is a product of sums
                similarities.add_(b.sum(dim=0) @ block.rows.sum(dim=0))
                if left_out is not None:
                    matches = left_out(slice(block.start, block.start + len(block.rows)))
                    of_positives = multiply(matches.to(b.dtype), block.rows, inputs.precision)
                    similarities.sub_((b * of_positives).sum())
            yield block

    hardest = search(b, columns(), world, left_out, inputs.precision)
    found = hardest_negative(a, b, hardest, settings.margin, world)
    if positives is None:
        count = len(b) * (world.size * len(b) - 1)
        return Compared(found.loss, (similarities - inputs.own.sum()) / count, found.hardest)
    negative = similarities * world.size / positives.num_negatives().clamp(min=1)
    return Compared(found.loss, negative, found.hardest)
