"""The weight-tied cell f(z; context) of the DEQ-TrellisNet: a causal convolution into the gates of an LSTM.

Shape legend: B sequences, L positions, h = nhid + nout channels of the hidden part, k taps. A state z (B, L, 2h) is
[hidden; cell].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.context import Context, batched, owner
from models.trellisnets.convolution import CausalConvolution
from modules.fixed_weights import KeepsWeights, made_once
from modules.optimizations import masked, variational_mask
from modules.packed_linear import PackedLinear, can_pack


@dataclass(frozen=True)
class TrellisContext(Context):
    """All that f needs beside z."""

    weight: Tensor  # (4h, k·h), over the taps' windows
    injection: Tensor = batched(0)  # (B, L, 4h), the convolution's bias included
    hidden_before: Tensor = batched(0)  # (B, 1, h), dropped as the hidden part is
    cell_before: Tensor = batched(0)  # (B, 1, h)
    hidden_mask: Tensor | None = batched(0)  # (B, 1, h), dropout of the hidden part
    packed: PackedLinear | None = None  # the convolution, for the evaluations without gradients
    owner: KeepsWeights | None = owner()

    def pack(self, n_rows: int) -> TrellisContext:
        """The same with the weight packed for n_rows = B·L rows, where that can be done."""
        if not can_pack(self.weight):
            return self
        packed = made_once(self.owner, f"packed, {self.weight.dtype}", lambda: PackedLinear(self.weight, None, n_rows))
        return dataclasses.replace(self, packed=packed)


class TrellisCell(nn.Module):
    """One layer of a TrellisNet, as the equilibrium repeats it:

        [i; o; g; f] = W * drop([h_before; hidden]) + u        the convolution reaches (k - 1)·dilation positions back
        cell'_t      = σ(f_t) ⊙ cell_{t-1} + σ(i_t) ⊙ tanh(g_t)
        hidden'_t    = σ(o_t) ⊙ tanh(cell'_t)

    Before the segment stand the memory's hidden part, at as many positions as the convolution reaches back, and its
    cell.

    Args:
        width: h.
        kernel, dilation: k, and the positions between two taps.
        dropouth: rate for the hidden part, one mask per sequence and channel.
        wdrop: rate of DropConnect on all taps but the last.
        wnorm: weight normalisation.

    Attributes:
        d_injection: channels of the injection, 4h: one for each of the gates' inputs.

    Source: Bai et al., Trellis Networks, arXiv 1810.06682; as an equilibrium: arXiv 1909.01377, section 4.
    """

    def __init__(self, width: int, *, kernel: int, dilation: int, dropouth: float, wdrop: float, wnorm: bool):
        super().__init__()
        self.width, self.dropouth = width, dropouth
        self.d_injection = 4 * width
        self.full_conv = CausalConvolution(width, 4 * width, kernel=kernel, dilation=dilation, wnorm=wnorm, wdrop=wdrop)

    def context(self, memory: Tensor, injection: Tensor, positions: None = None) -> TrellisContext:
        """What stays fixed during a solve: the weight that is in effect, the memory and the dropout mask.

        Args:
            memory: the state before the segment (B, 1, 2h).
            injection: u (B, L, 4h).
            positions: none; a convolution knows its places.
        """
        hidden_before, cell_before = memory.split(self.width, dim=2)
        mask = variational_mask(hidden_before.shape, self.dropouth, memory, training=self.training)
        return TrellisContext(
            weight=self.full_conv.matrix(),
            injection=injection + self.full_conv.bias,
            hidden_before=masked(hidden_before, mask),
            cell_before=cell_before,
            hidden_mask=mask,
            owner=self.full_conv,
        )

    def forward(self, z: Tensor, context: TrellisContext) -> Tensor:
        """f(z): (B, L, 2h) -> (B, L, 2h)."""
        n_batch, n_position, _ = z.shape
        hidden, cell = z.split(self.width, dim=2)
        seen = self.full_conv.windows(masked(hidden, context.hidden_mask), context.hidden_before)
        if context.packed is not None and not torch.is_grad_enabled():
            gates = context.packed.plus(seen, context.injection)
        else:
            gates = torch.addmm(context.injection.flatten(0, 1), seen.flatten(0, 1), context.weight.t())
            gates = gates.view(n_batch, n_position, -1)
        i, o, g, f = gates.split(self.width, dim=2)
        cell_before = torch.cat([context.cell_before, cell[:, :-1]], dim=1)
        cell = torch.sigmoid(f) * cell_before + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat([torch.sigmoid(o) * torch.tanh(cell), cell], dim=2)
