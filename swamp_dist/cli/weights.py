"""Verbs of weights: published checkpoints in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from swamp_dist.cli.app import app
from swamp_dist.cli.printing import say
from swamp_dist.errors import UserError
from swamp_dist.file_names import WEIGHTS_FILE


@app.command("import", epilog="Example:  swamp import howto100m_pt_model.pth --out weights/howto100m")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Published checkpoint (.pth).", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to make; it will hold weights.safetensors.")],
    text: Annotated[str, typer.Option(help="The modality that is text, a or b; the other is video.")] = "a",
) -> None:
    """Turn a checkpoint of the published video-text model into weights that a job can start from."""
    if text not in ("a", "b"):
        raise UserError(f"--text {text}: expected a or b, the modality of data.a or data.b that is text")
    weights_file = out / WEIGHTS_FILE
    if weights_file.exists():
        raise UserError(f"{weights_file} exists and is not replaced. Remove it or name another folder.")
    from swamp_dist.train.howto100m_weights import TextSide, model_section, read_published
    from swamp_dist.train.weights import save_weights
    from swamp_dist.train.weights_record import record_sha256

    side = cast(TextSide, text)
    weights = read_published(file, side)
    out.mkdir(parents=True, exist_ok=True)
    record_sha256(weights_file, save_weights(weights_file, weights.tensors, weights.metadata))
    say(f"weights:  {weights_file}")
    say(f"use it:   train.init_from={out} in a job with\n{model_section(weights, side)}")


@app.command("export", epilog="Example:  swamp export runs/msrvtt --out msrvtt.pth")
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_WEIGHTS", help="Run folder or weights.safetensors.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write.")],
) -> None:
    """Write a model of words and a gated unit as a checkpoint that the published code loads strictly."""
    from swamp_dist.train.howto100m_weights import published_tensors, write_published
    from swamp_dist.train.weights import load_weights

    weights = load_weights(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_published(out, published_tensors(weights, source))
    say(f"checkpoint:  {out}")
    if "prototypes.weight" in weights.tensors:
        say("left out:    prototypes, which the published model has no place for")
