"""What the package asks of an encoder of one modality; every file beside this one answers it for one kind."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from swamp_dist.bounds import Scale
from swamp_dist.encoders.cost import EncoderCost
from swamp_dist.errors import UserError
from swamp_dist.records import InputKind, InputSpec, Tokens
from swamp_dist.settings import Settings

if TYPE_CHECKING:
    from torch import nn


class Tokenizer(Protocol):
    """Texts -> tokens of one encoder. Loader processes hold a pickled copy, so it keeps no open file.

    The same text gives the same tokens in every process, whatever texts come with it.
    """

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """(b, W) ids and mask of b texts, as torch or numpy arrays; W is at least 1."""


class Encoder(Settings, abc.ABC):
    """Settings of an encoder and all that follows from them. Only `build` imports torch, unless the settings
    name a model of another library: then the checks and the cost of that model do too.

    A kind is a class of its own with `kind: Literal["NAME"] = "NAME"` as its first field.
    """

    kind: str
    learning_rate_factor: Scale = 1.0
    """The learning rate of this encoder's parameters as a multiple of `optimizer.lr`, at every step of the
    schedule. Weights that were trained elsewhere often want 0.01 to 0.1 beside a new encoder's 1."""

    @abc.abstractmethod
    def input_problem(self, spec: InputSpec) -> str | None:
        """Why the encoder cannot take items like `spec`, with the fix; None where it can."""

    @abc.abstractmethod
    def build(self, spec: InputSpec, embedding_dim: int) -> nn.Module:
        """The network, freshly initialised: b inputs like `spec` -> (b, embedding_dim), of any length, or
        `records.Sets` (b, n, embedding_dim) where the encoder `gives_sets`.

        Its forward takes a tensor (b, *spec.shape), of images as uint8, which `networks.pixels` makes floats;
        or `records.Tokens` of its own tokenizer; or `records.Sets` where `spec` is one of sets; or
        `records.Words` where `spec` is one of words, and then it derives from `networks.words.WordsNetwork`.
        Weights are drawn here, by torch's default generator.

        Args:
            spec: items that `input_problem` has nothing against.
            embedding_dim: D; of an encoder that gives sets, the length of an element.
        """

    @abc.abstractmethod
    def cost(self, rows: int, spec: InputSpec, embedding_dim: int) -> EncoderCost:
        """Operations, parameters and values kept for b = `rows` inputs like `spec`; D = `embedding_dim`."""

    @abc.abstractmethod
    def output_dim(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """D, or the length of an element, of weights that hold tensors of these names and shapes; None where
        they are of another kind.

        Args:
            shapes: by the parameter's name in the network, the other encoder's left out.
        """

    def gives_sets(self, spec: InputSpec) -> bool:
        """Whether the network makes a set of vectors of an item like `spec`, of which `model.sets` makes one
        embedding; most kinds make one vector."""
        return False

    def most_elements(self, spec: InputSpec) -> int:
        """Elements of a set that the network gives, the most that costs are counted for."""
        return 1

    def configured_input(self) -> InputSpec | None:
        """The items that the settings alone tell of, before a shard set is built; None where they do not."""
        return None

    def start_problem(self, spec: InputSpec, from_files: bool) -> str | None:
        """What is wrong with libraries and files that the settings need, with the fix; None where nothing is.

        Asked before a rank starts; imports a library only where the settings name one.

        Args:
            spec: items that `input_problem` has nothing against.
            from_files: whether `load_start` will be called.
        """
        return None

    def load_start(self, network: nn.Module) -> None:  # noqa: B027 # most kinds have nothing to load
        """Put weights that the settings name into a network that `build` made, where a stage starts from no
        weights of an earlier one."""

    def own_files(self, from_files: bool) -> Mapping[str, Sequence[Path]]:
        """Files whose content decides the network or what it starts from, by the setting that names them.
        Checkpoints record their hash, so that other content behind the same path is another training.

        Args:
            from_files: whether `load_start` is called where a training begins.
        """
        return {}

    def libraries(self) -> tuple[str, ...]:
        """Packages besides torch that make the network; a result records their versions."""
        return ()

    def tokenizer(self) -> Tokenizer | None:
        """What makes tokens of texts for this encoder; None for encoders that take none."""
        return None

    def set_marks(self) -> dict[str, object]:
        """Settings that no shape of a weight shows, of kinds that can give sets; weights record them."""
        return {}

    def scaled_parts(self) -> tuple[int, ...] | None:
        """Widths of the parts of an input that are brought to unit length first; () for none.

        Weights record it, because no shape shows it. None for kinds that never do that: nothing is recorded.
        """
        return None


def check_input(encoder: Encoder, spec: InputSpec) -> None:
    """Refuse items that an encoder does not take.

    Raises:
        UserError: names both and the fix.
    """
    if (problem := encoder.input_problem(spec)) is not None:
        raise UserError(problem)


def vector_problem(kind: str, spec: InputSpec) -> str | None:
    """Why an encoder of one vector per item cannot take items like `spec`; None where it can."""
    if spec.kind != "array":
        return _other_input(kind, "one vector per item", spec)
    if len(spec.shape) != 1:
        return f"encoder {kind!r} takes one vector per item, but the field holds arrays of shape {spec.shape}"
    return None


def words_problem(kind: str, spec: InputSpec) -> str | None:
    """Why an encoder of words cannot take items like `spec`; None where it can."""
    return None if spec.kind == "words" else _other_input(kind, "words", spec)


def image_problem(kind: str, spec: InputSpec) -> str | None:
    """Why an encoder of images cannot take items like `spec`; None where it can."""
    return None if spec.kind == "image" else _other_input(kind, "images", spec)


def frames_problem(kind: str, spec: InputSpec) -> str | None:
    """Why an encoder of clips cannot take items like `spec`; None where it can."""
    if spec.kind != "frames":
        return _other_input(kind, "clips of frames", spec)
    if spec.shape[1] == 3 and spec.shape[2] == spec.shape[3]:
        return None
    return (
        f"encoder {kind!r} takes clips of square frames in three colours, (frames, 3, S, S), but the field "
        f"holds {spec.shape}.\nFix: build the set with frames like that, channels before height and width"
    )


def linear_problem(kind: str, spec: InputSpec) -> str | None:
    """Why an encoder of a vector or of a set of vectors cannot take items like `spec`; None where it can."""
    if spec.kind not in ("array", "set"):
        return _other_input(kind, "a vector or a set of vectors per item", spec)
    if len(spec.shape) == 1:
        return None
    if spec.kind == "set":
        return f"encoder {kind!r} takes sets of vectors, the field holds sets of arrays of {spec.shape}"
    return (
        f"encoder {kind!r} takes vectors, but the field holds arrays of shape {spec.shape}; sets of vectors "
        "are a ragged field (ragged_fields of its source)"
    )


def text_problem(kind: str, spec: InputSpec) -> str | None:
    """Why an encoder of texts cannot take items like `spec`; None where it can."""
    return None if spec.kind == "text" else _other_input(kind, "texts", spec)


_HOLDS: dict[InputKind, str] = {
    "array": "an array of shape {shape}",
    "words": "words of a word table of shape {shape}",
    "image": "images",
    "text": "texts",
    "set": "sets of arrays of shape {shape}",
    "frames": "clips of frames {shape}",
}
_FITTING: dict[InputKind, str] = {
    "array": "gated or mlp",
    "words": "words",
    "image": "cnn",
    "text": "bag_of_words",
    "set": "linear",
    "frames": "frames",
}


def _other_input(kind: str, takes: str, spec: InputSpec) -> str:
    found = _HOLDS[spec.kind].format(shape=spec.shape)
    return (
        f"encoder {kind!r} takes {takes}, but the field holds {found}.\n"
        "Fix: set the kind of this modality's encoder (model.a for data.a, model.b for data.b) "
        f"to {_FITTING[spec.kind]}, or name another field."
    )
