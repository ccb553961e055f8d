"""The published video-text model, loss and metrics of Miech et al. 2019, written from their description
as plainly as can be: dense, one process, nothing shared with the package. An oracle."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class ContextGate(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(size, size)
        self.batch_norm = nn.BatchNorm1d(size)  # part of every checkpoint, of no forward pass

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.glu(torch.cat([x, self.fc(x)], dim=1), dim=1)


class EmbeddingUnit(nn.Module):
    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, size)
        self.cg = ContextGate(size)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cg(self.fc(x))
        return y / y.pow(2).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)


class SentencePooling(nn.Module):
    def __init__(self, word_dim: int, size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(word_dim, size)

    def forward(self, words: Tensor) -> Tensor:
        return self.fc(words).clamp(min=0).max(dim=1)[0]


class PublishedNet(nn.Module):
    """Similarities of texts (rows, (n, W, word_dim)) and videos (columns, (n, video_dim))."""

    def __init__(self, size: int, video_dim: int, word_dim: int, sentence_dim: int | None = None) -> None:
        super().__init__()
        self.text_pooling = SentencePooling(word_dim, sentence_dim or size)
        self.GU_text = EmbeddingUnit(sentence_dim or size, size)
        self.GU_video = EmbeddingUnit(video_dim, size)

    def forward(self, video: Tensor, text: Tensor) -> Tensor:
        return self.GU_text(self.text_pooling(text)) @ self.GU_video(video).T  # type: ignore[no-any-return]


def published_loss(x: Tensor, margin: float, videos: int, n_pair: int, hard_rate: float | None) -> Tensor:
    """Max-margin ranking over the dense matrix; weighted where `hard_rate` is given and n_pair > 1."""
    count = videos * n_pair
    weight = torch.ones(count, count, dtype=x.dtype)
    if hard_rate is not None and n_pair > 1:
        easy = (1 - hard_rate) / ((videos - 1) * hard_rate)
        same = torch.kron(torch.eye(videos), torch.ones(n_pair, n_pair)).to(x.dtype)
        weight = (easy + (1 - easy) * same) * videos * hard_rate
    total = x.new_zeros(())
    for i in range(count):
        own = x[i, i]
        total = total + (weight[i] * (margin + x[i, :] - own).clamp(min=0)).sum()
        total = total + (weight[:, i] * (margin + x[:, i] - own).clamp(min=0)).sum()
    return total / count**2


def published_metrics(x: np.ndarray) -> dict[str, float]:
    """Every position of a row's ranking that scores like its own column counts."""
    positions: list[int] = []
    for i, row in enumerate(x):
        positions += [place for place, score in enumerate(sorted(row, reverse=True)) if score == row[i]]
    places = np.array(positions)
    recalls = {f"R{k}": float((places < k).sum() / len(places)) for k in (1, 5, 10)}
    return recalls | {"MR": float(np.median(places) + 1)}
