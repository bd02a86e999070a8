"""What a Transformer's decoder layer costs: as the cell of an equilibrium, or applied once.

Shape legend: B sequences, L positions, M of the memory, K = M + L keys, D = d_model, W = H·E channels in H heads,
F = d_inner. Products are written (rows, inner) × (inner, columns); passes are reads and writes of a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from models.cost import Segment
from modules.cost import Application, Piece, Work, passes, product
from utils.cost import dropped, masked


class Shapes(Protocol):
    """What the configurations of all Transformers say of a layer."""

    d_model: int
    n_head: int
    d_head: int
    d_inner: int
    mem_len: int
    dropout: float
    dropatt: float
    pre_lnorm: bool


@dataclass(frozen=True)
class DecoderLayer:
    """A decoder layer on one segment whose memory is full.

    Attributes:
        shapes: its widths and rates.
        segment: what it reads.
        injected: whether the injection is added to its queries, keys and values.
        added: whether it is added to [z_memory; z].
        gains: whether [z_memory; z] is multiplied by learned ones.
        norm_affine, heads_norm, outer_norm: layer norms that learn, that of the heads' outputs, that of the layer's.
        wnorm: weight normalisation.
        own_masks: dropout draws a mask an entry each time, as `nn.Dropout` does, not one a channel once a segment.
    """

    shapes: Shapes
    segment: Segment
    injected: bool = False
    added: bool = False
    gains: bool = False
    norm_affine: bool = False
    heads_norm: bool = False
    outer_norm: bool = False
    wnorm: bool = False
    own_masks: bool = False

    @property
    def width(self) -> int:
        """W."""
        return self.shapes.n_head * self.shapes.d_head

    @property
    def n_key(self) -> int:
        """K."""
        return self.shapes.mem_len + self.segment.n_position

    @property
    def scores(self) -> int:
        """Entries of the attention's weights (B, H, L, K)."""
        return self.segment.n_batch * self.shapes.n_head * self.segment.n_position * self.n_key

    @property
    def drops_weights(self) -> bool:
        """Whether attention's weights are dropped."""
        return self.segment.training and self.shapes.dropatt > 0

    @property
    def input_learns(self) -> bool:
        """Whether what queries, keys and values are made of has a gradient where z, or the memory, is a constant."""
        return self.added or self.gains or (self.shapes.pre_lnorm and self.norm_affine)

    def context(self) -> Piece:
        """Once a solve:

        memory's k and v  (B·M, D) × (D, 2W)     its gradient goes to the weight, and to the memory where gains,
                                                 injection or a norm of it are to learn
        positional keys   (K, D) × (D, W)        its gradient to the weight

        Weight normalisation of the 5DW + 2DF weights reads v twice and writes W (3 passes); its gradient reads v and
        that of W twice and writes that of v (5).
        """
        d_model, width, n_memory = self.shapes.d_model, self.width, self.segment.n_batch * self.shapes.mem_len
        pre_norm = self.shapes.pre_lnorm
        memory, positions = product(n_memory, d_model, 2 * width), product(self.n_key, d_model, width)
        whole = Piece(memory + positions, (1 + self.input_learns) * memory + positions, self.n_key * width)
        # the memory enters: gains (2 passes, their gradient 4), injection (3, 1), norm (2, where it learns 3 + 2)
        learning_norm = pre_norm and self.norm_affine
        n_calls = self.gains + self.added
        whole += Piece(
            passes(n_memory * d_model, 2 * self.gains + 3 * self.added + 2 * pre_norm, n_calls + pre_norm),
            passes(n_memory * d_model, 4 * self.gains + self.added + 5 * learning_norm, n_calls + learning_norm),
            n_memory * d_model * (1 + self.gains + learning_norm),
        )
        joined, heads = 3 * width * self.segment.n_batch * self.n_key, n_memory * 2 * width
        if self.injected:  # added to k and v, whose heads are then set apart (3 + 2); biases are added to the rest (2)
            whole += Piece(passes(joined, 2, 4) + passes(heads, 5, 4), passes(joined, 2, 5) + passes(heads, 4, 4))
        else:
            biases = passes(3 * width * self.segment.n_tokens, 1, 1)
            whole += Piece(biases + passes(heads, 2, 2), passes(heads, 2, 2))
        if self.wnorm:
            weights = 5 * d_model * width + 2 * d_model * self.shapes.d_inner
            whole += Piece(passes(weights, 3, 5), passes(weights, 5, 5), weights)
        if self.drops_weights:  # the mask is drawn and scaled
            whole += Piece(passes(self.scores, 3, 2), kept=self.scores)
        return whole

    def application(self) -> Application:
        """f, its products:

        queries, keys, values   (B·L, D) × (D, 3W)
        scores by position      (B·L, E) × (E, K + 1), in each of H heads
        scores by content       (L, E) × (E, K), in each of B·H
        values                  (L, K) × (K, E), likewise
        output                  (B·L, W) × (W, D)
        feed-forward            (B·L, D) × (D, F) and (B·L, F) × (F, D)

        A product whose one factor is a weight, or depends on the positions alone, has one product in the vector-
        Jacobian product; scores by content and values have two.
        """
        shapes, segment, n_tokens = self.shapes, self.segment, self.segment.n_tokens
        n_batch, n_position, d_model, n_head = segment.n_batch, segment.n_position, shapes.d_model, shapes.n_head
        qkv = product(n_tokens, d_model, 3 * self.width)
        by_position = product(n_tokens, shapes.d_head, self.n_key + 1, count=n_head)
        by_content = product(n_position, shapes.d_head, self.n_key, count=n_batch * n_head)
        values = product(n_position, self.n_key, shapes.d_head, count=n_batch * n_head)
        output = product(n_tokens, self.width, d_model)
        last = product(n_tokens, shapes.d_inner, d_model)
        feed_forward = product(n_tokens, d_model, shapes.d_inner) + last
        products = qkv + by_position + by_content + values + output + feed_forward

        rest = self._elementwise()
        backward = 2 * products + rest.backward + self._to_parameters()
        ends_in_a_norm = self.outer_norm or not shapes.pre_lnorm
        return Application(
            forward=products + rest.forward,
            vjp=products + by_content + values + rest.backward,
            backward=backward,
            to_context=backward if self.input_learns else backward - qkv,
            kept=rest.kept,
            state=n_tokens * d_model,
            last=Work() if ends_in_a_norm else last,
        )

    def once(self) -> Piece:
        """All of it, for one application."""
        f = self.application()
        return self.context() + Piece(f.forward, f.backward, f.kept)

    def _elementwise(self) -> Piece:
        """All of f but its products. Forward:

        states: two residual sums (3 passes each, 4 with a mask), norms (2 each); gains (2), injection (3), together 3
        heads: q and the heads in order (2 each), q scaled (2), q + bias (2), their norm (2)
        keys: k and v joined to the memory's (2 each)
        scores: shifted and masked (2), softmax (2), dropped (3)
        inner: relu (2), dropped

        The gradient: of a norm 3 passes, of a sum 3 where two gradients meet, of softmax 3, of the shift 4 (zeros and a
        copy), of the scale 2, of relu 3, of gains 2.

        Kept: z, what goes into each norm and out of the inner ones; q twice, the heads; k and v; attention's weights,
        and what dropout leaves of them; what goes into W_2.
        """
        n_tokens, width = self.segment.n_tokens, self.width
        states, heads = n_tokens * self.shapes.d_model, n_tokens * width
        keys, inner = self.segment.n_batch * self.n_key * width, n_tokens * self.shapes.d_inner
        norms, drops_weights = 2 + self.outer_norm, self.drops_weights
        enters = 3 if self.added else 2 * self.gains
        return (
            Piece(
                passes(states, 2 * 3 + 2 * norms + enters, 7 + norms),
                passes(states, 2 * 3 + 3 * norms + 2 * self.gains, 18 + norms),
                states * (4 + self.outer_norm + self.gains),
            )
            + Piece(
                passes(heads, 2 + 2 + 2 + 2 + 2 * self.heads_norm, 1 + self.heads_norm),
                passes(heads, 3 * 2 + 3 * 2 + 2 + 3 * self.heads_norm, 1 + self.heads_norm),
                heads * (3 + self.heads_norm),
            )
            + Piece(passes(keys, 2 * 2, 2), passes(keys, 2 * 2, 4), 2 * keys)
            + Piece(
                passes(self.scores, 2 + 2 + 3 * drops_weights, 2 + drops_weights),
                passes(self.scores, 3 + 4 + 3 * drops_weights, 4 + drops_weights),
                self.scores * (1 + drops_weights),
            )
            + Piece(passes(inner, 2, 1), passes(inner, 3, 1), inner)
            + self._dropped(2 * states, inner)
        )

    def _dropped(self, outputs: float, inner: float) -> Piece:
        """Dropout of the sublayers' outputs and between the maps of the second."""
        if not (self.segment.training and self.shapes.dropout > 0):
            return Piece()
        if self.own_masks:  # and W_2 needs what is left beside the relu's own output
            return dropped(outputs) + dropped(inner) + Piece(kept=inner)
        return Piece(backward=passes(outputs, 2, 0)) + masked(inner)  # the outputs' masks are part of the sums

    def _to_parameters(self) -> Work:
        """Biases are sums, so are learned scales and gains; and the injection's part of each gradient."""
        states, heads = self.segment.n_tokens * self.shapes.d_model, self.segment.n_tokens * self.width
        learned = 2 * (2 + self.outer_norm) * self.norm_affine
        return passes(states, 5 + self.added + 4 * self.gains + learned, 10) + passes(
            heads, 3 + 2 * self.heads_norm * self.norm_affine, 0
        )
