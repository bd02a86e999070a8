"""Multi-head attention with relative positions and input injection, split into what is fixed during a solve and what
depends on z.

Shape legend: B sequences, L current positions, M memory positions, K = M + L keys, D = d_model = H·E channels, H heads
of width E. Channel index = head·E + e.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Generic, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.context import Context, batched, owner
from models.transformers.norm import NormContext, layer_norm, normed
from modules.fixed_weights import KeepsWeights, made_once
from modules.optimizations import NormalizableLinear, variational_mask
from modules.packed_linear import Packed, PackedBothWays, PackedLinear, pays_to_pack


class Projections(NamedTuple, Generic[Packed]):
    """Both linear maps, packed."""

    qkv: Packed
    out: Packed


@dataclass(frozen=True)
class AttentionContext(Context):
    """All that attention needs beside z, computed once per solve."""

    weight_qkv: Tensor  # (3D, D)
    current_injection: Tensor = batched(0)  # (B, L, 3D); its q third includes r_r_bias
    bias_difference: Tensor  # (H, 1, E), r_w_bias - r_r_bias
    memory_keys: Tensor = batched(1)  # (H, B, M, E)
    memory_values: Tensor = batched(1)  # (H, B, M, E)
    position_keys: Tensor  # (H, E, K + 1), R and a column of padding for the relative shift
    visibility: Tensor  # (L, K), 0 where a query sees a key, -inf where not
    weight_out: Tensor  # (D, D)
    bias_out: Tensor  # (D,)
    attention_mask: Tensor | None = batched(1)  # (H, B, L, K), dropout of attention weights
    output_mask: Tensor | None = batched(0)  # (B, 1, D), dropout of the output
    heads_norm: NormContext | None = None  # None: the heads' outputs are not normed
    packed: Projections[PackedLinear] | None = None  # for the evaluations without gradients
    packed_adjoint: Projections[PackedBothWays] | None = None  # for those with a gradient to z alone
    owner: KeepsWeights | None = owner()

    def pack(self, n_rows: int) -> AttentionContext:
        """The same with the weights packed for n_rows = B·L rows, where that pays."""
        if not pays_to_pack(self.weight_qkv, n_rows):
            return self
        name = f"packed, {self.weight_qkv.dtype}"
        packed = made_once(self.owner, name, lambda: self._projections(PackedLinear, n_rows))
        return dataclasses.replace(self, packed=packed)

    def adjoint(self, n_rows: int) -> AttentionContext | None:
        """The same for products with the transposed Jacobian, where packing pays."""
        if not pays_to_pack(self.weight_qkv, n_rows):
            return None
        return dataclasses.replace(self, packed_adjoint=self._projections(PackedBothWays, n_rows))

    def project_in(self, z: Tensor) -> Tensor:
        """W_qkv z + u: (B·L, D) -> (B·L, 3D)."""
        injection, packed = self.current_injection.flatten(0, 1), self._packed
        return torch.addmm(injection, z, self.weight_qkv.t()) if packed is None else packed.qkv.plus(z, injection)

    def project_out(self, heads: Tensor) -> Tensor:
        """W_o heads + b_o: (B·L, D) -> (B·L, D)."""
        packed = self._packed
        return torch.addmm(self.bias_out, heads, self.weight_out.t()) if packed is None else packed.out(heads)

    @property
    def _packed(self) -> Projections | None:
        return self.packed_adjoint if torch.is_grad_enabled() else self.packed

    def _projections(self, kind: type[Packed], n_rows: int) -> Projections[Packed]:
        return Projections(kind(self.weight_qkv, None, n_rows), kind(self.weight_out, self.bias_out, n_rows))


class Positions(NamedTuple):
    """What attention needs to know of the keys' places."""

    embedding: Tensor  # (K, D) in the order of the keys
    visibility: Tensor  # (L, K), 0 where a query sees a key, -inf where not


