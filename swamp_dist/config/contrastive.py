"""The contrastive term of the objective. Defaults are the paper's video-text ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Count, CountOrNone, Factor, Figure, Scale
from swamp_dist.config.pair_targets import PairTargetSettings, target_problem
from swamp_dist.config.terms import TermSettings
from swamp_dist.settings import SAME_RESULT

LEAST_TEMPERATURE = 1e-4
"""Where the last bit of a float32 cosine moves a logit by 0.0006."""

LARGEST_SCALE = 100.0
"""Of 1 / temperature where it is learned (CLIP, Radford et al. 2021, section 2.5)."""


class ContrastiveSettings(TermSettings):
    """The contrastive term."""

    weight: Factor = 1.0
    """Factor of the term in the total; 0 skips its work."""
    form: Literal["all", "hardest", "infonce", "sigmoid"] = "all"
    """`all`: hinge, mean over all negatives (Miech et al. 2019, used for video-text);
    `hardest`: hinge with the most violating negative of the batch, both ways (paper, eq. 1);
    `infonce`: cross-entropy of the partner among all, mean of both ways (van den Oord et al. 2018; CLIP,
    Radford et al. 2021); `sigmoid`: every pair by itself (SigLIP, Zhai et al. 2023).
    Called `negatives` up to version 0.1, which is still read."""
    margin: Factor = 0.1
    """`all` and `hardest`: margin alpha of the hinge, in cosine units."""
    temperature: Scale = 0.1
    """`infonce` and `sigmoid`: cosines are divided by it; at least 1e-4."""
    learn_temperature: bool = False
    """Learn 1 / temperature from its start above, up to 100, and `logit_bias` with it."""
    logit_bias: Figure = -10.0
    """`sigmoid`: what is added to the logits, for there are many more negatives than positives."""
    positives: Literal["partner", "entry", "class"] = "partner"
    """Pairs of the batch that match a pair besides its partner: none, those of the same entry (captions of
    one image), or those with the same class label. They are no negatives; `infonce` and `sigmoid` pull at
    them too."""
    multiple_positives: Literal["supcon", "mil_nce"] = "supcon"
    """`infonce` with several positives: the mean of their losses (SupCon, Khosla et al. 2020), or the loss of
    the sum of their probabilities (MIL-NCE, Miech et al. 2020)."""
    targets: PairTargetSettings = PairTargetSettings()
    negative_weights: Literal["equal", "swapped_targets"] = "equal"
    """`infonce`: what a pair that does not match weighs in the normalisers of both its items. `equal`: 1;
    `swapped_targets`: 1 - <q_i, q_j>, one less the agreement of SwAMP's targets of both, so that items of the
    same classes are no negatives of each other; 1 until the SwAMP term counts, which the job needs. Was not
    measured to help here."""
    reduction: Literal["mean", "sum"] = "mean"
    """`sum` is exactly global batch size times `mean` (eq. 1 is written as a sum), for every form. The
    weight of the SwAMP term, lambda, stands beside the reduction that is named here."""
    all_negatives_steps: CountOrNone = 0
    """`hardest` only: use the mean over all negatives for this many first steps, against collapse."""
    in_entry_share: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    """`all` only, with several pairs per entry: share of the negative weight on pairs of the same
    entry (`hard_negative_rate` of Miech et al. 2019); null weights all negatives equally."""
    columns: Annotated[Literal["auto", "gathered", "ring"], SAME_RESULT] = "auto"
    """Where the a of the batch are that my b are compared with. `gathered`: on every rank; `ring`: a rank's
    share at a time, which moves on from rank to rank while it is compared, so that memory does not grow with
    the batch: once around, of `infonce` twice. Same losses and gradients up to rounding. `auto` gathers up to
    16 GiB of columns, their gradient and similarities, and takes the ring above; a queue that is
    replicated on request is gathered besides."""
    chunk: Annotated[Count | None, SAME_RESULT] = None
    """Columns of the batch compared at a time, so that memory beyond the gathered embeddings does not
    grow with the batch: same losses and gradients up to rounding; null = all columns at once."""

    @property
    def has_logits(self) -> bool:
        """Whether the form compares scaled cosines."""
        return self.weight > 0 and self.form in ("infonce", "sigmoid")

    @property
    def weighs_negatives(self) -> bool:
        """Whether SwAMP's targets say what negatives weigh."""
        return self.weight > 0 and self.negative_weights == "swapped_targets"

    @property
    def needs_all_columns(self) -> bool:
        """Whether every rank has to hold the whole batch, whatever memory that takes."""
        return self.targets.is_soft or self.weighs_negatives

    def takes_hardest(self, step: int) -> bool:
        """Whether the hardest negatives count in the step after `step` others, and not all of them."""
        return self.form == "hardest" and step >= self.all_negatives_steps

    @model_validator(mode="after")
    def _settings_count(self) -> ContrastiveSettings:
        if self.form in ("infonce", "sigmoid") and self.temperature < LEAST_TEMPERATURE:
            step = 2.0**-24 / self.temperature
            raise ValueError(
                f"temperature = {self.temperature:g}: float32 holds a cosine to 6e-8, so logits of up to "
                f"{1 / self.temperature:g} would be off by {step:.2g}; expected at least "
                f"{LEAST_TEMPERATURE:g}"
            )
        if self.learn_temperature and 1 / self.temperature > LARGEST_SCALE:
            raise ValueError(
                f"temperature = {self.temperature:g} with learn_temperature: 1 / temperature = "
                f"{1 / self.temperature:g} begins above {LARGEST_SCALE:g}, the bound of a learned one; "
                "set temperature: 0.01 or more, or learn_temperature: false"
            )
        if self.learn_temperature and self.form not in ("infonce", "sigmoid"):
            raise ValueError(
                f"learn_temperature with form = {self.form}: a hinge has a margin and no temperature. Set "
                "form: infonce or sigmoid, or learn_temperature: false"
            )
        if self.multiple_positives == "mil_nce" and (self.form != "infonce" or self.positives == "partner"):
            raise ValueError(
                f"multiple_positives = mil_nce with form = {self.form}, positives = {self.positives}: it is "
                "a reading of infonce with several positives. Set form: infonce and positives: entry or class"
            )
        problem = target_problem(self.targets, self.form, self.positives, self.columns)
        problem = problem or self._problem_of_weights()
        if problem is not None:
            raise ValueError(problem)
        return self

    def _problem_of_weights(self) -> str | None:
        """What weights of negatives do not go with, and the fix; None where they count."""
        fitting = {"form": "infonce", "positives": "partner", "targets.kind": "partner"}
        found = {"form": self.form, "positives": self.positives, "targets.kind": self.targets.kind}
        if self.negative_weights == "equal":
            return None
        for name, value in fitting.items():
            if found[name] != value:
                return (
                    f"negative_weights = {self.negative_weights} with {name} = {found[name]}: they are those "
                    f"of infonce whose pairs match their partners alone; set {name}: {value}, or "
                    "negative_weights: equal"
                )
        if self.columns == "ring":
            return (
                f"negative_weights = {self.negative_weights} with columns = ring: every rank needs the "
                "targets of the whole batch; set columns: auto, or negative_weights: equal"
            )
        return None
