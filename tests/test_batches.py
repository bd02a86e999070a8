"""Batches: segments of fixed and of random length, of all rows or some, and how the lengths go on."""

import io

import numpy as np
import pytest
import torch

from data.batches import OrderedBatches, VariableLengthBatches
from system.errors import UserError

PARTS = [[range(0, 2), range(2, 5)], [range(0, 1), range(1, 2), range(2, 5)]]  # of five rows


def columns(ids, batch_size):
    length = len(ids) // batch_size
    return [[int(ids[b * length + t]) for b in range(batch_size)] for t in range(length)]


@pytest.mark.parametrize(("n", "batch_size", "tgt_len"), [(23, 4, 2), (24, 4, 5), (8, 4, 3), (50, 1, 7), (21, 3, 6)])
def test_ordered_batches(n, batch_size, tgt_len):
    ids = np.arange(100, 100 + n, dtype=np.int32)
    rows = columns(ids, batch_size)
    batches = OrderedBatches(ids, batch_size, tgt_len)
    for _ in range(2):
        segments = list(batches)
        assert len(segments) == len(batches)
        assert [segment.start for segment in segments] == list(range(0, len(rows) - 1, tgt_len))
        assert torch.cat([segment.tokens for segment in segments]).tolist() == rows[:-1]
        assert torch.cat([segment.targets for segment in segments]).tolist() == rows[1:]
        assert all(len(segment.tokens) == tgt_len for segment in segments[:-1])
        assert {segment.tokens.dtype for segment in segments} == {torch.int64}
    assert batches.n_targets == batch_size * (len(rows) - 1)
    later = list(batches.from_position(tgt_len))
    assert [segment.tokens.tolist() for segment in later] == [s.tokens.tolist() for s in segments[1:]]


def test_a_segment_reads_its_own_part_of_the_map_only():
    ids = np.arange(30, dtype=np.int32)
    assert np.shares_memory(OrderedBatches(ids, 2, 1).stream.rows, ids)
    some = OrderedBatches(ids, 5, 1, rows=range(1, 3)).stream.rows
    assert np.shares_memory(some, ids[6:18])
    assert not np.shares_memory(some, ids[:6])
    assert not np.shares_memory(some, ids[18:])


def lengths_of(seed, n_rows, tgt_len):
    """The lengths drawn from a fresh generator, until fewer than two tokens are left to predict."""
    rng, left, lengths = np.random.RandomState(seed), n_rows - 1, []
    while left >= 2:
        base = tgt_len if rng.random_sample() < 0.95 else tgt_len / 2
        lengths.append(min(left, tgt_len + 15, max(5, int(rng.normal(base, 5)))))
        left -= lengths[-1]
    return lengths


@pytest.mark.parametrize(("n", "batch_size", "tgt_len", "seed"), [(4000, 3, 20, 0), (999, 1, 6, 1), (35, 5, 20, 2)])
def test_variable_length_batches(n, batch_size, tgt_len, seed):
    ids = np.arange(n, dtype=np.int32)
    rows = columns(ids, batch_size)
    lengths = lengths_of(seed, len(rows), tgt_len)
    segments = list(VariableLengthBatches(ids, batch_size, tgt_len, np.random.RandomState(seed)))
    assert [len(segment.tokens) for segment in segments] == lengths
    assert [segment.start for segment in segments] == [sum(lengths[:i]) for i in range(len(lengths))]
    read = sum(lengths)
    assert torch.cat([segment.tokens for segment in segments]).tolist() == rows[:read]
    assert torch.cat([segment.targets for segment in segments]).tolist() == rows[1 : read + 1]


