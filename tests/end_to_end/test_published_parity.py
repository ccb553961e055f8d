"""Model, objective and evaluation against the published ones, in float64, from one state dict."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from swamp_dist.config import GatedSettings, ModelSettings, ObjectiveSettings, WordsSettings
from swamp_dist.distributed import alone
from swamp_dist.evaluate.gallery import open_gallery
from swamp_dist.evaluate.ranking import Cutoffs, figures, rank_tile
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.objective.contrastive.entry_weights import entry_weights
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, InputSpec, PairEmbeddings, Words
from swamp_dist.train.howto100m_weights import published_tensors, read_published
from swamp_dist.train.weights import Weights
from tests.published_model import PublishedNet, published_loss, published_metrics

E, WORD, PLACES, PARTS = 12, 7, 5, (9, 6)
VIDEO = sum(PARTS)
TABLE = 40


class Pairs(NamedTuple):
    """One batch twice: for the published network, and for ours."""

    text: Tensor
    """(N, PLACES, WORD)"""
    video: Tensor
    """(N, VIDEO), each part of unit length"""
    words: Words
    raw: Tensor
    """(N, VIDEO) before that"""


def pairs(count: int, seed: int) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(TABLE, WORD, generator=generator, dtype=torch.float64)
    table[0] = 0
    ids = torch.randint(1, TABLE, (count, PLACES), generator=generator)
    lengths = torch.randint(0, PLACES + 1, (count,), generator=generator)
    ids[torch.arange(PLACES) >= lengths[:, None]] = 0
    raw = 3 * torch.randn(count, VIDEO, generator=generator, dtype=torch.float64)
    raw[0, : PARTS[0]] = 0  # an empty slice
    norms = [part.norm(dim=1, keepdim=True).clamp(min=1e-12) for part in raw.split(PARTS, dim=1)]
    video = torch.cat([p / n for p, n in zip(raw.split(PARTS, dim=1), norms, strict=True)], dim=1)
    distinct = torch.cat([torch.zeros(1, dtype=torch.int64), ids.flatten()]).unique()
    return Pairs(table[ids], video, Words(torch.searchsorted(distinct, ids), table[distinct]), raw)


def both() -> tuple[PublishedNet, DualEncoder]:
    """The published network and ours with the same weights, float64; ours is video in b."""
    torch.manual_seed(0)
    net = PublishedNet(E, VIDEO, WORD)
    settings = ModelSettings(embedding_dim=E, a=WordsSettings(), b=GatedSettings(unit_parts=PARTS))
    specs = (InputSpec((PLACES,), WORD), InputSpec((VIDEO,)))
    ours = build_dual_encoder(settings, *specs, None, normalize_prototypes=True, seed=1)
    net.load_state_dict(published_tensors(Weights(dict(ours.state_dict()), {}), "ours"), strict=True)  # type: ignore[arg-type]
    return net.double(), ours.double()


def our_loss(found: PairEmbeddings, entries: int, each: int, share: float | None) -> Tensor:
    settings = ObjectiveSettings.model_validate(
        {"contrastive": {"in_entry_share": share}, "swamp": {"weight": 0}}
    )
    plan = BatchPlan(entries, each, entries, 1)
    objective = build_objective(settings, plan, E, torch.device("cpu"), torch.float64)
    positions = torch.arange(entries).repeat_interleave(each)
    return objective(found, positions, positions, 0, alone()).total


def same(model: DualEncoder, net: PublishedNet, what: str, rtol: float) -> None:
    """Parameters, or their gradients, of both."""
    published = dict(net.named_parameters())
    theirs = {n: published[n] if what == "values" else published[n].grad for n in published}
    renamed = {"a.fc": "text_pooling.fc", "a.unit.fc": "GU_text.fc", "a.unit.gate": "GU_text.cg.fc"}
    renamed |= {"b.fc": "GU_video.fc", "b.gate": "GU_video.cg.fc"}
    for name, parameter in model.named_parameters():
        layer, kind = name.rsplit(".", 1)
        ours = parameter if what == "values" else parameter.grad
        assert ours is not None
        assert float(ours.detach().abs().max()) > 0
        torch.testing.assert_close(ours, theirs[f"{renamed[layer]}.{kind}"], rtol=rtol, atol=1e-13)


def test_the_same_weights_give_the_same_similarities() -> None:
    net, ours = both()
    batch = pairs(30, 2)
    found = ours(batch.words, batch.raw)
    torch.testing.assert_close(found.a @ found.b.T, net(batch.video, batch.text), rtol=1e-10, atol=1e-14)


LOSSES = [(24, 1, 0.5), (3, 64, 0.5), (3, 64, None), (4, 5, 0.2), (4, 5, 0.9)]


@pytest.mark.parametrize(("videos", "n_pair", "rate"), LOSSES)
def test_the_same_weights_give_the_same_loss_and_gradients(
    videos: int, n_pair: int, rate: float | None
) -> None:
    net, ours = both()
    batch = pairs(videos * n_pair, 3)
    expected = published_loss(net(batch.video, batch.text), 0.1, videos, n_pair, rate)
    loss = our_loss(ours(batch.words, batch.raw), videos, n_pair, rate)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    expected.backward()
    loss.backward()
    same(ours, net, "gradients", 1e-9)


def test_the_weights_of_32_videos_with_64_clips() -> None:
    entries = torch.arange(32).repeat_interleave(64)
    weights = entry_weights(entries, entries, 32, 0.5, torch.float64)
    assert weights[0, 63] == 16
    assert weights[0, 64].item() == pytest.approx(0.516129, abs=1e-6)
    assert weights.mean().item() == pytest.approx(1, abs=1e-12)
    scores = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hinges = (0.1 + scores - scores.diagonal()[:, None]).relu()
    hinges += (0.1 + scores - scores.diagonal()[None, :]).relu()
    torch.testing.assert_close(
        (weights * hinges).mean(), published_loss(scores, 0.1, 32, 64, 0.5), rtol=1e-12, atol=0
    )


def test_five_updates_stay_together() -> None:
    net, ours = both()
    theirs = torch.optim.Adam(net.parameters(), lr=1e-2)
    mine = torch.optim.Adam(ours.parameters(), lr=1e-2)
    for step in range(5):
        batch = pairs(4 * 6, 10 + step)
        theirs.zero_grad()
        mine.zero_grad()
        expected = published_loss(net(batch.video, batch.text), 0.1, 4, 6, 0.5)
        loss = our_loss(ours(batch.words, batch.raw), 4, 6, 0.5)
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
        expected.backward()
        loss.backward()
        theirs.step()
        mine.step()
    same(ours, net, "values", 1e-7)


def our_metrics(texts: Tensor, videos: Tensor) -> dict[str, float]:
    order = torch.arange(len(texts))
    found = figures(
        rank_tile(texts, order, open_gallery(videos, order), None), len(texts), "miech", Cutoffs()
    )
    recalls = {"R1": found.r_at_1, "R5": found.r_at_5, "R10": found.r_at_10}
    return {name: value / 100 for name, value in recalls.items()} | {"MR": found.median_rank}


@pytest.mark.parametrize("duplicates", [0, 15])
def test_retrieval_figures_are_the_published_ones_with_and_without_ties(duplicates: int) -> None:
    net, ours = both()
    batch = pairs(60, 5)
    copied = torch.arange(60)
    copied[60 - duplicates :] = torch.arange(duplicates)  # the last videos are the first ones again
    with torch.no_grad():
        texts, videos = ours(batch.words, None), ours(None, batch.raw)[copied]
        x = net(batch.video, batch.text)[:, copied].float().numpy()
    expected = published_metrics(x)
    num_tied = sum(int((row == row[i]).sum()) - 1 for i, row in enumerate(x))
    assert num_tied == 2 * duplicates
    assert our_metrics(texts, videos) == pytest.approx(expected, rel=1e-12)


def test_examples_of_ties_worked_by_hand() -> None:
    assert published_metrics(np.zeros((4, 4))) == {"R1": 0.25, "R5": 1.0, "R10": 1.0, "MR": 2.5}
    scores = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]])
    assert published_metrics(scores.numpy())["R1"] == 0.75
    assert our_metrics(scores, torch.eye(3)) == pytest.approx(published_metrics(scores.numpy()))
    assert our_metrics(torch.zeros(4, 4), torch.eye(4)) == pytest.approx(published_metrics(np.zeros((4, 4))))


def test_a_published_file_scores_alike_in_both(tmp_path) -> None:  # type: ignore[no-untyped-def]
    net, ours = both()
    torch.save(net.float().state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    ours.float().load_state_dict(dict(read_published(tmp_path / "net.pth").tensors))
    batch = pairs(20, 6)
    found = ours.double()(batch.words, batch.raw)
    torch.testing.assert_close(
        found.a @ found.b.T, net.double()(batch.video, batch.text), rtol=1e-10, atol=1e-14
    )
