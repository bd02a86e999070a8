"""Several sublayer pairs in one weight-tied cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models.context import Context
from models.transformers.attention import Positions
from models.transformers.cell import CellContext, TransformerCell


@dataclass(frozen=True)
class StackContext(Context):
    """All that f needs beside z."""

    layers: tuple[CellContext, ...]


class CellStack(nn.Module):
    """f = f_N ∘ … ∘ f_1, one application of which goes through N cells.

    All of them attend over the memory of z itself, so that it is as large as that of one cell; a position sees the
    layers' own states of those before it in its segment. Every cell's attention has the injection of its queries, keys
    and values; what is added to the state is added once, before the first.

    Args:
        cells: one or more of the same width. The first takes the whole of the injection, the others its beginning.

    Attributes:
        d_injection: channels of the injection.

    Source: Geng et al., On Training Implicit Models, arXiv 2111.05177, whose language model has three.
    """

    def __init__(self, cells: Sequence[TransformerCell]):
        super().__init__()
        self.layers = nn.ModuleList(cells)
        self.d_injection = cells[0].d_injection

    def context(self, memory: Tensor, injection: Tensor, positions: Positions) -> StackContext:
        """What stays fixed during a solve; arguments as of a cell."""
        parts = (injection[..., : layer.d_injection] for layer in self.layers)
        return StackContext(
            tuple(layer.context(memory, part, positions) for layer, part in zip(self.layers, parts, strict=True))
        )

    def forward(self, z: Tensor, context: StackContext) -> Tensor:
        """f(z): (B, L, D) -> (B, L, D)."""
        for layer, own in zip(self.layers, context.layers, strict=True):
            z = layer(z, own)
        return z
