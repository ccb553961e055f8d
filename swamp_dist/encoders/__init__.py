"""Encoders of one modality: their settings, what they take and cost, and the networks they build.

One file per kind; a new one is added to the union below. Torch is imported when a network is built.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from swamp_dist.encoders import (
    bag_of_words,
    cnn,
    doodle_cnn,
    frames,
    gated,
    gru,
    hf_text,
    linear,
    mlp,
    timm,
    vgg16_bn,
    words,
)

EncoderSettings = Annotated[
    mlp.MlpSettings
    | gated.GatedSettings
    | words.WordsSettings
    | cnn.CnnSettings
    | bag_of_words.BagOfWordsSettings
    | gru.GruSettings
    | linear.LinearSettings
    | timm.TimmSettings
    | hf_text.HfTextSettings
    | vgg16_bn.Vgg16BnSettings
    | doodle_cnn.DoodleCnnSettings
    | frames.FramesSettings,
    Field(discriminator="kind"),
]
"""Settings of any encoder; `kind` says which."""
