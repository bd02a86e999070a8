"""The temporal convolutional network of Bai, Kolter and Koltun, arXiv 1803.01271, section 3."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from synthetic.explicit import ExplicitLM


class TCN(ExplicitLM):
    """Blocks of two causal convolutions, dilated by 1, 2, 4, …, with weight norm, ReLUs and a residual connection.

    Args:
        n_token: V.
        d_model: width of embedding and states.
        n_layer: number of blocks.
        kernel_size: K of the convolutions.
    """

    def __init__(self, n_token: int, *, d_model: int, n_layer: int, kernel_size: int):
        super().__init__(n_token, d_model, d_model)
        self.kernel_size = kernel_size
        self.reach = 1 + 2 * (kernel_size - 1) * (2**n_layer - 1)
        self.blocks = nn.ModuleList(_Block(d_model, kernel_size, 2**i) for i in range(n_layer))

    def states(self, embedded: Tensor) -> Tensor:
        """(L, B, D) -> (L, B, D); a state sees `reach` positions, its own included."""
        x = embedded.permute(1, 2, 0)  # (B, D, L)
        for block in self.blocks:
            x = block(x)
        return x.permute(2, 0, 1)


class _Block(nn.Module):
    def __init__(self, width: int, kernel_size: int, dilation: int):
        super().__init__()
        self.padding = ((kernel_size - 1) * dilation, 0)  # on the left alone: no position sees a later one
        convolutions = (nn.Conv1d(width, width, kernel_size, dilation=dilation) for _ in range(2))
        self.convolutions = nn.ModuleList(map(weight_norm, convolutions))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, L) -> (B, D, L)."""
        y = x
        for convolution in self.convolutions:
            y = F.relu(convolution(F.pad(y, self.padding)))
        return F.relu(x + y)
