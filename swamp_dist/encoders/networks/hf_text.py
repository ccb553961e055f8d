"""Text models of transformers from a local folder, whole or in part frozen."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from swamp_dist.encoders.libraries import import_transformers
from swamp_dist.encoders.networks.pretrained import PretrainedNetwork, freeze
from swamp_dist.records import Tokens

T = TypeVar("T")
_EARLIER_NAMES = ((re.compile(r"\.gamma$"), ".weight"), (re.compile(r"\.beta$"), ".bias"))
"""How files of early releases call the parameters of LayerNorm."""
_NO_WEIGHTS = (".position_ids", ".token_type_ids")
"""Counting numbers that early releases saved."""


def read_config(folder: Path) -> Any:
    """The model's settings in a folder. Only classes of the library are made of it.

    Raises:
        OSError, ValueError, KeyError: none of a known model.
    """
    return import_transformers().AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError, ImportError: none that is whole.
    """
    return import_transformers().AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )


def comparable_shapes(
    found: Mapping[str, tuple[int, ...]], config: Any
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of a file under the names of a model, and those of the model, of which no weight is made."""
    with torch.device("meta"):
        trunk = _create(config)
    own = {name: tuple(value.shape) for name, value in trunk.state_dict().items()}
    return comparable(found, own, trunk), own


def check_layers(config: Any) -> None:
    """Refuse a model whose last layers cannot be told.

    Raises:
        ValueError: it has no list of its layers.
    """
    with torch.device("meta"):
        layer_numbers(_create(config), config)


class HfTextNetwork(PretrainedNetwork):
    """A text model of transformers, one vector of its last hidden states per text, and a Linear from it."""

    def __init__(self, config: Any, trained: str | int, pooling: str, embedding_dim: int) -> None:
        """The model with random weights.

        Args:
            config: from `read_config`.
            trained: "all", "none", or how many of the last layers.
            pooling: mean, cls or last.

        Raises:
            ValueError: a number of layers is asked for, and the model has no list of layers.
        """
        super().__init__(config.hidden_size, embedding_dim)
        self.transformer: nn.Module = _create(config)
        self._pooling = pooling
        blocks = layer_numbers(self.transformer, config) if isinstance(trained, int) else {}
        freeze(self.transformer, trained, blocks)
        self.train()  # a module is in training mode from the start, and nobody has to say so

    @property
    def trunk(self) -> nn.Module:
        """The model of transformers."""
        return self.transformer

    def forward(self, tokens: Tokens) -> Tensor:
        """Ids and mask (b, W), padding behind the tokens -> (b, embedding_dim), not yet of unit length."""
        # On the meta device shapes alone are asked, and the library looks at the values of a mask.
        mask = None if tokens.mask.is_meta else tokens.mask.long()
        found = self.transformer(input_ids=tokens.ids, attention_mask=mask)
        rows: Tensor = self.project(pool(found.last_hidden_state, tokens.mask, self._pooling))
        return rows

    def load(self, files: Sequence[Path]) -> None:
        """Take the model's weights from files whose headers were checked."""
        tensors = {name: value for file in files for name, value in load_file(file).items()}
        own = self.transformer.state_dict()
        found = comparable(tensors, own, self.transformer)
        self.transformer.load_state_dict({**own, **found})


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(b, W, n) hidden states and mask (b, W) -> (b, n); padding counts for nothing."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        last = mask.sum(1).clamp(min=1) - 1
        return states[torch.arange(len(states), device=states.device), last]
    weights = mask.unsqueeze(2).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def comparable(tensors: Mapping[str, T], own: Mapping[str, object], trunk: Any) -> dict[str, T]:
    """Tensors of files under the names of the model `trunk`, whose tensors `own` names: a model with a head
    without its prefix and head, early releases' names replaced, numbers of places left out."""
    parts = {name.partition(".")[0] for name in own}
    prefix = f"{trunk.base_model_prefix}."
    if prefix[:-1] not in parts and any(name.startswith(prefix) for name in tensors):
        inside = {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
    else:
        inside = dict(tensors)
    return {
        _present_name(name): value
        for name, value in inside.items()
        if name.partition(".")[0] in parts and not name.endswith(_NO_WEIGHTS)
    }


def layer_numbers(trunk: nn.Module, config: Any) -> dict[str, int]:
    """The layer of every parameter; -1 before the first layer, that of the last one behind it.

    Raises:
        ValueError: the model has no list of as many modules as its settings tell of layers.
    """
    count = int(config.num_hidden_layers)
    lists = [
        name for name, module in trunk.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]  # fmt: skip
    if not lists:
        raise ValueError("it has no list of its layers")
    numbers, current = {}, -1
    for name, _ in trunk.named_parameters():
        if name.startswith(f"{lists[0]}."):
            current = int(name.removeprefix(f"{lists[0]}.").partition(".")[0])
        numbers[name] = current
    return numbers


def _present_name(name: str) -> str:
    for earlier, present in _EARLIER_NAMES:
        name = earlier.sub(present, name)
    return name


def _create(config: Any) -> Any:
    """The model in float32 without a pooler, whose output no pooling here reads.

    Attention is the written-out form: the fused one takes another kernel for a batch without padding, which
    would give the same text other bits.
    """
    transformers = import_transformers()
    kind = transformers.MODEL_MAPPING[type(config)]
    takes = inspect.signature(kind.__init__).parameters
    options = {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}
    return kind._from_config(config, dtype=torch.float32, attn_implementation="eager", **options)
