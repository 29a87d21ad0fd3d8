"""Windows to batches: nothing lost, the budget kept, padding where it belongs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfserve.batching import CHUNK_BATCHES, CHUNKS, Batch, collate, plan, plan_epoch
from tfserve.encoding import Window

LENGTHS = st.lists(st.integers(1, 40), max_size=80)


def window(ids: list[int], boxes: list[list[int]] | None = None) -> Window:
    none = np.empty(0, np.int64)
    return Window(
        np.array(ids, np.int64),
        None if boxes is None else np.array(boxes, np.int64),
        none,
        none,
        np.empty(0, np.bool_),
    )


def plain(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([], 8, []),
        ([3, 1, 2, 8], 6, [[3], [0, 2], [1]]),
        ([5], 4, [[0]]),
        ([9, 9, 2, 2, 2], 4, [[0], [1], [2, 3], [4]]),
        ([2, 2, 2, 2], 8, [[0, 1, 2, 3]]),
        ([4, 4, 4], 8, [[0, 1], [2]]),
        ([1, 1], 0, [[0], [1]]),
    ],
    ids=[
        "none",
        "longest-first",
        "over-long",
        "several-over-long",
        "full",
        "two-and-one",
        "no-budget",
    ],
)
def test_plan_fills_batches_longest_first(
    lengths: list[int], budget: int, expected: list[list[int]]
) -> None:
    assert plain(plan(lengths, budget)) == expected


@given(LENGTHS, st.integers(1, 120))
def test_plan_holds_each_index_once(lengths: list[int], budget: int) -> None:
    assert sorted(itertools.chain(*plain(plan(lengths, budget)))) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 120))
def test_plan_keeps_the_budget_except_for_one_over_long_row(
    lengths: list[int], budget: int
) -> None:
    for batch in plain(plan(lengths, budget)):
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= budget or len(batch) == 1


@given(LENGTHS, st.integers(1, 120))
def test_plan_leaves_no_room_for_the_next_row(lengths: list[int], budget: int) -> None:
    batches = plain(plan(lengths, budget))
    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(lengths[i] for i in batch) > budget


@given(LENGTHS, st.integers(1, 120))
def test_plan_goes_from_long_to_short_and_keeps_the_order_of_equals(
    lengths: list[int], budget: int
) -> None:
    order = list(itertools.chain(*plain(plan(lengths, budget))))
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**32))
def test_an_epoch_holds_each_row_once(lengths: list[int], size: int, seed: int) -> None:
    batches = plain(plan_epoch(lengths, size, np.random.default_rng(seed)))
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**32))
def test_an_epoch_follows_from_its_generator(lengths: list[int], size: int, seed: int) -> None:
    once, again = (plain(plan_epoch(lengths, size, np.random.default_rng(seed))) for _ in "ab")
    assert once == again


def test_epochs_of_other_generators_differ() -> None:
    lengths = list(range(1, 41))
    epochs = {str(plain(plan_epoch(lengths, 4, np.random.default_rng(seed)))) for seed in range(9)}
    assert len(epochs) == 9


@given(LENGTHS, st.integers(2, 9))
def test_the_batches_of_a_chunk_hold_like_lengths(lengths: list[int], size: int) -> None:
    chunk = size * max(1, min(CHUNK_BATCHES, len(lengths) // (size * CHUNKS)))
    order = np.random.default_rng(3).permutation(len(lengths)).tolist()
    batches = [set(batch) for batch in plain(plan_epoch(lengths, size, np.random.default_rng(3)))]
    for start in range(0, len(order), chunk):
        rows = set(order[start : start + chunk])
        own = [[lengths[i] for i in batch] for batch in batches if batch <= rows]
        assert sum(map(len, own)) == len(rows)
        ranges = sorted((min(batch), max(batch)) for batch in own)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))


@pytest.mark.parametrize("rows", [3, 40, 300, 3000])
def test_the_rows_that_share_a_batch_change_from_epoch_to_epoch(rows: int) -> None:
    lengths = list(range(rows))
    epochs = [
        {frozenset(batch) for batch in plain(plan_epoch(lengths, 2, np.random.default_rng(seed)))}
        for seed in range(8)
    ]
    assert len(set.intersection(*epochs)) == 0


def test_the_batches_of_an_epoch_are_not_in_the_order_of_their_lengths() -> None:
    lengths = list(range(1, 201))
    batches = plain(plan_epoch(lengths, 4, np.random.default_rng(0)))
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_only_the_last_batch_of_an_epoch_is_smaller() -> None:
    size, count = 2, 2 * 2 * CHUNK_BATCHES * CHUNKS + 5
    batches = plan_epoch([7] * count, size, np.random.default_rng(0))
    assert sorted(len(batch) for batch in batches) == [1] + [2] * (count // 2)


def test_rows_of_an_epoch_are_mixed_across_a_table_of_several_chunks() -> None:
    size, count = 2, 2 * 2 * CHUNK_BATCHES * CHUNKS
    batches = plain(plan_epoch([7] * count, size, np.random.default_rng(0)))
    neighbours = sum(abs(a - b) == 1 for a, b in batches)
    assert neighbours < len(batches) // 10


def test_collate_pads_on_the_right_to_the_longest_window() -> None:
    batch = collate([window([5, 6]), window([7, 8, 9]), window([4])], pad_id=1)
    assert batch.input_ids.tolist() == [[5, 6, 1], [7, 8, 9], [4, 1, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert batch.bbox is None
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64


def test_collate_gives_padding_a_box_of_zeros() -> None:
    batch = collate([window([5], [[1, 2, 3, 4]]), window([6, 7], [[5, 6, 7, 8], [9, 9, 9, 9]])], 0)
    assert batch.bbox is not None
    assert batch.bbox.tolist() == [
        [[1, 2, 3, 4], [0, 0, 0, 0]],
        [[5, 6, 7, 8], [9, 9, 9, 9]],
    ]
    assert batch.bbox.dtype == np.int64


@given(st.lists(st.lists(st.integers(2, 99), min_size=1, max_size=9), min_size=1, max_size=9))
def test_collate_masks_exactly_what_it_padded(rows: list[list[int]]) -> None:
    batch: Batch = collate([window(row) for row in rows], pad_id=1)
    assert batch.input_ids.shape == (len(rows), max(map(len, rows)))
    for row, ids, mask in zip(rows, batch.input_ids, batch.attention_mask, strict=True):
        assert ids[mask == 1].tolist() == row
        assert set(ids[mask == 0].tolist()) <= {1}
