"""The types that travel between packages: one per hand-over, frozen, without behaviour.

Shape letters: B pairs in the global batch, b pairs on this rank, D embedding size, K prototypes.
What crosses the DeepSpeed engine is a NamedTuple of tensors, because its hooks see only tensors
inside tuples, lists and dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """What a source yields: one entry of a shard.

    `fields` maps a field name to an array, to the bytes of one encoded image (JPEG, PNG or WebP), to a text
    or, of a field of several items, to several texts. Every entry of a set has the same fields of the same
    kind and dtype; an array of several items (captions, clips) has one more leading axis than its item. So
    has a ragged array, whose one item is a set of any number of elements (regions of an image).
    """

    key: str
    fields: Mapping[str, np.ndarray | bytes | str | tuple[str, ...]]
    label: int = -1
    """Class number, or -1 where the set has none."""
    text: Mapping[str, str] = field(default_factory=dict)
    """Human-readable originals (a caption), kept beside the arrays for galleries and error messages."""
    captions: tuple[str, ...] = ()
    """Captions that a build turns into word ids or a field of texts, in the order of their items."""


@dataclass(frozen=True)
class RawSplit:
    """One split of a raw data set, opened but not read: entries are made one by one, anywhere, in any
    order."""

    keys: Sequence[str]
    """Keys of all entries, in a fixed order."""
    read: Callable[[int], Sample]
    """Entry number i of `keys`; raises BadEntry where its raw data are missing or malformed. Leaves out
    `caption_field`: a build makes it of the sample's `captions`."""
    captions: Callable[[], Iterable[Sequence[str]]] | None = None
    """Captions of every entry in turn, without touching features: what the vocabulary is counted on.
    None for sets without captions."""
    caption_field: str = "text"
    """Field that a build makes of the captions: word ids or, where the recipe has no `words`, texts."""
    class_names: Sequence[str] = ()
    """Names of the set's classes by label, the same in all its splits; empty where a set has no names."""


class Words(NamedTuple):
    """Captions as words of a frozen table: what an encoder of words takes."""

    ids: Tensor
    """(b, W) int64: rows of `vectors`, 0 where a caption has fewer than W words."""
    vectors: Tensor
    """(U + 1, word_dim) float32: vectors of the batch's U distinct words, after a row 0 of zeros."""


class Tokens(NamedTuple):
    """Texts as tokens of an encoder's own tokenizer: what an encoder of texts takes."""

    ids: Tensor
    """(b, W) int64: numbers of the tokens; W is the most that a text of the batch has."""
    mask: Tensor
    """(b, W) bool: True where a token stands, False for padding, which may change no embedding."""


class Sets(NamedTuple):
    """Sets of vectors, of as many elements as each has: what an encoder of sets takes and gives."""

    values: Tensor
    """(b, n, d): the elements; n is the most that a set of the batch has."""
    mask: Tensor
    """(b, n) bool: True where an element stands, in every set at least once; False for padding behind the
    elements, which may change no embedding."""


PairScores: TypeAlias = "Callable[[Sets, Sets], Tensor]"
"""Scores (items of a, items of b) of sets of a and sets of b, with gradient."""
Inputs: TypeAlias = "Tensor | Words | Tokens | Sets"
"""Inputs of one modality for b items: an array with b rows (of images: their pixels), words, tokens or
sets."""


def take_rows(inputs: Inputs, rows: slice | Tensor) -> Inputs:
    """Some of the items, (n, ...), by a slice or their numbers; words keep all their vectors, tokens and sets
    their width."""
    if isinstance(inputs, Words):
        return Words(inputs.ids[rows], inputs.vectors)
    if isinstance(inputs, Tokens):
        return Tokens(inputs.ids[rows], inputs.mask[rows])
    if isinstance(inputs, Sets):
        return Sets(inputs.values[rows], inputs.mask[rows])
    return inputs[rows]


