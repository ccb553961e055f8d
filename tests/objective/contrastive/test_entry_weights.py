import pytest
import torch

from swamp_dist.objective.contrastive.entry_weights import entry_weights


@pytest.mark.parametrize(("entries", "pairs", "share"), [(32, 64, 0.5), (4, 3, 0.3), (2, 5, 0.9)])
def test_entry_weights_have_mean_one_and_the_share_inside(entries: int, pairs: int, share: float) -> None:
    position = torch.arange(entries).repeat_interleave(pairs)
    weights = entry_weights(position, position, entries, share, torch.float64)
    same = position[:, None] == position[None]
    assert float(weights.mean()) == pytest.approx(1.0)
    assert float(weights[same].sum() / weights.sum()) == pytest.approx(share)


def test_entry_weights_of_the_howto100m_batch() -> None:
    position = torch.arange(32).repeat_interleave(64)
    weights = entry_weights(position[:64], position, 32, 0.5)
    assert weights[0, 0] == 16
    assert float(weights[0, -1]) == pytest.approx(0.516129, abs=1e-6)
