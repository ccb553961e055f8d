"""What becomes of the sets of vectors that encoders give: one embedding each."""

from __future__ import annotations

import abc
from typing import Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Scale
from swamp_dist.encoders.cost import Counted, EncoderCost, Layer
from swamp_dist.settings import Settings

AttentionNorm = Literal[
    "clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "clipped", "softmax", "no_norm"
]


class SetPooling(Settings, abc.ABC):
    """What becomes of sets of vectors, shared by both modalities; elements as long as embeddings, and nothing
    to learn, where a kind does not say otherwise."""

    kind: str

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings at all, or scores pairs of sets as they are."""
        return True

    def width(self, embedding_dim: int) -> int:
        """Length of an element for embeddings of length D = `embedding_dim`.

        Raises:
            ValueError: D does not divide so; names lengths that do.
        """
        return embedding_dim

    def embedding_dim(self, width: int) -> int:
        """D of elements of this length."""
        return width

    def parameters(self, width: int) -> int:
        """Trainable parameters, which both modalities share."""
        return 0

    @abc.abstractmethod
    def cost(self, rows: int, elements: int, width: int) -> EncoderCost:
        """Operations and kept values of one modality's `rows` sets of so many elements; no parameters."""


class MeanSettings(SetPooling):
    """The mean of a set's elements."""

    kind: Literal["mean"] = "mean"

    def cost(self, rows: int, elements: int, width: int) -> EncoderCost:
        """No product; kept is the mean, which is brought to unit length."""
        return EncoderCost([], 0, rows * width)


