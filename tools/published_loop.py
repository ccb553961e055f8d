"""The baseline of `bench_training.py`: the training loop that was published with HowTo100M.

Written after its described behaviour (Miech et al. 2019): a data set whose item is a video, read whole
(`whole_file_loader.py`), default collation, 20 word vectors per caption with padding that the maximum sees, a
dense matrix of similarities with the max-margin loss and its mask, Adam as torch makes it, and the loss read
after every step. No code of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from whole_file_loader import CAPTIONS, CHANNELS, DIM, Raw, baseline_video

MARGIN, HARD_RATE, RATE = 0.1, 0.5, 1e-4


class Videos(Dataset[dict[str, Any]]):
    """A video with so many of its captions, drawn with replacement."""

    def __init__(self, raw: Raw, pairs: int) -> None:
        self._raw, self._pairs = raw, pairs
        self._keys, self._random = list(raw.captions), np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self._keys[index]
        chosen = self._random.choice(CAPTIONS, self._pairs, replace=True)
        clips, words = baseline_video(self._raw, key, chosen, normalize=True)
        return {"video": clips, "text": words, "video_id": key}


class GatedUnit(nn.Module):
    """Linear, context gating, unit length."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(width, size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return functional.normalize(functional.glu(torch.cat((y, self.gate(y)), dim=1), dim=1))


class Network(nn.Module):
    """Similarities (n, n) of texts (n, W, DIM), the rows, and videos (n, 2 * CHANNELS)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.words = nn.Linear(DIM, size)
        self.text, self.video = GatedUnit(size, size), GatedUnit(2 * CHANNELS, size)

    def forward(self, video: Tensor, text: Tensor) -> Tensor:
        pooled = self.words(text).relu().max(dim=1)[0]
        return self.text(pooled) @ self.video(video).t()


class Loss(nn.Module):
    """Hinges of all pairs, both ways, times a mask that gives pairs of one video half of the weight."""

    def __init__(self, videos: int, pairs: int) -> None:
        super().__init__()
        easy = (1 - HARD_RATE) / ((videos - 1) * HARD_RATE)
        same = torch.kron(torch.eye(videos), torch.ones(pairs, pairs))
        self.mask = (easy * (1 - same) + same) * videos * HARD_RATE

    def forward(self, x: Tensor) -> Tensor:
        own = x.diag()
        hinges = functional.relu(MARGIN + x - own[:, None]) + functional.relu(MARGIN + x - own[None, :])
        return (hinges * self.mask).mean()


class Training:
    """A network with its optimiser and its loader."""

    def __init__(self, raw: Raw, size: int, videos: int, pairs: int) -> None:
        torch.manual_seed(1)
        self.network, self.loss = Network(size), Loss(videos, pairs)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE)
        self._loader = DataLoader(Videos(raw, pairs), videos, shuffle=True, drop_last=True)

    def batches(self) -> Iterator[dict[str, Any]]:
        """Epoch after epoch without end."""
        while True:
            yield from self._loader

    def step(self, batch: dict[str, Any]) -> float:
        """One update."""
        video, text = batch["video"].flatten(0, 1).float(), batch["text"].flatten(0, 1).float()
        self.optimizer.zero_grad()
        loss = self.loss(self.network(video, text))
        loss.backward()
        self.optimizer.step()
        return float(loss.item())
