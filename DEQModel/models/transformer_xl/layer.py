"""One layer of a Transformer-XL: attention with relative positions over memory and segment, then feed-forward.

Shape legend: B sequences, L current positions, M memory positions, K = M + L keys, D = d_model channels, H heads of
width E, F = d_inner.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.transformers.attention import attend
from modules.optimizations import variational_mask


class Surroundings(NamedTuple):
    """What all layers share in one segment."""

    positions: Tensor  # (K, D), embedding of the keys' places in their order
    visibility: Tensor  # (L, K), 0 where a query sees a key, -inf where not
    content_bias: Tensor  # (H, E), b_w
    position_bias: Tensor  # (H, E), b_r


class Attention(nn.Module):
    """y = LN(z + drop(W_o heads([memory; z]))), or with the norm in front y = z + drop(W_o heads(LN([memory; z]))).

    Args:
        d_model: D.
        n_head, d_head: H and E; H·E need not be D.
        dropout, dropatt: rates of the output and of the attention weights.
        pre_lnorm: whether the norm stands in front.

    Source: Dai et al., Transformer-XL, arXiv 1901.02860, section 3.3.
    """

    def __init__(self, d_model: int, n_head: int, d_head: int, *, dropout: float, dropatt: float, pre_lnorm: bool):
        super().__init__()
        self.n_head, self.d_head, self.dropatt, self.pre_lnorm = n_head, d_head, dropatt, pre_lnorm
        width = n_head * d_head
        self.qkv_net = nn.Linear(d_model, 3 * width, bias=False)
        self.r_net = nn.Linear(d_model, width, bias=False)
        self.o_net = nn.Linear(width, d_model, bias=False)
        self.layer_norm = nn.LayerNorm(d_model)
        self.drop = nn.Dropout(dropout)

    def forward(self, z: Tensor, memory: Tensor, surroundings: Surroundings) -> Tensor:
        """z (B, L, D) behind the memory's inputs to this layer (B, M, D) -> (B, L, D)."""
        n_batch, n_query, _ = z.shape
        n_head, d_head, width = self.n_head, self.d_head, self.n_head * self.d_head
        n_memory = memory.shape[1]
        x = z
        if self.pre_lnorm:
            x, memory = self.layer_norm(z), self.layer_norm(memory)
        content_bias, position_bias = surroundings.content_bias, surroundings.position_bias
        # Queries are made for the current positions alone, and come with b_r added.
        qkv = F.linear(x, self.qkv_net.weight, F.pad(position_bias.flatten(), (0, 2 * width)))
        q, k, v = qkv.view(n_batch, n_query, 3, n_head, d_head).permute(2, 3, 0, 1, 4)  # (H, B, L, E) each
        memory_kv = F.linear(memory, self.qkv_net.weight[width:])
        memory_k, memory_v = memory_kv.view(n_batch, n_memory, 2, n_head, d_head).permute(2, 3, 0, 1, 4)
        position_keys = self.r_net(surroundings.positions).view(-1, n_head, d_head).permute(1, 2, 0)  # (H, E, K)
        heads = attend(
            q,
            torch.cat([memory_k, k], dim=2),
            torch.cat([memory_v, v], dim=2),
            bias_difference=(content_bias - position_bias).unsqueeze(1),
            position_keys=F.pad(position_keys, (0, 1)),
            visibility=surroundings.visibility,
            mask=variational_mask(
                (n_head, n_batch, n_query, n_memory + n_query), self.dropatt, z, training=self.training
            ),
            rounded=True,  # as in the published code; in float64 results differ by it in the eighth digit
        )
        y = z + self.drop(self.o_net(heads.reshape(n_batch, n_query, width)))
        return y if self.pre_lnorm else self.layer_norm(y)


class FeedForward(nn.Module):
    """LN(y + net(y)), or with the norm in front y + net(LN(y)); net(x) = drop(W_2 drop(relu(W_1 x + b_1)) + b_2).

    Args:
        d_model, d_inner: D and F.
        dropout: rate.
        pre_lnorm: whether the norm stands in front.
    """

    def __init__(self, d_model: int, d_inner: int, *, dropout: float, pre_lnorm: bool):
        super().__init__()
        self.pre_lnorm = pre_lnorm
        self.CoreNet = nn.Sequential(  # under the name that checkpoints have
            nn.Linear(d_model, d_inner),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(d_inner, d_model),
            nn.Dropout(dropout),
        )
        self.layer_norm = nn.LayerNorm(d_model)

    def forward(self, y: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        if self.pre_lnorm:
            return y + self.CoreNet(self.layer_norm(y))
        return self.layer_norm(y + self.CoreNet(y))


class Layer(nn.Module):
    """Attention, then feed-forward.

    Args:
        attention, feed_forward: the two sublayers.
    """

    def __init__(self, attention: Attention, feed_forward: FeedForward):
        super().__init__()
        self.dec_attn, self.pos_ff = attention, feed_forward

    def forward(self, z: Tensor, memory: Tensor, surroundings: Surroundings) -> Tensor:
        """z (B, L, D) behind the memory's inputs to this layer (B, M, D) -> (B, L, D)."""
        return self.pos_ff(self.dec_attn(z, memory, surroundings))