def visibility(n_query: int, n_memory: int, local_size: int, like: Tensor) -> Tensor:
    """(L, K), added to the scores: -inf for keys j > i + M (the future) and, with a horizon S > 0, j ≤ i + M - S."""
    query = torch.arange(n_query, device=like.device).unsqueeze(1) + n_memory
    key = torch.arange(n_query + n_memory, device=like.device)
    hidden = key > query
    if local_size > 0:
        hidden = hidden | (key <= query - local_size)
    return like.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)


class RelativeAttention(KeepsWeights):
    """softmax([(q_i + b_w)·k_j + (q_i + b_r)·R_{M+i-j}] / √E) v W_oᵀ with (q, k, v) = W_qkv [z_memory; z] + u.

    Args:
        d_model: D; n_head, d_head: H and E with H·E = D.
        dropout: rate for the output, one mask per sequence and channel.
        dropatt: rate for the attention weights.
        wnorm: weight normalisation of the three linear maps.
        heads_norm: whether the heads' outputs, side by side, go through a layer norm before W_o.
        norm_affine: whether that learns a scale and a bias.

    Source: Dai et al., Transformer-XL, arXiv 1901.02860, section 3.3; the injection: arXiv 1909.01377, section 4.
    """

    def __init__(
        self,
        d_model: int,
        n_head: int,
        d_head: int,
        *,
        dropout: float,
        dropatt: float,
        wnorm: bool,
        heads_norm: bool = False,
        norm_affine: bool = False,
    ):
        super().__init__()
        self.d_model, self.n_head, self.d_head = d_model, n_head, d_head
        self.dropout, self.dropatt = dropout, dropatt
        self.qkv_net = NormalizableLinear(d_model, 3 * d_model, bias=False, wnorm=wnorm, kernel_dims=1)
        self.r_net = NormalizableLinear(d_model, d_model, bias=False, wnorm=wnorm, kernel_dims=1)
        self.o_net = NormalizableLinear(d_model, d_model, bias=True, wnorm=wnorm, kernel_dims=1)
        self.r_w_bias = nn.Parameter(torch.zeros(n_head, d_head))
        self.r_r_bias = nn.Parameter(torch.zeros(n_head, d_head))
        self.heads_norm = layer_norm(d_model, affine=norm_affine) if heads_norm else None

    def context(self, memory: Tensor, injection: Tensor | None, positions: Positions) -> AttentionContext:
        """What stays fixed while z is solved for.

        Args:
            memory: the memory's states (B, M, D).
            injection: u over memory and current positions (B, K, 3D), None for u = 0.
            positions: of the K keys.
        """
        n_batch, n_memory, d_model = memory.shape
        n_key = len(positions.embedding)
        n_query = n_key - n_memory
        weight_qkv = self.qkv_net.matrix()
        memory_kv = F.linear(memory, weight_qkv[d_model:])
        bias_qkv = F.pad(self.r_r_bias.flatten(), (0, 2 * d_model))
        if injection is None:
            current_injection = bias_qkv.expand(n_batch, n_query, -1).contiguous()
        else:
            memory_kv = memory_kv + injection[:, :n_memory, d_model:]
            current_injection = injection[:, n_memory:] + bias_qkv
        memory_kv = memory_kv.view(n_batch, n_memory, 2, self.n_head, self.d_head).permute(2, 3, 0, 1, 4)
        position_keys = self.r_net(positions.embedding).view(n_key, self.n_head, self.d_head).permute(1, 2, 0)
        attention_shape = (self.n_head, n_batch, n_query, n_key)
        return AttentionContext(
            weight_qkv=weight_qkv,
            current_injection=current_injection,
            bias_difference=(self.r_w_bias - self.r_r_bias).unsqueeze(1),
            memory_keys=memory_kv[0].contiguous(),
            memory_values=memory_kv[1].contiguous(),
            position_keys=F.pad(position_keys, (0, 1)),
            visibility=positions.visibility,
            weight_out=self.o_net.matrix(),
            bias_out=self.o_net.bias,
            attention_mask=variational_mask(attention_shape, self.dropatt, memory, training=self.training),
            output_mask=variational_mask((n_batch, 1, d_model), self.dropout, memory, training=self.training),
            heads_norm=None if self.heads_norm is None else NormContext.of(self.heads_norm),
            owner=self,
        )

    def forward(self, z: Tensor, context: AttentionContext) -> Tensor:
        """z (B, L, D) -> the heads' outputs after W_o (B, L, D), before dropout and residual."""
        n_batch, n_query, d_model = z.shape
        n_head, d_head = self.n_head, self.d_head
        qkv = context.project_in(z.reshape(-1, d_model))
        q, k, v = qkv.view(n_batch, n_query, 3, n_head, d_head).permute(2, 3, 0, 1, 4)  # (H, B, L, E) each
        heads = attend(
            q,
            torch.cat([context.memory_keys, k], dim=2),
            torch.cat([context.memory_values, v], dim=2),
            bias_difference=context.bias_difference,
            position_keys=context.position_keys,
            visibility=context.visibility,
            mask=context.attention_mask,
        )
        heads = heads.reshape(-1, d_model)
        if context.heads_norm is not None:
            heads = normed(heads, context.heads_norm)
        return context.project_out(heads).view(n_batch, n_query, d_model)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias_difference: Tensor,
    position_keys: Tensor,
    visibility: Tensor,
    mask: Tensor | None = None,
    rounded: bool = False,
) -> Tensor:
    """What the heads see: softmax([(q_i + b_w)·k_j + (q_i + b_r)·R_{M+i-j}] / √E) v.

    Args:
        q: queries with b_r added to them (H, B, L, E).
        k, v: keys and values of memory and current positions (H, B, K, E).
        bias_difference: b_w - b_r (H, 1, E).
        position_keys: R and a column of padding (H, E, K + 1).
        visibility: (L, K), 0 where a query sees a key, -inf where not.
        mask: dropout of the weights (H, B, L, K), where there is one.
        rounded: whether scores in float64 are rounded to float32.

    Returns:
        (B, L, H, E), a view.
    """
    n_head, n_batch, n_query, d_head = q.shape
    n_key = k.shape[2]
    scale = 1 / math.sqrt(d_head)  # of the queries, which are fewer than scores and their gradients
    q_position = q.contiguous().view(n_head, n_batch * n_query, d_head) * scale
    q_content = (q_position + bias_difference * scale).view(n_head * n_batch, n_query, d_head)
    by_distance = torch.bmm(q_position, position_keys).view(n_head * n_batch, n_query, n_key + 1)
    scores = relative_shift(by_distance) + visibility
    k, v = (x.view(n_head * n_batch, n_key, d_head) for x in (k, v))
    scores.baddbmm_(q_content, k.transpose(1, 2))  # in place: the product needs no copy of them
    if rounded and scores.dtype == torch.float64:
        scores = scores.float().double()
    weights = torch.softmax(scores, dim=2)  # (H·B, L, K)
    if mask is not None:
        weights = weights * mask.flatten(0, 1)
    return torch.bmm(weights, v).view(n_head, n_batch, n_query, d_head).permute(1, 2, 0, 3)


def relative_shift(scores: Tensor) -> Tensor:
    """Scores by distance to scores by key: (N, L, K + 1) -> (N, L, K), out[i, j] = in[i, j + L - 1 - i].

    Column j' of the input belongs to distance K - 1 - j'; the last column is padding. Row i of the result starts
    L - 1 - i entries into row i of the input, so in the flattened rows consecutive starts lie K apart and the result is
    a view.
    Entries of future keys (j > i + M) are those of other rows and must be masked.
    """
    n_rows, n_query, n_padded = scores.shape
    n_key = n_padded - 1
    first = n_query - 1
    return scores.flatten(1)[:, first : first + n_query * n_key].view(n_rows, n_query, n_key)
