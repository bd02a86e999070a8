"""What a DEQ-Transformer costs.

Shape legend: B sequences, L positions, M of the memory, K = M + L keys, D = d_model = H·E channels in H heads,
F = d_inner. Products are written (rows, inner) × (inner, columns); passes are reads and writes of a tensor.
"""

from __future__ import annotations

from models.cost import ModelCost, Segment
from models.transformers.config import DEQTransformerConfig
from modules.cost import Application, Piece, passes, product
from utils.cost import adaptive_embedding, adaptive_softmax

PUBLISHED = {
    "cell_layers": 1,
    "inject": "attention",
    "inject_norm": False,
    "feedback": None,
    "heads_norm": False,
    "norm_affine": False,
    "layers_before": 0,
    "layers_after": 0,
}


def transformer_cost(config: DEQTransformerConfig, segment: Segment) -> ModelCost:
    """Of a segment whose memory is full.

    Raises:
        ValueError: a cell of another kind than the published one, for which there are no formulas.
    """
    for name, published in PUBLISHED.items():
        if getattr(config, name) != published:
            raise ValueError(f"there are no formulas for `{name}` {getattr(config, name)}: leave it out")
    n_tokens, d_model = segment.n_tokens, config.d_model
    bins = (n_tokens, config.n_token, config.d_embed, d_model, config.cutoffs, config.div_val)
    drop = _drop(n_tokens * d_model) if _drops(config, segment) else Piece()
    return ModelCost(
        embedding=adaptive_embedding(*bins) + drop,
        context=_context(config, segment),
        f=_cell(config, segment),
        head=adaptive_softmax(*bins, segment.shares) + drop,
        memory=segment.n_batch * config.mem_len * 4 * d_model,  # z and u, D and 3D wide
    )


def _drops(config: DEQTransformerConfig, segment: Segment) -> bool:
    return segment.training and config.dropout > 0


def _drop(entries: float) -> Piece:
    """x · mask, with a mask that many entries share."""
    return Piece(passes(entries, 2, 1), passes(entries, 2, 1))


def _context(config: DEQTransformerConfig, segment: Segment) -> Piece:
    """Once a solve:

    injection         (B·L, D) × (D, 3D)     its gradient goes to the weight and to the embedded words
    memory's k and v  (B·M, D) × (D, 2D)     its gradient to the weight alone
    positional keys   (K, D) × (D, D)        likewise

    Weight normalisation of the cell's 5D² + 2DF weights reads v twice and writes W (3 passes); its gradient reads v and
    that of W twice and writes that of v (5).
    """
    n_batch, d_model, n_memory = segment.n_batch, config.d_model, config.mem_len
    n_key = n_memory + segment.n_position
    injection = product(segment.n_tokens, d_model, 3 * d_model)
    memory = product(n_batch * n_memory, d_model, 2 * d_model)
    positions = product(n_key, d_model, d_model)
    joined = 3 * d_model * n_batch * n_key  # u, of memory and segment
    forward = injection + memory + positions + passes(joined, 2 + 2, 5)
    forward += passes(n_batch * n_memory * 2 * d_model, 3 + 2, 4)  # the injection added, heads apart
    backward = 2 * injection + memory + positions + passes(joined, 2, 5)
    backward += passes(n_batch * n_memory * 2 * d_model, 4, 4)
    kept = segment.n_tokens * d_model + n_batch * n_memory * d_model + 2 * n_key * d_model
    if config.wnorm:
        weights = 5 * d_model**2 + 2 * d_model * config.d_inner
        forward += passes(weights, 3, 5)
        backward += passes(weights, 5, 5)
        kept += weights
    if segment.training and config.dropatt > 0:
        kept += n_batch * config.n_head * segment.n_position * n_key  # the mask
    return Piece(forward, backward, kept)


def _cell(config: DEQTransformerConfig, segment: Segment) -> Application:
    """f, its products:

    queries, keys, values   (B·L, D) × (D, 3D)
    scores by position      (B·L, E) × (E, K + 1), in each of H heads
    scores by content       (L, E) × (E, K), in each of B·H
    values                  (L, K) × (K, E), likewise
    output                  (B·L, D) × (D, D)
    feed-forward            (B·L, D) × (D, F) and (B·L, F) × (F, D)

    A product whose one factor is a weight, or depends on the positions alone, has one product in the vector-Jacobian
    product; scores by content and values have two.
    """
    n_batch, n_position, d_model, n_head = segment.n_batch, segment.n_position, config.d_model, config.n_head
    n_tokens, n_key = segment.n_tokens, config.mem_len + n_position
    qkv = product(n_tokens, d_model, 3 * d_model)
    by_position = product(n_tokens, config.d_head, n_key + 1, count=n_head)
    by_content = product(n_position, config.d_head, n_key, count=n_batch * n_head)
    values = product(n_position, n_key, config.d_head, count=n_batch * n_head)
    output = product(n_tokens, d_model, d_model)
    feed_forward = product(n_tokens, d_model, config.d_inner) + product(n_tokens, config.d_inner, d_model)
    products = qkv + by_position + by_content + values + output + feed_forward

    norms = 2 + config.outer_norm
    states, keys = n_tokens * d_model, n_batch * n_key * d_model
    scores, inner = n_batch * n_head * n_position * n_key, n_tokens * config.d_inner
    drops, drops_weights = _drops(config, segment), segment.training and config.dropatt > 0
    # q and the heads in order (2 passes each), q + bias (2), two residual sums (3 each, 4 with a mask), norms (2 each);
    # k and v joined to the memory's (2 each); scores shifted and masked (2), copied (2), softmax (2), dropped (3)
    elementwise = (
        passes(states, 2 + 2 + 2 + 2 * 3 + 2 * norms, 7 + norms)
        + passes(keys, 2 * 2, 2)
        + passes(scores, 2 + 2 + 2 + 3 * drops_weights, 3 + drops_weights)
        + passes(inner, 2 + 2 * drops, 1 + drops)  # relu, mask
    )
    # The gradient: of a norm 3 passes, of a sum 3 where two gradients meet, of softmax 3, of the shift 4 (zeros and a
    # copy) and the scale 4, of relu 3.
    back = (
        passes(states, 3 * norms + 2 * 3 + 2 * drops * 2 + 3 * 2 + 3 * 2, 18 + norms)
        + passes(keys, 2 * 2, 4)
        + passes(scores, 3 + 4 + 4 + 3 * drops_weights, 6 + drops_weights)
        + passes(inner, 3 + 2 * drops, 1 + drops)
    )
    to_weights = passes(states, 3 + 5, 10)  # biases are sums; the injection's third of each gradient
    # z, q twice, the heads, what goes into each norm and out of the inner ones; k and v; attention's weights, and what
    # dropout leaves of them; what goes into W_2
    kept = states * (7 + config.outer_norm) + 2 * keys + scores * (1 + drops_weights) + inner
    return Application(
        forward=products + elementwise,
        vjp=products + by_content + values + back,
        backward=2 * products + back + to_weights,
        to_context=2 * products - qkv + back + to_weights,
        kept=kept,
        state=states,
    )