def map_tensors(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The inputs with every tensor of them changed, for example moved to a device."""
    if isinstance(inputs, Words):
        return Words(change(inputs.ids), change(inputs.vectors))
    if isinstance(inputs, Tokens):
        return Tokens(change(inputs.ids), change(inputs.mask))
    if isinstance(inputs, Sets):
        return Sets(change(inputs.values), change(inputs.mask))
    return change(inputs)


InputKind: TypeAlias = Literal["array", "words", "image", "text", "set", "frames"]


@dataclass(frozen=True)
class InputSpec:
    """What an encoder is built for: one item of a modality, without the batch axis."""

    shape: tuple[int, ...]
    """Of an array; of words (W,), the ids a caption has; of images (3, S, S), pixels as uint8, red first; of
    texts (), since the encoder's tokenizer decides; of sets (d,), one element; of clips (F, 3, S, S), the
    pixels of F frames as uint8."""
    word_dim: int | None = None
    """Values of one word vector; None where the modality is none of words."""
    kind: InputKind = "array"
    """What an item is; a spec with `word_dim` is one of words without being told."""

    def __post_init__(self) -> None:
        if self.word_dim is not None and self.kind == "array":
            object.__setattr__(self, "kind", "words")
        if (self.kind == "words") != (self.word_dim is not None):
            raise ValueError(f"kind {self.kind!r} with word_dim {self.word_dim}: words alone have one")


@dataclass(frozen=True)
class PairBatch:
    """This rank's pairs of one global step, rank-major: rank r holds rows [r*b, (r+1)*b) of the batch."""

    step: int
    ids: Tensor
    """(b,) int64: index of each pair's entry in its split; of pairs that are drawn by class, that of the
    anchor, the entry of modality A."""
    entries: Tensor
    """(b,) int64: position of each pair's entry in the global batch, 0 .. entries-1."""
    a: Inputs
    """(b, ...) inputs of modality A."""
    b: Inputs
    """(b, ...) inputs of modality B."""
    items: Tensor | None = None
    """(b,) int64: the unit that each pair was drawn as, the same number for the same one in all steps: its
    entry (the anchor's, where partners are drawn by class) or, of clips, its caption. None: `ids`."""
    labels: Tensor | None = None
    """(b,) int64: class of each pair, -1 where it has none. None: not asked."""
    negatives: Inputs | None = None
    """(b, ...) inputs of modality B, each of another class than its pair. None: none are drawn."""
    negative_labels: Tensor | None = None
    """(b,) int64: their classes; None where there are none."""


class Reversals(NamedTuple):
    """By what the gradients of Doodle2Search's heads are multiplied on their way back, with a minus."""

    semantic: float
    """Of negatives, behind the head of class vectors."""
    domain: float
    """Of all rows, behind the head of domains."""


class PairEmbeddings(NamedTuple):
    """What the model gives for a batch of pairs; float32. a and b are of unit length."""

    a: Tensor
    """(b, D)"""
    b: Tensor
    """(b, D)"""
    prototypes: Tensor | None
    """(K, D), or None where the SwAMP term is off. Unit length unless `normalize_prototypes` is off."""
    logit_scale: Tensor | None = None
    """0-d, what cosines are multiplied by; None where the contrastive form has no logits."""
    logit_bias: Tensor | None = None
    """0-d, what is added to them then; None where the form adds nothing."""
    free_a: Tensor | None = None
    """(b, D) a as its encoder gives it; None where `model.length` is unit."""
    free_b: Tensor | None = None
    """(b, D) the same of b."""
    negatives: Tensor | None = None
    """(b, D) embeddings of the negatives, of unit length where `free_a` is None; None if there are none."""
    words: Tensor | None = None
    """(b, 3, E) what the head makes of a, b and the negatives, in the space of class vectors; None without
    heads."""
    domains: Tensor | None = None
    """(b, 3) logits that a, b and the negatives are photos; None without heads."""


class PairSets(NamedTuple):
    """What a model gives for a batch of pairs that are scored set by set: no embeddings."""

    a: Tensor
    """(b, n, d) elements, at least float32."""
    a_mask: Tensor
    """(b, n) bool, as of `Sets`."""
    b: Tensor
    """(b, m, d)"""
    b_mask: Tensor
    """(b, m)"""


@dataclass(frozen=True)
class SoftTargets:
    """Swapped targets for this rank's rows: `a` comes from the scores of B, and the reverse."""

    a: Tensor
    """(b, K), rows sum to 1."""
    b: Tensor
    """(b, K), rows sum to 1."""
    marginal_error: Tensor
    """0-d: mean over prototypes of |K * mean_i q_ik - 1|, the larger of both sides, of the plan that
    entered the last iteration (an upper bound for the plan that left it)."""
    iterations: int
    repeats: int
    """Iterations that had to be repeated with a MAX reduction because a column mass left float range."""


@dataclass(frozen=True)
class LossTerms:
    """The objective on one rank: a loss with gradient, and 0-d figures without."""

    total: Tensor
    terms: Mapping[str, Tensor]
    """Of every term that counts in this step, by name and before its weight; the same names on all ranks."""
    diagnostics: Mapping[str, Tensor]
    """0-d tensors by metric tag, for example swamp/target_entropy."""


@dataclass(frozen=True)
class BatchPlan:
    """How a global batch of entries is laid over lanes and ranks."""

    entries: int
    pairs_per_entry: int
    lanes: int
    world_size: int

    @property
    def pairs(self) -> int:
        """Pairs B of the global batch."""
        return self.entries * self.pairs_per_entry

    @property
    def local_pairs(self) -> int:
        """Pairs b of one rank."""
        return self.pairs // self.world_size

    @property
    def local_entries(self) -> int:
        """Entries of one rank."""
        return self.entries // self.world_size


@dataclass(frozen=True)
class StepReport:
    """What one training step says to the metrics writer. Loss figures are means over ranks."""

    step: int
    figures: Mapping[str, float]
    """By metric tag: loss/total, optim/lr, swamp/target_entropy, perf/step_seconds, ..."""


@dataclass(frozen=True)
class RetrievalMetrics:
    """Retrieval in one direction under one notion of relevance. Recalls are percentages."""

    direction: str
    """Display name, for example text->video."""
    relevance: str
    """pair or class"""
    r_at_1: float
    r_at_5: float
    r_at_10: float
    median_rank: float
    num_queries: int
    num_items: int
    map: float | None = None
    """Mean average precision over the whole gallery, percent; class relevance only."""
    precision_at: Mapping[int, float] = field(default_factory=dict)
    """P@k: relevant items among the first k over k, percent."""
    map_at: Mapping[int, float] = field(default_factory=dict)
    """mAP@k, percent: sums of precisions at hits over min(relevant items, k)."""
    map_at_hits: Mapping[int, float] = field(default_factory=dict)
    """The same sums over the hits among the first k, percent; 0 for a query without a hit."""
    hit_at: Mapping[int, float] = field(default_factory=dict)
    """Queries whose item at place n, counted from 1, is relevant, percent."""
    folds: int = 1
    """Blocks of entries that the figures are means over; queries and items are those of one."""


@dataclass(frozen=True)
class EvaluationResult:
    """All metrics of one entry of `evaluate`, keyed `<pair|class>/<a_to_b|b_to_a>`."""

    split: str
    metrics: Mapping[str, RetrievalMetrics]
    chance: Mapping[str, RetrievalMetrics] = field(default_factory=dict)
    """What a random ranking would reach in expectation, by the same keys."""
    gallery: str | None = None
    """Split that held modality B; None where `split` held both."""
    note: str = ""
    """What a reader must know of figures on this split of this set; mostly nothing."""
    normalised: str = ""
    """What scores were normalised by, `qb_norm by train` for example; empty where they were not."""


@dataclass(frozen=True)
class Alarm:
    """A sign of a training that stood on the wrong side of its limit for many steps in a row."""

    name: str
    message: str
    """What stands where, since which step, and what to do, as it was raised last; one line."""
    since: int
    """First of those steps, counted from 1."""
    raised: int
    """Step at which it was raised last."""
    cleared: int | None
    """Step at which it was cleared; None where it stands."""
    times: int
    """How often it was raised."""


@dataclass(frozen=True)
class AlarmState:
    """What is known of all alarms after a step."""

    against: Mapping[str, int] = field(default_factory=dict)
    """By name of an alarm: steps in a row whose sign spoke against its state, raised or not."""
    alarms: Mapping[str, Alarm] = field(default_factory=dict)
    """By name: all that were ever raised."""

    @property
    def standing(self) -> list[Alarm]:
        """Raised, and not cleared since."""
        return [alarm for alarm in self.alarms.values() if alarm.cleared is None]


@dataclass(frozen=True)
class StageResult:
    """What a finished stage leaves for the next one and for tables; result.json holds it."""

    name: str
    run_dir: Path
    weights: Path | None
    selected_step: int | None
    steps: int
    evaluations: tuple[EvaluationResult, ...]
    provenance: Mapping[str, object]
    """World size, seed, versions, git sha, hashes of shards and initial weights, seconds spent."""
    weights_sha256: str | None = None
    """Of the file `weights`; None where there are none, or in a result of an earlier version."""
    alarms: tuple[Alarm, ...] = ()
    """All that its training raised, those that were cleared too."""


@dataclass(frozen=True)
class JobState:
    """A scheduler's job as it stands, in terms that all schedulers share."""

    id: str
    phase: Literal["waiting", "running", "ended"]
    """waiting: in the queue, for the first time or again; running: holds machines."""
    reason: str = ""
    """Why it waits or ended, in the scheduler's words; empty where it gives none."""
    seconds: float | None = None
    """Since it started last; None where it has not, or that is not told."""
    code: int | None = None
    """How it ended, an `ExitCode` or another number, INTERRUPTED where a person cancelled it; None while it
    has not ended or where that is not told."""
    word: str = ""
    """The scheduler's own word for its state, for people to read: for example PENDING."""
    stuck: bool = False
    """It waits for what no time brings, for example the end of a job that has failed."""
    fix: str = ""
    """What lets a stuck job start, one line."""
    owner: str | None = None
    """What its submission wrote on it, the folder that it works on: it tells whose job this is, since numbers
    are used again. Empty where nothing stands there, None where the scheduler does not keep it."""


ProductLibrary: TypeAlias = Literal["blas", "onednn"]
"""What multiplies the float32 matrices of a training on a CPU (`product_library`)."""
PRODUCT_LIBRARIES: tuple[ProductLibrary, ...] = get_args(ProductLibrary)

Level: TypeAlias = Literal["ok", "warning", "problem"]
Place: TypeAlias = Literal["", "here", "scheduler", "nodes"]


@dataclass(frozen=True)
class Finding:
    """One thing that a check of a machine or a cluster looked at."""

    check: str
    level: Level
    """problem: runs would fail, hang or lose work; warning: they would be slower or less safe."""
    message: str
    fix: str = ""
    """What to do, one line; empty where all is well."""
    host: str = ""
    """Where it was found; empty where that is clear."""
    place: Place = ""
    """Of a cluster: this machine, from where jobs are submitted, the scheduler's words, or compute nodes."""
