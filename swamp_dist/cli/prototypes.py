"""The verb that looks at what a run has learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from swamp_dist.cli.app import app
from swamp_dist.cli.printing import say, show, working

if TYPE_CHECKING:
    from rich.table import Table

    from swamp_dist.prototypes.study import PrototypeFigures, Study

_ROWS = 12
"""Prototypes that the table shows."""
_WIDTH = 80
"""Columns of the table in a pipe; keywords are cut to what is left of them."""


@app.command(
    epilog="Examples:  swamp prototypes runs/emoji --split test  |  "
    "swamp prototypes runs/emoji@200 --split test --out looks/early"
)
def prototypes(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="Run folder, RUN@STEP, or weights inside a run.", show_default=False
        ),
    ],
    split: Annotated[str, typer.Option(help="Split whose items are assigned.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: RUN/prototypes/SPLIT.")
    ] = None,
    shards: Annotated[
        Path | None, typer.Option(help="Another shard set with the same fields. Default: the run's own.")
    ] = None,
    super_clusters: Annotated[
        int | None,
        typer.Option(help="Super-clusters at most. Default: root of the prototypes in use.", min=1),
    ] = None,
    per_card: Annotated[
        int, typer.Option(help="Pictures of a card of the gallery at most; texts are half as many.", min=1)
    ] = 12,
    order: Annotated[
        Literal["nearest", "random"],
        typer.Option(help="Items that a card shows first: those of the highest scores, or drawn ones."),
    ] = "nearest",
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard", help="Write embeddings with pictures for TensorBoard's projector as well."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print for programs to read.")] = False,
) -> None:
    """Show the prototypes of a run: the items, keywords and agreement of each (paper, section 5.5).

    Every item of the split goes to the prototype of its highest score. Written are prototypes.json (all
    figures), items.npz (every item's prototype), gallery.html (a page that needs no other file) and
    sheet.png.
    """
    from swamp_dist.train.named_weights import stage_file_of

    stage_file_of(Path(run))  # a wrong name is told before the libraries below are loaded
    with working(f"looking at the prototypes on {split}"):
        from swamp_dist.inference import load_model
        from swamp_dist.prototypes.files import as_json as figures
        from swamp_dist.prototypes.files import default_folder, write_figures, write_pictures
        from swamp_dist.prototypes.study import study

        model = load_model(run)
        found = study(model, split, shards, super_clusters)
        folder = out or default_folder(Path(run), split, None if shards is None else found.manifest.name)
        files = [*write_figures(found, folder), *write_pictures(found, folder, per_card, order)]
        if tensorboard:
            from swamp_dist.prototypes.tensorboard import write_tensorboard

            write_tensorboard(found, folder, files[-1].read_bytes())
    if as_json:
        say(json.dumps(figures(found), indent=1, allow_nan=False))
        return
    _show(found, files)
    if tensorboard:
        say(f"projector:   tensorboard --logdir {folder}    (tab Projector)")


def _show(found: Study, files: Sequence[Path]) -> None:
    used, total, (a, b) = found.used, len(found.prototypes), found.model.fields
    largest = sorted(used, key=lambda each: (-each.items, each.number))[:_ROWS]
    show(table(largest, bool(found.classes)), width=_WIDTH)
    say(f"shown:       the {len(largest)} largest of {len(used)} in use, of {total} prototypes")
    agreed = found.agreement
    by_chance = f"{agreed.chance:.1%}"
    say(f"agreement:   {agreed.share:.1%} of pairs have both sides in one; by chance {by_chance}")
    for name, each in found.classes.items():
        label = {"a": a, "b": b}.get(name, name)
        say(f"classes:     {label}: purity {each.purity:.1%}, NMI {each.nmi:.3f}")
    say(f"keywords:    {found.words_from or 'none, as the set holds no texts'}")
    for file in files:
        say(f"written:     {file}")


def table(figures: Sequence[PrototypeFigures], classes: bool) -> Table:
    """A line per prototype that fits 80 columns; `classes`: with their purity."""
    from rich.table import Table

    from swamp_dist.console import cell

    headings = ("ID", "a", "b", "agree", *(["purity"] if classes else []))
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        drawn.add_column(heading, justify="right", no_wrap=True)
    drawn.add_column("keywords", no_wrap=True)
    digits = max((len(str(size)) for each in figures for size in each.sizes), default=1)
    room = _WIDTH - sum(max(len(heading), digits) + 2 for heading in headings) - 4
    for each in figures:
        shares = [each.agreement, *([each.purity] if classes else [])]
        told = ["-" if share is None else f"{share:.0%}" for share in shares]
        words = _that_fit([keyword.word for keyword in each.keywords], room)
        drawn.add_row(*map(cell, (f"{each.number:04d}", *map(str, each.sizes), *told, words)))
    return drawn


def _that_fit(words: Sequence[str], room: int) -> str:
    """As many words as a line of `room` characters takes, the first one cut where it alone is too long."""
    line = words[0][:room] if words else ""
    for word in words[1:]:
        if len(line) + len(word) + 2 > room:
            break
        line += f", {word}"
    return line
