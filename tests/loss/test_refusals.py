"""What `SwampLoss` refuses: on one rank, and on ranks that differ, all of which are told and none waits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from swamp_dist import SwampLoss, UserError
from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World
from tests.ranks import run_on_ranks

SMALL: dict[str, Any] = {"prototypes": 4, "queue": {"size": 8, "start_when_filled": 0}}
UNIQUE, KMEANS = SMALL | {"queue": {"size": 8, "unique_items": True}}, SMALL | {"prototypes_start": "kmeans"}
CLASS, ENTRY, OFF = {"positives": "class"}, {"positives": "entry"}, {"weight": 0}


def rows(pairs: int = 4, dim: int = 6, seed: int = 0) -> list[Tensor]:
    made = torch.randn(2, pairs, dim, generator=torch.Generator().manual_seed(seed))
    return [each.requires_grad_() for each in made]


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"contrastive": {"form": "infonse"}}, "contrastive.form.*did you mean infonce"),
        ({"swamp": {"prototype": 4}}, "swamp.prototype.*\n.*did you mean"),
        ({"swampp": {}}, "swampp"),
        ({"swamp": {"queue": {"layout": "sharded"}}}, "whole on every rank"),
        ({"swamp": {"weight": torch.tensor(1.0)}}, "Tensor is no type that a settings file could hold"),
        ({"embedding_dim": 0}, "expected at least 1"),
        ({"contrastive": {"weight": 0}, "swamp": {"weight": 0}}, "nothing would be trained"),
    ],
)
def test_settings_that_are_wrong_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"(?s){words}"):
        SwampLoss(**{"embedding_dim": 6} | arguments)


def test_settings_come_from_values_sections_or_a_job_file(tmp_path: Path) -> None:
    settings = ObjectiveSettings.model_validate({"contrastive": {"form": "sigmoid"}, "swamp": SMALL})
    (tmp_path / "job.yaml").write_text(
        "name: x\nseed: 5\ndata: {shards: nowhere, pairs_per_entry: 2}\n"
        "model: {embedding_dim: 6, a: {kind: mlp}, b: {kind: mlp}}\ntrain: {epochs: 1}\n"
        "objective: {contrastive: {negatives: hardest}, swamp: {prototypes: 4}}\n"
    )
    given = SwampLoss(6, settings, swamp={"weight": 0.1})
    assert (given.settings.contrastive.form, given.settings.swamp.weight) == ("sigmoid", 0.1)
    assert given.settings.swamp.prototypes == 4
    read = SwampLoss.from_job(tmp_path / "job.yaml", ["objective.swamp.eta=7"])
    assert read.settings.contrastive.form == "hardest"
    assert (read.settings.swamp.eta, read.seed, read.pairs_per_entry) == (7, 5, 2)
    assert "hardest" in repr(read)


# -- one rank --------------------------------------------------------------------------------------

CALLS: dict[str, tuple[dict[str, Any], Callable[[SwampLoss], Any], str]] = {
    "dim": ({}, lambda loss: loss(*rows(dim=5)), r"a: expected .*\(pairs, 6\), found .*\(4, 5\)"),
    "integers": ({}, lambda loss: loss(*(x.long() for x in rows())), "floating-point rows"),
    "no pairs": ({}, lambda loss: loss(rows()[0], rows(3)[1]), "found 4 and 3"),
    "one pair": ({}, lambda loss: loss(*rows(1)), "at least 2 pairs"),
    "none": ({}, lambda loss: loss(*rows(0)), "a batch of 0 pairs"),
    "items": ({}, lambda loss: loss(*rows(), torch.arange(3)), r"items: expected 4 integers"),
    "unique": ({"swamp": UNIQUE}, lambda loss: loss(*rows()), "items"),
    "classes": (
        {"contrastive": CLASS}, lambda loss: loss(*rows(), labels=torch.tensor([0, -1, 1, 1])),
        "at least 0 for each pair.*found a negative one",
    ),
    "no classes": ({"contrastive": CLASS}, lambda loss: loss(*rows()), "found none"),
    "entries": ({"contrastive": ENTRY}, lambda loss: loss(*rows()), "give the entry of each"),
    "evaluation": ({}, lambda loss: loss.eval()(*rows()), "evaluation mode"),
    "size": ({}, lambda loss: (loss(*rows()), loss(*rows(3))), "3 pairs .* after batches of 4"),
    "uneven entry": ({"pairs_per_entry": 3}, lambda loss: loss(*rows()), "multiple of pairs_per_entry = 3"),
    "kmeans": ({"swamp": KMEANS}, lambda loss: loss(*rows()), "start_prototypes"),
    "few rows": ({"swamp": SMALL}, lambda loss: loss.start_prototypes(rows(3)[0]), "3 rows cannot start 4"),
    "no prototypes": ({"swamp": OFF}, lambda loss: loss.start_prototypes(rows()[0]), "no prototypes"),
    "state": ({}, lambda loss: loss.set_extra_state({"steps": 1}), "not the state of a SwampLoss"),
    "other state": (
        {"swamp": SMALL},
        lambda loss: (loss.set_extra_state(stepped(5).get_extra_state()), loss(*rows())),
        r"expected \(n, 6\)",
    ),
}  # fmt: skip


def stepped(dim: int = 6) -> SwampLoss:
    loss = SwampLoss(dim, swamp=SMALL)
    loss(*rows(dim=dim)).loss.backward()
    return loss


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_do_not_fit_are_refused(name: str) -> None:
    arguments, call, words = CALLS[name]
    with pytest.raises(UserError, match=f"(?s){words}"):
        call(SwampLoss(6, **arguments))


# -- what else it promises -------------------------------------------------------------------------


def test_on_the_meta_device_it_waits_for_values_and_then_is_the_same() -> None:
    expected = SwampLoss(6, contrastive={"form": "infonce"}, swamp=SMALL)
    with torch.device("meta"):
        loss = SwampLoss(6, contrastive={"form": "infonce"}, swamp=SMALL)
    loss.to_empty(device="cpu")
    with pytest.raises(UserError, match="reset_parameters"):
        loss(*rows())
    loss.reset_parameters()
    assert torch.equal(loss(*rows()).loss, expected(*rows()).loss)


def test_torch_s_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = SwampLoss(6, swamp=SMALL)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert a.prototypes is not None
    assert torch.equal(a.prototypes.weight, SwampLoss(6, swamp=SMALL).prototypes.weight)  # type: ignore[union-attr]


def test_under_autocast_the_loss_is_that_of_float32_rows() -> None:
    halves = [each.detach().bfloat16() for each in rows()]
    loss, same = SwampLoss(6, swamp=SMALL), SwampLoss(6, swamp=SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(*(each.clone().requires_grad_() for each in halves)).loss
    assert found.dtype == torch.float32
    assert torch.equal(found, same(*(each.float().requires_grad_() for each in halves)).loss)


def test_prototypes_may_start_as_centres() -> None:
    loss = SwampLoss(6, swamp=SMALL | {"prototypes_start": "kmeans"})
    given = torch.cat([each.detach() for each in rows(8)])
    loss.start_prototypes(given)
    assert loss.prototypes is not None
    cosine = nn.functional.normalize(given, dim=1) @ loss.prototypes().T
    assert cosine.max(dim=1).values.mean() > 0.8
    loss(*rows())


def test_a_learned_scale_keeps_its_bound_and_takes_no_weight_decay() -> None:
    contrastive = {"form": "infonce", "learn_temperature": True, "temperature": 0.01}
    loss = SwampLoss(6, contrastive=contrastive, swamp=SMALL)
    decays = [group["weight_decay"] for group in loss.parameter_groups(0.1)]
    assert decays == [0.1, 0.0]
    assert loss.logits is not None
    loss.logits.log_scale.data += 1
    figures = loss.mean_figures(loss(*rows()).figures)
    assert figures["contrastive/logit_scale"] == pytest.approx(100)
    assert float(loss.logits.log_scale.detach().exp()) == pytest.approx(100)


def test_a_state_survives_where_no_step_comes_between_and_fits_another_batch() -> None:
    loss = stepped()
    state = copy.deepcopy(loss.state_dict())
    again = SwampLoss(6, swamp=SMALL)
    again.load_state_dict(state)
    assert again.steps == 1
    torch.testing.assert_close(dict(again.state_dict()), dict(state), rtol=0, atol=0)
    assert float(again(*rows(6)).figures["queue/fill"]) == 1.0


# -- ranks that differ -----------------------------------------------------------------------------


def _differing(world: World) -> dict[str, str]:
    """What this rank is told where the ranks differ in one thing."""
    loaded = SwampLoss(6, swamp=SMALL)
    if world.rank == 1:
        state = loaded.get_extra_state()
        loaded.set_extra_state(state | {"steps": torch.tensor(3)})
    calls: dict[str, Callable[[], Any]] = {
        "batch": lambda: SwampLoss(6)(*rows(4 + world.rank)),
        "settings": lambda: SwampLoss(6, swamp={"eta": 5.0 + world.rank})(*rows()),
        "seed": lambda: SwampLoss(6, seed=world.rank)(*rows()),
        "state": lambda: loaded(*rows()),
        "frozen": lambda: SwampLoss(6)(rows()[0].requires_grad_(world.rank == 0), rows()[1]),
        "items": lambda: SwampLoss(6)(*rows(), torch.arange(4) if world.rank else None),
        "fault": lambda: SwampLoss(6)(*rows(dim=6 - world.rank)),
    }
    told = {}
    for name, call in calls.items():
        try:
            call()
        except UserError as error:
            told[name] = str(error)
    return told


def _first_prototypes(world: World) -> list[Tensor]:
    loss = SwampLoss(6, swamp=SMALL)
    assert loss.prototypes is not None
    loss.prototypes.weight.data += world.rank
    loss(*rows(seed=world.rank)).loss.backward()
    assert loss.prototypes.weight.grad is not None
    return [loss.prototypes.weight.data, loss.prototypes.weight.grad]


def _both(world: World) -> tuple[dict[str, str], list[Tensor]]:
    return _differing(world), _first_prototypes(world)


def test_ranks_that_differ_are_all_told_and_prototypes_are_those_of_rank_0() -> None:
    (told, first), (other, second) = run_on_ranks(_both, 2)
    assert told == other
    found = {
        "batch": "pairs: 4 on rank 0; 5 on rank 1",
        "settings": "swamp.eta: 5.0 on rank 0; 6.0 on rank 1",
        "seed": "seed: 0 on rank 0; 1 on rank 1",
        "state": "steps done: 0 on rank 0; 3 on rank 1",
        "frozen": "a has a gradient: True on rank 0; False on rank 1",
        "items": "items: False on rank 0; True on rank 1",
        "fault": "rank 1: embeddings a: expected",
    }
    assert told.keys() == found.keys()
    for name, words in found.items():
        assert words in told[name]
        assert "Fix: " in told[name]
    expected = SwampLoss(6, swamp=SMALL).prototypes
    assert expected is not None
    assert torch.equal(first[0], expected.weight.data)
    for mine, theirs in zip(first, second, strict=True):
        assert torch.equal(mine, theirs)
