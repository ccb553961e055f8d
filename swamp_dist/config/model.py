"""The two encoders."""

from __future__ import annotations

from swamp_dist.bounds import Width
from swamp_dist.encoders import EncoderSettings
from swamp_dist.encoders.gated import GatedSettings
from swamp_dist.settings import Settings


class ModelSettings(Settings):
    """The two encoders; the prototypes live with the objective's settings."""

    embedding_dim: Width | None = 4096
    """Length D of the shared embedding; both encoders end in unit-length vectors of this size. null
    takes it from the weights that the stage starts from (`train.init_from`, `weights`)."""
    a: EncoderSettings = GatedSettings()
    """Encoder of modality A."""
    b: EncoderSettings = GatedSettings()
    """Encoder of modality B."""
