"""The batches that are cut from a text's ids.

Shapes: N tokens of a split, B sequences, T = N // B tokens of each, L tokens of a segment.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from system.errors import UserError

SHORTEST = 5  # tokens of a segment of varying length, but for the last one of an epoch
# Of numpy's legacy generator: its keys, the place among them, whether a normal number is in store, and that number.
LengthsState = tuple[tuple[int, ...], int, int, float]


@dataclass(frozen=True)
class Batch:
    """A segment of B sequences, or of those of them that are read, and what follows each of its tokens.

    Args:
        tokens: (L, B) int64.
        targets: (L, B) int64, the tokens one step later.
        start: position in the (T, B) stream of the first token.
    """

    tokens: Tensor
    targets: Tensor
    start: int


class _Stream:
    """(N,) ids as B sequences of T consecutive tokens each; what does not fill the last row is left out.

    Of the B sequences `rows` are read, b of them.
    """

    def __init__(
        self,
        ids: np.ndarray,
        batch_size: int,
        least: int,
        rows: range | None,
        device: torch.device | str,
        text: str,
        remedy: str,
    ):
        if rows is None:
            rows = range(batch_size)
        if range(batch_size)[rows.start : rows.stop] != rows:
            raise ValueError(f"rows are {rows}: pass consecutive ones below {batch_size}, the size of the batch")
        self.length = len(ids) // batch_size  # T
        if self.length < least:
            raise UserError(f"{text}: {len(ids)} tokens are too few for {batch_size} rows of {least} or more: {remedy}")
        every = ids[: self.length * batch_size].reshape(batch_size, self.length)
        self.rows = every[rows.start : rows.stop]  # (b, T), a view: nothing is read
        self.device = torch.device(device)

    def segment(self, start: int, length: int) -> Batch:
        """Up to `length` positions from `start`, fewer where the stream ends."""
        rows = self.rows[:, start : start + length + 1]  # (b, L + 1)
        columns = torch.from_numpy(rows.T.astype(np.int64, order="C"))  # (L + 1, b)
        if self.device.type == "cuda":
            columns = columns.pin_memory()  # only a copy from pinned memory runs beside the computation
        columns = columns.to(self.device, non_blocking=True)
        return Batch(tokens=columns[:-1], targets=columns[1:], start=start)


class OrderedBatches:
    """A text in consecutive segments of `tgt_len` tokens, the last one shorter. Every iteration starts over.

    Args:
        ids: (N,) integer tokens.
        batch_size: B, the number of sequences that the text is cut into.
        tgt_len: L, tokens of a segment.
        rows: which of the B sequences are read, consecutive ones; None for all. The others' tokens are not touched.
        device: where the batches go.
        text: what the ids are of, for the message about too few of them.
        remedy: what to do then.

    Raises:
        UserError: fewer than 2 tokens a sequence.
        ValueError: rows that are not in the batch.
    """

    ENTRIES = ("lengths",)  # of a checkpoint

    def __init__(
        self,
        ids: np.ndarray,
        batch_size: int,
        tgt_len: int,
        *,
        rows: range | None = None,
        device: torch.device | str = "cpu",
        text: str = "the text",
        remedy: str = "use a longer text",
    ):
        self.stream = _Stream(ids, batch_size, 2, rows, device, text, remedy)
        self.ids, self.batch_size, self.tgt_len = ids, batch_size, tgt_len

    @property
    def n_targets(self) -> int:
        """Targets in all segments together, of the rows that are read."""
        return len(self.stream.rows) * (self.stream.length - 1)

    def only(self, rows: range) -> "OrderedBatches":
        """The same segments of these rows of the whole batch; nothing is copied."""
        return OrderedBatches(self.ids, self.batch_size, self.tgt_len, rows=rows, device=self.stream.device)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the lengths to come depend on nothing."""
        return {"lengths": None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to do: the lengths are what they are."""

    def __len__(self) -> int:
        return -(-(self.stream.length - 1) // self.tgt_len)

    def __iter__(self) -> Iterator[Batch]:
        return self.from_position(0)

    def from_position(self, start: int) -> Iterator[Batch]:
        """The segments from position `start` of the stream on."""
        for position in range(start, self.stream.length - 1, self.tgt_len):
            yield self.stream.segment(position, self.tgt_len)


class VariableLengthBatches:
    """A text in consecutive segments of random length, about `tgt_len`.

    L = min(tgt_len + 15, max(5, int(x))), x ~ N(base, 5), base = tgt_len with probability 0.95, else tgt_len / 2.
    Ends when fewer than 2 tokens are left to predict. A length is drawn just before its segment is cut, so the
    generator's state and a position are all that it takes to go on from a segment.

    Args:
        ids, batch_size, rows, device, text, remedy: as for `OrderedBatches`. Parts of a batch have the same lengths
            where their generators are in the same state.
        tgt_len: the usual length of a segment, tokens.
        rng: numpy's legacy generator, which draws the lengths: one uniform number, then one normal.

    Raises:
        UserError: fewer than 3 tokens a sequence.
        ValueError: rows that are not in the batch.
    """

    ENTRIES = ("lengths",)  # of a checkpoint

    def __init__(
        self,
        ids: np.ndarray,
        batch_size: int,
        tgt_len: int,
        rng: np.random.RandomState,
        *,
        rows: range | None = None,
        device: torch.device | str = "cpu",
        text: str = "the text",
        remedy: str = "use a longer text",
    ):
        self.stream = _Stream(ids, batch_size, 3, rows, device, text, remedy)
        self.batch_size, self.tgt_len, self.rng = batch_size, tgt_len, rng

    def state(self) -> dict[str, Any]:
        """For a checkpoint: what the lengths to come depend on, in plain values."""
        _, keys, position, has_normal, normal = self.rng.get_state()
        lengths: LengthsState = (tuple(keys.tolist()), int(position), int(has_normal), float(normal))
        return {"lengths": lengths}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Draw the lengths that followed when `state()` gave this; the generator's own where they did not vary."""
        if state["lengths"] is not None:
            keys, *rest = state["lengths"]
            self.rng.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))

    def __iter__(self) -> Iterator[Batch]:
        return self.from_position(0)

    def from_position(self, start: int) -> Iterator[Batch]:
        """The segments from position `start` of the stream on, with newly drawn lengths."""
        while self.stream.length - 1 - start >= 2:
            batch = self.stream.segment(start, self._draw_length())
            yield batch
            start += len(batch.tokens)

    def _draw_length(self) -> int:
        base = self.tgt_len if self.rng.random_sample() < 0.95 else self.tgt_len / 2
        return min(self.tgt_len + 15, max(SHORTEST, int(self.rng.normal(base, 5))))
