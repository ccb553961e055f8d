"""The baseline of `bench_image_text.py`: SCAN's i-t AVG score, caption by caption.

Written after the described behaviour of the published code (Lee et al., ECCV 2018): images are taken `SHARD`
at a time, every caption is cut to its words and repeated for all of them, and attended vectors of full length
are made for every region of every pair.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.records import Sets

SHARD = 128
"""Images scored at a time by the published test."""
SOFTMAX_SCALE, SLOPE, EPS = 4.0, 0.1, 1e-8


def loop_scores(images: Sets, captions: Sets) -> Tensor:
    """Regions (N, n, d), every image with n of them, and words (M, m, d): scores (N, M)."""
    lengths = captions.mask.sum(1).tolist()
    bands = []
    for i in range(0, len(images.values), SHARD):
        regions = images.values[i : i + SHARD]
        columns = [_caption(regions, x[:m]) for x, m in zip(captions.values, lengths, strict=True)]
        bands.append(torch.stack(columns, dim=1))
    return torch.cat(bands)


def _caption(regions: Tensor, words: Tensor) -> Tensor:
    """Regions (N, n, d) and the words (m, d) of one caption: (N,)."""
    context = words.repeat(len(regions), 1, 1)
    similar = functional.leaky_relu(torch.bmm(context, regions.transpose(1, 2)), SLOPE)  # (N, m, n)
    similar = similar / (similar.pow(2).sum(2, keepdim=True).sqrt() + EPS)
    weights = torch.softmax(SOFTMAX_SCALE * similar.transpose(1, 2).contiguous(), dim=2)
    found = torch.bmm(weights, context)  # (N, n, d)
    product = regions.norm(dim=2) * found.norm(dim=2)
    cosines: Tensor = (regions * found).sum(2) / product.clamp(min=EPS)
    return cosines.mean(1)
