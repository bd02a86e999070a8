"""What a DEQ-TrellisNet costs.

Shape legend: B sequences, L positions, h = nhid + nout hidden channels, k taps, C channels of the embedded input.
"""

from __future__ import annotations

from models.cost import ModelCost, Segment
from models.trellisnets.config import DEQTrellisNetConfig
from models.trellisnets.model import INJECTION_KERNEL
from modules.cost import Application, Piece, passes, product
from utils.cost import adaptive_embedding, adaptive_softmax, lookup, masked, mixture_of_softmaxes, softmax, tied_tables


def trellisnet_cost(config: DEQTrellisNetConfig, segment: Segment) -> ModelCost:
    """Of any segment but the first: the memory is one state."""
    return ModelCost(
        segment=segment,
        embedding=_embedding(config, segment),
        context=_context(config, segment),
        f=_cell(config, segment),
        head=_head(config, segment),
        memory=segment.n_batch * 2 * config.width,
    )


def _dropped(entries: float, *rates: float) -> Piece:
    """x · mask for each rate that is not 0."""
    return sum(rate > 0 for rate in rates) * masked(entries)


def _embedding(config: DEQTrellisNetConfig, segment: Segment) -> Piece:
    n_tokens = segment.n_tokens
    if config.adaptive:
        bins = (config.n_token, config.d_embed, config.nout, config.cutoffs, config.div_val)
        whole = adaptive_embedding(n_tokens, *bins)
    else:
        whole = lookup(n_tokens, config.n_token * config.d_embed, config.d_embed)
    rates = (config.emb_dropout, config.dropouti) if segment.training else ()
    return whole + _dropped(n_tokens * config.d_input, *rates)


def _head(config: DEQTrellisNetConfig, segment: Segment) -> Piece:
    n_tokens, training = segment.n_tokens, segment.training
    if config.adaptive:
        bins = (config.n_token, config.d_embed, config.nout, config.cutoffs, config.div_val)
        whole = adaptive_softmax(n_tokens, *bins, segment.shares)
    elif config.n_experts:
        sizes = (config.n_token, config.nout, config.d_embed, config.n_experts)
        whole = mixture_of_softmaxes(n_tokens, *sizes, dropout=training and config.dropoutl > 0)
    else:
        whole = softmax(n_tokens, config.n_token, config.nout)
    if config.tied:
        bins = (config.cutoffs, config.div_val) if config.adaptive else ()
        whole += tied_tables(config.n_token, config.d_embed, *bins)
    return whole + _dropped(n_tokens * config.nout, *([config.dropout] if training else []))


def _context(config: DEQTrellisNetConfig, segment: Segment) -> Piece:
    """Once a solve the injection, (B·L, 2C) × (2C, 4h), over the windows of its two taps.

    Weight normalisation of 4h·(k·h + 2C) weights reads v twice and writes W (3 passes), which is then laid out for the
    windows (2); its gradient is laid out (2), reads v and that of W twice and writes that of v (5).
    """
    n_tokens, width = segment.n_tokens, config.width
    window = INJECTION_KERNEL * config.d_input
    injection = product(n_tokens, window, 4 * width)
    weights = 4 * width * (config.ksize * width + window)
    normalised = 1 if config.wnorm else 0
    forward = injection + passes(n_tokens * window, 2 + 1, 3) + passes(n_tokens * 4 * width, 2, 1)
    forward += passes(weights, 2 + 3 * normalised, 2 + normalised)
    backward = 2 * injection + passes(n_tokens * window, 3, 3) + passes(n_tokens * 4 * width, 2, 2)
    backward += passes(weights, 2 + 5 * normalised, 2 + normalised)
    kept = n_tokens * window + weights
    if segment.training and config.wdrop > 0:  # the mask of all taps but the last; what it leaves, to be normalised
        kept += 4 * width**2 * (config.ksize - 1 + config.ksize * normalised)
    return Piece(forward, backward, kept)


def _cell(config: DEQTrellisNetConfig, segment: Segment) -> Application:
    """f has one product, (B·L, k·h) × (k·h, 4h), the windows of k taps into the gates; its gradient has one to each."""
    n_tokens, width = segment.n_tokens, config.width
    hidden, window = n_tokens * width, n_tokens * width * config.ksize
    gates = product(n_tokens, config.ksize * width, 4 * width)
    drops = segment.training and config.dropouth > 0
    # the gates add the injection (4h), three sigmoids and two tanh (2 passes each), three products and a sum (3 each),
    # cell before (2), both parts joined (4)
    elementwise = passes(hidden, 2 * 4 + 5 * 2 + 4 * 3 + 2 + 4 + 2 * drops, 16 + drops)
    elementwise += passes(window, 2, 2) + passes(hidden, 2, 1)
    # of a nonlinearity 3 passes, of each of three products two of 3, of the joins 2 each, of the gates' split 8 + 8
    back = passes(hidden, 5 * 3 + 6 * 3 + 4 * 2 + 16 + 3 * 2 + 2 * drops, 30 + drops)
    back += passes(window, 2 + 3, 4)
    to_weights = passes(4 * hidden, 2, 2)  # the injection's gradient
    return Application(
        forward=gates + elementwise,
        vjp=gates + back,
        backward=2 * gates + back + to_weights,
        to_context=gates + back + to_weights,
        kept=window + 6 * hidden,  # three sigmoids, two tanh, the cell before
        state=2 * hidden,
    )
