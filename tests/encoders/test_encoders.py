"""What every kind of encoder answers, and that it answers without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from swamp_dist.config import (
    CnnSettings,
    EncoderSettings,
    FramesSettings,
    GatedSettings,
    GruSettings,
    HfTextSettings,
    LinearSettings,
    MlpSettings,
    TimmSettings,
    Vgg16BnSettings,
    WordsSettings,
)
from swamp_dist.encoders.encoder import Encoder
from swamp_dist.model.dual_encoder import build_encoder
from swamp_dist.records import InputSpec
from tests.encoders.tiny_text_models import save_text_model

KINDS = get_args(get_args(EncoderSettings)[0])
VECTOR, CAPTION = InputSpec((7,)), InputSpec((5,), word_dim=3)
IMAGE, TEXT = InputSpec((3, 32, 32), kind="image"), InputSpec((), kind="text")
REGIONS = InputSpec((7,), kind="set")
CLIPS = InputSpec((4, 3, 32, 32), kind="frames")
SPECS = (VECTOR, CAPTION, IMAGE, TEXT, REGIONS, CLIPS)
MODELS: dict[type[Encoder], Encoder] = {
    TimmSettings: TimmSettings(name="test_resnet"),
    HfTextSettings: HfTextSettings(folder=Path("no such folder")),
    Vgg16BnSettings: Vgg16BnSettings(hidden=8),
}
"""Of kinds that have to name a model, or are large."""


def example(kind: type[Encoder], folder: Path | None = None) -> Encoder:
    """Settings of a kind; `folder`: gets a text model where a network will be built."""
    if folder is not None and kind is HfTextSettings:
        return HfTextSettings(folder=save_text_model(folder))
    return MODELS.get(kind) or kind()


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_read_back_from_the_weights_of_its_own_kind_only(
    kind: type[Encoder], tmp_path: Path
) -> None:
    encoder = example(kind, tmp_path)
    spec = next(spec for spec in SPECS if encoder.input_problem(spec) is None)
    state = build_encoder(encoder, spec, 6).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert encoder.output_dim(shapes) == 6
    assert all(example(other).output_dim(shapes) is None for other in KINDS if other is not kind)
    assert encoder.output_dim({}) is None


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_takes_one_kind_of_input_and_names_what_fits_another(kind: type[Encoder]) -> None:
    fitting = {
        "array": "gated or mlp",
        "words": "words",
        "image": "cnn",
        "text": "bag_of_words",
        "set": "linear",
        "frames": "frames",
    }
    problems = {spec.kind: example(kind).input_problem(spec) for spec in SPECS}
    taken = [input_kind for input_kind, problem in problems.items() if problem is None]
    assert taken == ["array", "set"] if kind is LinearSettings else len(taken) == 1
    for input_kind, problem in problems.items():
        assert problem is None or f"to {fitting[input_kind]}, or name another field" in problem
    assert (example(kind).tokenizer() is not None) == (taken == ["text"])


def test_those_that_give_sets_say_so() -> None:
    giving: list[tuple[Encoder, InputSpec, int]] = [
        (GruSettings(output="words", max_words=9), TEXT, 9),
        (CnnSettings(depth=3, places=True), IMAGE, 16),
        (LinearSettings(), REGIONS, 36),
        (FramesSettings(output="frames"), CLIPS, 4),
    ]
    for encoder, spec, elements in giving:
        assert encoder.gives_sets(spec)
        assert encoder.most_elements(spec) == elements
    for kind in KINDS:
        encoder = example(kind)
        spec = next(spec for spec in SPECS if encoder.input_problem(spec) is None)
        assert not encoder.gives_sets(spec)
        assert encoder.most_elements(spec) == 1
        other = InputSpec((3, 7), kind=spec.kind) if spec.kind in ("array", "set") else None
        assert other is None or "(3, 7)" in (encoder.input_problem(other) or "")


def test_eleven_layers_are_counted_as_numbers() -> None:
    shapes = {f"layers.{n}.bias": (n,) for n in (0, 2, 10)}
    assert MlpSettings().output_dim(shapes) == 10


def test_settings_tell_of_inputs_where_they_can() -> None:
    assert GatedSettings(unit_parts=(3, 4)).configured_input() == InputSpec((7,))
    assert GatedSettings().configured_input() is MlpSettings().configured_input() is None
    assert WordsSettings().configured_input() == InputSpec((20,), word_dim=300)


def test_parts_are_recorded_of_the_kinds_that_scale_them() -> None:
    assert GatedSettings(unit_parts=(3, 4)).scaled_parts() == (3, 4)
    assert GatedSettings().scaled_parts() == ()
    assert MlpSettings().scaled_parts() is WordsSettings().scaled_parts() is None


def test_settings_inputs_costs_and_headers_need_no_torch() -> None:
    program = (
        "import sys; from swamp_dist.config import ModelSettings; from swamp_dist.records import InputSpec\n"
        "for kind in ('mlp', 'gated', 'words', 'bag_of_words', 'gru'):\n"
        "    encoder = ModelSettings.model_validate({'a': {'kind': kind}}).a\n"
        "    spec = encoder.configured_input() or InputSpec((7,))\n"
        "    assert encoder.input_problem(spec) is None and encoder.cost(8, spec, 6).parameters > 0\n"
        "    assert encoder.output_dim({}) is None\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
