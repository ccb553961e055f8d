"""Texts by any encoder of transformers, from a folder on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from swamp_dist.encoders.cost import EncoderCost
from swamp_dist.encoders.encoder import Encoder, Tokenizer, text_problem
from swamp_dist.encoders.libraries import need_library
from swamp_dist.encoders.pretrained import Trained, other_weights_problem
from swamp_dist.errors import UserError
from swamp_dist.plain_files import NotPlainError, parse_json, read_plain_file
from swamp_dist.records import InputSpec, Tokens
from swamp_dist.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import nn

CONFIG, WEIGHTS, WEIGHTS_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
_MORE_TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)
_MOST_JSON_BYTES = 2**26
_SURPRISES = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError)
"""What the library raises on folders that are not whole."""


@dataclass(frozen=True)
class FolderTokenizer:
    """The tokenizer of a folder; a copy in another process reads its files anew."""

    folder: Path
    max_tokens: int

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """As `Tokenizer`: at most `max_tokens` of every text, marks of begin and end among them."""
        import torch

        read = _tokenizer(self.folder)(list(texts), truncation=True, max_length=self.max_tokens)
        width = max(1, *(len(row) for row in read["input_ids"])) if len(texts) else 1
        ids = torch.full((len(texts), width), _padding(self.folder), dtype=torch.int64)
        mask = torch.zeros(len(texts), width, dtype=torch.bool)
        for i, row in enumerate(read["input_ids"]):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = True
        return Tokens(ids, mask)


class HfTextSettings(Encoder):
    """Any encoder of texts of transformers from a folder on disk, with the tokenizer in it, and a Linear to
    the embedding. Nothing is downloaded, no code of the folder is run, weights are .safetensors files."""

    kind: Literal["hf_text"] = "hf_text"
    folder: Path
    """Holds config.json, the tokenizer's files and model.safetensors, as `save_pretrained` writes them;
    relative to the file that says it. The weights are read at the start of a training without
    `train.init_from`, the other files always."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    """What becomes of the hidden states of a text's tokens: their mean, that of the first, or of the last."""
    max_tokens: Annotated[int, Field(ge=1, le=2**16)] = 64
    """Tokens of a text that count, the first ones."""
    train: Trained = "all"
    """all, none (a locked tower: only the Linear is trained), or a number n: the last n layers."""

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes texts."""
        return text_problem(self.kind, spec)

    def start_problem(self, spec: InputSpec, from_files: bool) -> str | None:
        """The library, the folder's settings and tokenizer, and the weights' headers."""
        try:
            self._check_folder()
            if from_files:
                self._check_weights()
        except UserError as error:
            return f"encoder hf_text: {error}"
        return None

    def tokenizer(self) -> Tokenizer:
        """`FolderTokenizer`."""
        return FolderTokenizer(self.folder, self.max_tokens)

    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """`HfTextNetwork`."""
        from swamp_dist.encoders.networks.hf_text import HfTextNetwork

        return HfTextNetwork(_config(self.folder), self.train, self.pooling, embedding_dim)

    def load_start(self, network: nn.Module) -> None:
        """The weights in the folder."""
        from swamp_dist.encoders.networks.hf_text import HfTextNetwork

        if isinstance(network, HfTextNetwork):
            network.load(weight_files(self.folder))

    def own_files(self, from_files: bool) -> Mapping[str, Sequence[Path]]:
        """What describes the model and its tokenizer, and the weights where they are read."""
        names = (CONFIG, *_TOKENIZER_FILES, *_MORE_TOKENIZER_FILES)
        described = [self.folder / name for name in names if (self.folder / name).is_file()]
        weights = {"weights": weight_files(self.folder)} if from_files else {}
        return {"folder": described, **weights}

    def libraries(self) -> tuple[str, ...]:
        """transformers, and what splits texts for it."""
        return "transformers", "tokenizers"

    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """Counted on the network itself, on the meta device, for texts of `max_tokens`.

        Raises:
            UserError: as `start_problem` tells of library and config.json.
        """
        _config(self.folder)
        from swamp_dist.encoders.networks.counting import count_texts

        return count_texts(self, spec, embedding_dim, self.max_tokens).times(rows)

    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Length of the last layer's bias."""
        return shapes["project.bias"][0] if any(name.startswith("transformer.") for name in shapes) else None

    def configured_input(self) -> InputSpec:
        """Texts, whose length the settings bound."""
        return InputSpec((), kind="text")

    def _check_folder(self) -> None:
        from swamp_dist.encoders.networks.hf_text import check_layers, read_tokenizer

        config = _config(self.folder)
        places = getattr(config, "max_position_embeddings", None)
        if isinstance(places, int) and 0 < places < self.max_tokens:
            raise UserError(
                f"max_tokens = {self.max_tokens}, but the model in {self.folder} knows {places} places.\n"
                f"Fix: max_tokens = {places} at most"
            )
        if not any((self.folder / name).is_file() for name in _TOKENIZER_FILES):
            raise UserError(
                f"{self.folder}: no files of a tokenizer.\nExpected one of {', '.join(_TOKENIZER_FILES)}: "
                "save the tokenizer into the folder (tokenizer.save_pretrained)."
            )
        try:
            read_tokenizer(self.folder)
        except _SURPRISES as error:
            raise UserError(f"{self.folder}: its tokenizer cannot be read ({_first_line(error)})") from None
        if isinstance(self.train, int):
            try:
                check_layers(config)
            except ValueError as error:
                raise UserError(
                    f"train = {self.train}: {config.model_type}: {error}.\nFix: all or none"
                ) from None

    def _check_weights(self) -> None:
        from swamp_dist.encoders.networks.hf_text import comparable_shapes

        found = {n: s for file in weight_files(self.folder) for n, s in read_header(file).shapes.items()}
        compared, expected = comparable_shapes(found, _config(self.folder))
        model = f"{CONFIG} describes"
        if (problem := other_weights_problem(compared, expected, str(self.folder), model)) is not None:
            raise UserError(problem)


