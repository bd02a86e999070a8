"""A causal convolution whose weight is normalised and thinned once per solve.

Shape legend: B sequences, L positions, k taps, C_in and C_out channels. Channels come last, as linear maps want them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.fixed_weights import KeepsWeights
from modules.optimizations import variational_mask

INIT_STD = 0.01


class CausalConvolution(KeepsWeights):
    """y_t = Σ_j W_j x_{t - (k - 1 - j)·dilation} + b: the last tap sees t itself, the first one farthest back.

    Parameters are those of the published state dicts: `weight` (C_out, C_in, k), or with weight normalisation
    `weight_g` (C_out, 1, 1) and `weight_v`, W = v · g / ‖v‖ with one norm per output channel; and `bias` (C_out,).
    PyTorch's default initialisation of a convolution.

    Args:
        d_in, d_out: C_in and C_out.
        kernel: k.
        dilation: positions between two taps.
        wnorm: whether the weight is normalised.
        wdrop: rate of DropConnect on all taps but the last; it acts on the direction v.

    Source: Salimans and Kingma, arXiv 1602.07868 (weight normalisation); Merity et al., arXiv 1708.02182, section 2
    (DropConnect on what is recurrent).
    """

    def __init__(self, d_in: int, d_out: int, *, kernel: int, dilation: int = 1, wnorm: bool, wdrop: float = 0.0):
        super().__init__()
        self.dilation, self.wnorm, self.wdrop = dilation, wnorm, wdrop
        default = nn.Conv1d(d_in, d_out, kernel)
        self.bias = default.bias
        if wnorm:
            self.weight_g = nn.Parameter(torch.empty(d_out, 1, 1))
            self.weight_v = nn.Parameter(default.weight.detach())
            self._measure()
        else:
            self.weight = default.weight

    @torch.no_grad()
    def _measure(self) -> None:
        """g becomes ‖v‖, so that W is v."""
        self.weight_g.copy_(self.weight_v.flatten(1).norm(dim=1).view(-1, 1, 1))

    @torch.no_grad()
    def draw_small(self) -> None:
        """Draw W and b anew from N(0, 0.01²): a map that hardly moves the state is one that solves start well from."""
        nn.init.normal_(self.direction, 0.0, INIT_STD)
        nn.init.normal_(self.bias, 0.0, INIT_STD)
        if self.wnorm:
            self._measure()

    @property
    def reach(self) -> int:
        """Positions back that the first tap sees."""
        return (self.direction.shape[2] - 1) * self.dilation

    @property
    def direction(self) -> nn.Parameter:
        """v (C_out, C_in, k), or W itself where it is not normalised."""
        return self.weight_v if self.wnorm else self.weight

    def matrix(self) -> Tensor:
        """W as the matrix (C_out, k·C_in) that acts on `windows`, thinned by DropConnect in training."""
        return self.once("matrix", self._drawn)

    def _drawn(self) -> Tensor:
        direction = self.direction
        recurrent = direction[:, :, :-1]
        mask = variational_mask(recurrent.shape, self.wdrop, direction, training=self.training)
        if mask is not None:
            direction = torch.cat([recurrent * mask, direction[:, :, -1:]], dim=2)
        if self.wnorm:
            direction = torch._weight_norm(direction.contiguous(), self.weight_g, 0)
        return direction.transpose(1, 2).flatten(1)

    def windows(self, x: Tensor, before: Tensor) -> Tensor:
        """What the taps see, side by side: x (B, L, C_in) after `before` (B, 1, C_in) -> (B, L, k·C_in).

        As many positions as the first tap reaches back are filled with `before`.
        """
        n_position, reach = x.shape[1], self.reach
        padded = torch.cat([before.expand(-1, reach, -1), x], dim=1)
        return torch.cat([padded[:, start : start + n_position] for start in range(0, reach + 1, self.dilation)], dim=2)

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """x (B, L, C_in) after `before` (B, 1, C_in), or zeros -> (B, L, C_out); normalises W for this one call."""
        if before is None:
            before = torch.zeros_like(x[:, :1])
        return F.linear(self.windows(x, before), self.matrix(), self.bias)
