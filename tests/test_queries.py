"""Queries by hand: who is asked, what is masked, and what a history window holds."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from mmrec_jax import queries
from mmrec_jax.types import Dataset, Interactions, Spec, UserError

# user 0: train 1 2, valid 3, test 4; user 1: train 0, test 2 3; user 2: train 5, nothing held out
TRAIN = Interactions(
    np.array([0, 0, 1, 2], np.int32), np.array([2, 1, 0, 5], np.int32), np.array([20, 10, 5, 1])
)
VALID = Interactions(np.array([0], np.int32), np.array([3], np.int32), np.array([30]))
TEST = Interactions(
    np.array([0, 1, 1], np.int32), np.array([4, 3, 2], np.int32), np.array([40, 7, 8])
)
DATA = Dataset("toy", Spec(3, 6, max_len=3), TRAIN, VALID, TEST, np.arange(3), np.arange(6))


def config(protocol="mmrec", block=2):
    return ConfigDict({"eval": {"protocol": protocol, "block": block}})


def pairs(row, item, block=2):
    """The pairs of all blocks as (number of the query over all blocks, item)."""
    return sorted(
        (number * block + int(r), int(i))
        for number, (rows, items) in enumerate(zip(row, item, strict=True))
        for r, i in zip(rows, items, strict=True)
        if r < block
    )


def test_users_with_targets_are_asked_in_order_of_their_number():
    query = queries.ranking(DATA, "test", config(block=1))
    assert query.user.tolist() == [[0], [1]]
    assert query.valid.all()
    assert query.target.tolist() == [[[4, -1]], [[2, 3]]]


def test_the_last_block_is_filled_with_queries_that_do_not_count():
    query = queries.ranking(DATA, "valid", config(block=2))
    assert query.user.shape == (1, 1)  # no larger than the number of users
    both = queries.blocks(np.array([0, 1, 2]), 2, 3, None, TRAIN, None)
    assert both.valid.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(
    "protocol,split,masked",
    [
        ("mmrec", "test", [(0, 1), (0, 2), (1, 0)]),
        ("strict", "test", [(0, 1), (0, 2), (0, 3), (1, 0)]),
        ("none", "test", []),
        ("strict", "valid", [(0, 1), (0, 2)]),
    ],
)
def test_masks_follow_the_protocol_and_histories_do_not(protocol, split, masked):
    block = 2 if split == "test" else 1
    query = queries.ranking(DATA, split, config(protocol))
    assert pairs(query.masked_row, query.masked_item, block) == masked
    history = [(0, 1), (0, 2), (1, 0)] if split == "test" else [(0, 1), (0, 2)]
    assert pairs(query.history_row, query.history_item, block) == history


def test_windows_hold_the_latest_items_in_time_order():
    query = queries.ranking(DATA, "test", config(), sequences=True)
    assert query.sequence.tolist() == [[[1, 2, 3], [-1, -1, 0]]]
    query = queries.ranking(DATA, "valid", config(), sequences=True)
    assert query.sequence.tolist() == [[[-1, 1, 2]]]
    short = queries.windows(TRAIN, np.array([0, 2]), 1)
    assert short.tolist() == [[2], [5]]


def test_an_unknown_protocol_is_named():
    with pytest.raises(UserError, match="eval.protocol is 'sampled'.*mmrec, strict, none"):
        queries.ranking(DATA, "test", config("sampled"))