def weight_files(folder: Path) -> list[Path]:
    """The .safetensors files of a folder's model: one, or those that its index names.

    Raises:
        UserError: there is none; weights in another form are not read.
    """
    whole, index = folder / WEIGHTS, folder / WEIGHTS_INDEX
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise UserError(
            f"{folder}: no {WEIGHTS} there.\nPickled weights (pytorch_model.bin) are not read: they can hold "
            "code.\nFix: save the model again with a present release (model.save_pretrained)."
        )
    try:
        said: Any = parse_json(read_plain_file(index, _MOST_JSON_BYTES))
        names = sorted({str(name) for name in said["weight_map"].values()})
    except (OSError, NotPlainError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not an index of weights ({_first_line(error)})") from None
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise UserError(f"{index} names files outside of its folder: {', '.join(outside[:3])}")
    return [folder / name for name in names]


@lru_cache(maxsize=8)
def _config(folder: Path) -> Any:
    """The model's settings.

    Raises:
        UserError: transformers is not installed, or knows no model of texts by them.
    """
    need_library("transformers", "hf_text")
    from swamp_dist.encoders.networks.hf_text import read_config

    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: no {CONFIG} there.\nName a folder that `save_pretrained` wrote.")
    try:
        config = read_config(folder)
    except _SURPRISES as error:
        raise UserError(
            f"{folder / CONFIG}: not a model that transformers knows ({_first_line(error)})"
        ) from None
    if not isinstance(getattr(config, "hidden_size", None), int) or getattr(
        config, "is_encoder_decoder", False
    ):
        raise UserError(f"{folder / CONFIG}: {config.model_type} is no encoder of texts alone")
    return config


@lru_cache(maxsize=2)
def _tokenizer(folder: Path) -> Any:
    from swamp_dist.encoders.networks.hf_text import read_tokenizer

    return read_tokenizer(folder)


def _padding(folder: Path) -> int:
    number = _tokenizer(folder).pad_token_id
    return int(number) if number is not None else 0  # masked, so any token does


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