def through_a_file(state):
    """As a loader gives it back that runs no code."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


@pytest.mark.parametrize("n_read", [0, 7, 8])  # normal numbers come in pairs: one may be in store
def test_variable_lengths_go_on_from_a_saved_state(n_read):
    ids = np.arange(3000, dtype=np.int32)
    batches = VariableLengthBatches(ids, 2, 30, np.random.RandomState(3))
    segments, position = iter(batches), 0
    for _ in range(n_read):
        position += len(next(segments).tokens)
    resumed = VariableLengthBatches(ids, 2, 30, np.random.RandomState())
    resumed.restore(through_a_file(batches.state()))
    assert resumed.state() == batches.state()
    rest = list(resumed.from_position(position))
    assert [segment.tokens.tolist() for segment in segments] == [segment.tokens.tolist() for segment in rest]
    epochs = [[segment.tokens.tolist() for segment in each] for each in (batches, resumed)]
    assert epochs[0] == epochs[1]


def test_fixed_lengths_have_no_state():
    ids = np.arange(60, dtype=np.int32)
    ordered, varying = OrderedBatches(ids, 2, 5), VariableLengthBatches(ids, 2, 5, np.random.RandomState(3))
    assert ordered.state() == {"lengths": None}
    ordered.restore(varying.state())
    before = varying.state()
    varying.restore(ordered.state())
    assert varying.state() == before
    assert ordered.ENTRIES == varying.ENTRIES == (*before,)


def ordered(**given):
    return OrderedBatches(np.arange(1003, dtype=np.int32), 5, 17, **given)


def varying(**given):
    return VariableLengthBatches(np.arange(1003, dtype=np.int32), 5, 17, np.random.RandomState(4), **given)


@pytest.mark.parametrize("batches", [ordered, varying])
@pytest.mark.parametrize("parts", PARTS)
def test_parts_of_the_rows_make_the_whole(batches, parts):
    whole = list(batches())
    apart = [list(batches(rows=rows)) for rows in parts]
    assert batches(rows=parts[0]).batch_size == 5
    for segment, *of_parts in zip(whole, *apart, strict=True):
        assert [part.tokens.shape[1] for part in of_parts] == [len(rows) for rows in parts]
        assert {part.start for part in of_parts} == {segment.start}
        assert torch.equal(torch.cat([part.tokens for part in of_parts], dim=1), segment.tokens)
        assert torch.equal(torch.cat([part.targets for part in of_parts], dim=1), segment.targets)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("first", [None, range(0, 1)])
def test_only_some_rows(parts, first):
    whole = ordered(rows=first)
    for rows in parts:
        some = whole.only(rows)
        assert len(some) == len(whole) == len(list(some))
        assert some.stream.length == whole.stream.length
        for part, segment in zip(some, ordered(), strict=True):
            assert torch.equal(part.tokens, segment.tokens[:, rows.start : rows.stop])
            assert torch.equal(part.targets, segment.targets[:, rows.start : rows.stop])
    assert sum(whole.only(rows).n_targets for rows in parts) == ordered().n_targets == 5 * 199


@pytest.mark.parametrize("rows", [range(0, 6), range(5, 6), range(-1, 1), range(0, 4, 2), range(3, 1, -1)])
@pytest.mark.parametrize("batches", [ordered, varying])
def test_rows_outside_the_batch(batches, rows):
    with pytest.raises(ValueError, match=r"rows are range.*: pass consecutive ones below 5"):
        batches(rows=rows)


def test_a_text_too_short_for_its_batch():
    ids = np.arange(7, dtype=np.int32)
    given = {"text": "valid.txt", "remedy": "write more"}
    with pytest.raises(UserError, match=r"valid\.txt: 7 tokens are too few for 4 rows of 2 or more: write more"):
        OrderedBatches(ids, 4, 5, **given)
    with pytest.raises(UserError, match=r"valid\.txt: 7 tokens are too few for 3 rows of 3 or more: write more"):
        VariableLengthBatches(ids, 3, 5, np.random.RandomState(0), **given)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_the_gpu():
    ids = np.arange(1000, dtype=np.int32)
    for there, here in zip(OrderedBatches(ids, 4, 9, device="cuda"), OrderedBatches(ids, 4, 9), strict=True):
        assert there.tokens.is_cuda
        assert there.targets.tolist() == here.targets.tolist()