class ParSettings(SetPooling):
    """Prototype attention representation (paper, section 5.3 and appendix D): learned queries that both
    modalities share attend to the elements of a set; an embedding is the weighted sums of all queries, one
    after the other."""

    kind: Literal["par"] = "par"
    queries: Annotated[int, Field(ge=1, le=2**14)] = 20
    """p, learned queries of a head."""
    heads: Annotated[int, Field(ge=1, le=256)] = 1
    """H."""
    temperature: Scale = 0.5
    """T: softmax over the elements x of a set of q . x / T."""
    head_form: Literal["repeat", "slice", "project"] = "repeat"
    """What a head is; the paper says that features are computed several times and concatenated. `repeat`:
    queries of its own over whole elements, so that H heads of p queries are one head of H * p. `slice`: one
    of H equal slices of every element, as in Set Transformer. `project`: elements times a learned matrix of
    its own. `repeat` and `project` give D = H * p * width, `slice` D = p * width."""
    compare: Literal["dot", "scaled_dot", "cosine"] = "dot"
    """q . x; the same divided by the square root of their length, as in Set Transformer; or their cosine. At
    T = 0.5 cosines give numbers in [-2, 2] to the softmax: no weight then is above e^4 times another."""
    queries_start: Literal["xavier", "normal"] = "xavier"
    """Uniform in +-sqrt(6 / ((p + 1) * length)), as Set Transformer's induced points; or normal of
    deviation 1 / sqrt(length)."""
    value_projection: bool = False
    """Sum a learned linear map of the elements instead of the elements themselves."""
    norm: Literal["whole", "query"] = "whole"
    """An embedding has unit length either way; `query`: every query's sum is brought to unit length before,
    so that all count alike."""

    @property
    def sums(self) -> int:
        """Weighted sums of whole elements that an embedding holds: D / width."""
        return self.queries if self.head_form == "slice" else self.queries * self.heads

    def width(self, embedding_dim: int) -> int:
        """D / (p * H), with `slice` D / p."""
        wanted = self.queries * self.heads  # of `slice`, p elements whose length H divides
        if embedding_dim % wanted:
            near = max(1, round(embedding_dim / wanted)) * wanted
            raise ValueError(
                f"embedding_dim = {embedding_dim}: expected a multiple of queries * heads = {self.queries} * "
                f"{self.heads} = {wanted} (sets: par, head_form {self.head_form}), for example {near}, with "
                f"elements of {near // self.sums} values"
            )
        return embedding_dim // self.sums

    def embedding_dim(self, width: int) -> int:
        """p * H * width, with `slice` p * width."""
        return self.sums * width

    def parameters(self, width: int) -> int:
        """Queries, and the matrices of `project` and `value_projection`."""
        own = self.heads * self.queries * (width // self.heads if self.head_form == "slice" else width)
        own += self.heads * width * width if self.head_form == "project" else 0
        return own + (width * width if self.value_projection else 0)

    def cost(self, rows: int, elements: int, width: int) -> EncoderCost:
        """Two products of the elements with every query, linear in their number: the scores and the sums."""
        vectors, head = rows * elements, width // self.heads if self.head_form == "slice" else width
        heads = self.heads if self.head_form != "repeat" else 1
        each = self.queries * self.heads // heads
        attention = 2 * 2 * vectors * heads * each * head
        layers: list[Layer | Counted] = [Counted(attention, 3 * attention)]
        kept = vectors * width + 2 * vectors * heads * each + rows * heads * each * head
        maps = self.heads if self.head_form == "project" else 0
        values = int(self.value_projection)
        if values:
            layers.append(_map(vectors, width, 1))
        if maps:
            layers += [_map(vectors, width, maps)] * (1 + values)
        kept += vectors * width * (values + maps * (1 + values))
        kept += rows * self.embedding_dim(width) * int(self.norm == "query")
        return EncoderCost(layers, 0, kept)

    @model_validator(mode="after")
    def _options_have_their_heads(self) -> ParSettings:
        if self.head_form == "slice" and self.heads == 1:
            raise ValueError(
                "head_form = slice with heads = 1 cuts nothing: set heads, or head_form = repeat"
            )
        return self


TENSORS_OF_A_PAIR = 12
"""Arrays of a pair's queries x contexts that cross attention needs at once, its backward pass included."""


class CrossAttentionSettings(SetPooling):
    """SCAN's cross attention (Lee et al., ECCV 2018): every element of one modality attends to the elements
    of the other. It scores pairs and makes no embeddings: no SwAMP term, and no index to search in."""

    kind: Literal["cross_attention"] = "cross_attention"
    queries: Literal["a", "b"]
    """Modality whose elements attend to those of the other. Words: the published t-i; regions: i-t."""
    norm: AttentionNorm = "clipped_l2norm"
    """What similarities go through before the softmax, `raw_feature_norm` of the published code: clipped
    below 0 to a tenth (leaky ReLU), then divided by their norm over the queries. The published `l1norm` and
    `clipped_l1norm` call a function that does not exist; here they do what their names say."""
    softmax_scale: Scale = 9.0
    """lambda_softmax; published: 9 for t-i, 4 for i-t."""
    aggregate: Literal["mean", "lse", "max", "sum"] = "mean"
    """What one score of all queries is: AVG, LSE, Max or Sum."""
    lse_scale: Scale = 6.0
    """lambda_lse, of `lse` alone; published: 6 for t-i; for i-t 5 on Flickr30K and 20 on COCO."""
    memory_mib: Annotated[int, Field(ge=1, le=2**20)] = 1024
    """MiB for the arrays of the pairs that are scored at once. More pairs are scored block by block, and each
    block once more in the backward pass."""

    @property
    def embeds(self) -> bool:
        """No; the length of an element stands in the place of D."""
        return False

    def cost(self, rows: int, elements: int, width: int) -> EncoderCost:
        """Nothing per item: `pair_cost` has what is done per pair."""
        return EncoderCost([], 0, 0)

    def pair_cost(self, pairs: int, queries: int, contexts: int, width: int) -> EncoderCost:
        """Of so many pairs of sets: products of all elements, and one of every weight with the Gram matrix.
        Where `memory_mib` cuts them into blocks, each is computed once more in the backward pass."""
        forward = pairs * 2 * queries * contexts * (width + contexts)
        kept = pairs * TENSORS_OF_A_PAIR * queries * contexts
        most = self.memory_mib * 2**20 // 4
        return EncoderCost([Counted(forward, (3 if kept <= most else 4) * forward)], 0, min(kept, most))


def _map(vectors: int, width: int, heads: int) -> Counted:
    """A Linear without bias of every element, whose parameters are counted elsewhere."""
    layer = Layer(vectors, width, heads * width)
    return Counted(layer.forward_flops, layer.flops)


SetsSettings = Annotated[ParSettings | MeanSettings | CrossAttentionSettings, Field(discriminator="kind")]
"""Settings of what becomes of sets; `kind` says which."""
