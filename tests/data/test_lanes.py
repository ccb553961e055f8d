import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swamp_dist.data.lanes import (
    batch_entries,
    epoch_order,
    group_classes,
    item_choice,
    permutation,
    plan_batches,
    steps_per_epoch,
)
from swamp_dist.errors import UserError
from swamp_dist.records import BatchPlan

GOLDEN_PERMUTATION = [3, 1, 6, 7, 5, 4, 0, 2]
GOLDEN_FULL = [8, 7, 0, 4, 6, 2, 10, 1, 3, 9, 11, 5]
GOLDEN_BLOCKS = [2, 11, 1, 4, 6, 3, 5, 8, 10, 7, 9, 0]
GOLDEN_ITEMS = [2, 1, 0, 3, 4, 2, 1]


@st.composite
def plans(draw):
    """Any W | L | B, and N entries over any number of shards, B <= N."""
    world = draw(st.integers(1, 4))
    lanes = world * draw(st.integers(1, 4))
    batch = lanes * draw(st.integers(1, 3))
    shards = draw(st.lists(st.integers(1, 60), min_size=1, max_size=6))
    shards[0] += max(0, batch - sum(shards))
    return BatchPlan(batch, 1, lanes, world), tuple(shards)


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(0, 5), st.integers(0, 3), st.booleans(), st.integers(1, 40))
def test_any_world_size_gets_the_same_batches_and_uses_an_entry_at_most_once(
    planned, seed, epoch, full, block
):
    plan, shards = planned
    order = epoch_order(shards, 100, seed, epoch, 101 if full else 0, block)
    assert sorted(order.tolist()) == list(range(sum(shards)))
    one = BatchPlan(plan.entries, 1, plan.lanes, 1)
    steps = steps_per_epoch(len(order), plan)
    seen = []
    for step in range(steps):
        whole = batch_entries(order, step, one, 0)
        ranks = [batch_entries(order, step, plan, rank) for rank in range(plan.world_size)]
        assert len({len(rows) for rows in ranks}) == 1
        assert np.concatenate(ranks).tolist() == whole.tolist()
        seen += whole.tolist()
    assert len(seen) == len(set(seen)) == sum(shards) // plan.entries * plan.entries


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(1, 6), st.integers(0, 6), st.integers(0, 3))
def test_a_batch_takes_classes_a_group_at_a_time_and_an_entry_at_most_once(planned, group, classes, epoch):
    plan, shards = planned
    plan = BatchPlan(plan.entries * group, 1, plan.lanes, 1)
    count = sum(shards) + plan.entries
    labels = permutation(count, "labels", classes) % (classes + 1) - 1
    order = group_classes(epoch_order((count,), 1, 0, epoch, 2, 8), labels, group, plan)
    assert sorted(order.tolist()) == list(range(count))
    batches = [batch_entries(order, step, plan, 0) for step in range(steps_per_epoch(count, plan))]
    made = np.concatenate(batches).reshape(-1, group)
    mixed = [row for row in made if len(set(labels[row])) > 1 or labels[row[0]] < 0]
    # of every class fewer than a group is left over, and entries without a class make no group of one
    left = sum(min(group - 1, int((labels == label).sum())) for label in range(classes))
    assert len(mixed) <= -(-(left + int((labels < 0).sum())) // group)
    whole = np.concatenate(batches)
    for world in (n for n in range(2, 5) if plan.lanes % n == 0):
        each = BatchPlan(plan.entries, 1, plan.lanes, world)
        ranks = [batch_entries(order, step, each, r) for step in range(len(batches)) for r in range(world)]
        assert np.concatenate(ranks).tolist() == whole.tolist()


def test_groups_of_a_class_stay_together_and_leftovers_make_their_own():
    labels, plan = np.array([0, 1, 0, 1, 0, 2, -1, 1]), BatchPlan(4, 1, 4, 1)
    order = group_classes(np.array([6, 5, 4, 3, 2, 1, 0, 7]), labels, 2, plan)
    # groups by first place: [6, 5] left of several classes, [4, 2], [3, 1], [0, 7] what is left
    assert batch_entries(order, 0, plan, 0).tolist() == [6, 5, 4, 2]
    assert batch_entries(order, 1, plan, 0).tolist() == [3, 1, 0, 7]


def test_a_lane_walks_through_its_own_piece_of_the_order():
    plan, order = BatchPlan(4, 1, 2, 2), np.arange(13)
    assert batch_entries(order, 0, plan, 0).tolist() == [0, 1]
    assert batch_entries(order, 1, plan, 0).tolist() == [2, 3]
    assert batch_entries(order, 0, plan, 1).tolist() == [6, 7]
    assert batch_entries(order, 2, plan, 1).tolist() == [10, 11]


def test_the_order_is_written_down_so_that_no_library_may_change_it():
    assert permutation(8, "entries", 0, 0).tolist() == GOLDEN_PERMUTATION
    assert epoch_order((4, 3, 5), 100, 7, 2, 1000, 4).tolist() == GOLDEN_FULL
    assert epoch_order((4, 3, 5), 100, 7, 2, 0, 4).tolist() == GOLDEN_BLOCKS
    assert item_choice(3, 1, "key-0001", 5, 7).tolist() == GOLDEN_ITEMS


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(epoch_order((50,), 1, seed, epoch, 2, 8)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_a_large_split_is_read_shard_after_shard():
    order = epoch_order((30, 30, 30, 30), 100, 0, 0, 0, 10)
    shard = order // 30
    changes = int((np.diff(shard) != 0).sum())
    assert changes <= 4  # three between four shards, one more where the rotation cuts a shard in two
    assert (np.diff(order) != 1).sum() > 80  # and inside a block the entries are mixed
    start = next(i for i in range(120) if shard[i] != shard[i - 1])
    blocks = np.roll(order, -start).reshape(12, 10)
    assert all(block.max() - block.min() == 9 for block in blocks)


def test_blocks_may_reach_over_shard_ends():
    order = epoch_order((3,) * 20, 100, 0, 0, 0, 30)
    assert (np.diff(order // 3) != 0).sum() > 30


@pytest.mark.parametrize("full_shuffle_below", [0, 1000])
def test_rotation_drops_other_entries_in_other_epochs(full_shuffle_below):
    def dropped(epoch):
        order = epoch_order((100, 103), 500, 0, epoch, full_shuffle_below, 1)
        return frozenset(order[200:].tolist())

    assert len({dropped(epoch) for epoch in range(10)}) >= 9
    assert len(frozenset.union(*(dropped(epoch) for epoch in range(10)))) > 15


def test_rotation_alone_moves_the_dropped_entries_of_a_single_block():
    starts = {int(np.flatnonzero(epoch_order((50, 50), 1, 0, e, 0, 1) == 0)[0]) for e in range(8)}
    assert len(starts) > 5


def test_items_are_drawn_without_replacement_and_repeat_only_when_they_run_out():
    for key in ("x", "y"):
        assert sorted(item_choice(0, 0, key, 6, 6).tolist()) == list(range(6))
        drawn = item_choice(0, 0, key, 3, 7).tolist()
        assert drawn[:3] == drawn[3:6]
        assert sorted(drawn[:3]) == [0, 1, 2]
    epochs = {int(item_choice(0, epoch, "x", 5, 1)[0]) for epoch in range(40)}
    assert epochs == set(range(5))


def test_fewer_pairs_take_the_first_of_the_same_draw():
    assert item_choice(0, 0, "k", 9, 2).tolist() == item_choice(0, 0, "k", 9, 9).tolist()[:2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((8, 1, 8, 1, 0), ["holds no entries"]),
        ((64, 1, 8, 1, 50), ["64", "50 entries"]),
        ((8, 1, 3, 1, 100), ["data.lanes = 3", "data.entries = 8", "1, 2, 4, 8"]),
        ((12, 1, 4, 3, 100), ["3 ranks", "data.lanes = 4", "1, 2, 4", "3, 6, 12"]),
        ((8, 1, 8, 3, 100), ["3 ranks", "1, 2, 4, 8", "a data.entries that 3 divides"]),
    ],
)
def test_impossible_batches_are_refused_with_what_would_do(arguments, words):
    with pytest.raises(UserError) as refused:
        plan_batches(*arguments)
    assert all(word in str(refused.value) for word in words)


def test_a_possible_plan_counts_pairs():
    plan = plan_batches(32, 64, 32, 4, 1000)
    assert (plan.pairs, plan.local_pairs, plan.local_entries) == (2048, 512, 8)
