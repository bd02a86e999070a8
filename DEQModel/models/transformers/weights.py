"""Files of DEQ-Transformer weights: older generations under the current names, and the settings that shapes show."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor

from models.shown_shapes import (
    Shapes,
    ShownBins,
    number_faults,
    raise_if_any,
    switch_faults,
    vocabulary_faults,
    with_current_names,
    without_wrapper,
    wnorm_faults,
)
from models.transformers.cell import INJECTIONS
from models.transformers.config import DEQTransformerConfig
from models.transformers.torchdeq import from_torchdeq, is_torchdeqs

CELL_COPIES = ("func_copy.", "deq.", "deqback.")
ATTENTION = ("func.", "func.layers.0.")  # where a cell of one pair, and one of several, has its first attention
FEED_FORWARD_WEIGHT = re.compile(r"\.ff[12]_net\.weight(_[gv])?$")
VALUES = (
    *("d_model", "n_head", "d_head", "d_inner", "d_embed"),
    *("cell_layers", "layers_before", "layers_after", "inject"),
)


@dataclass(frozen=True)
class ShownSettings(ShownBins):
    """What the shapes in a DEQ-Transformer's state dict show of the settings it was trained with.

    Norms that learn nothing do not show: `heads_norm` and `outer_norm` are then None.
    """

    n_head: int
    d_head: int
    d_inner: int
    wnorm: bool
    norm_affine: bool = False
    heads_norm: bool | None = None
    outer_norm: bool | None = None
    cell_layers: int = 1
    layers_before: int = 0
    layers_after: int = 0
    inject: str = "attention"
    inject_norm: bool = False
    has_feedback: bool = False

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> ShownSettings:
        """Read the settings off `state`.

        Raises:
            ValueError: when an entry is missing or has a shape that no DEQ-Transformer gives it.
        """
        shapes = Shapes(state, "DEQ-Transformer")
        width, d_model, _ = shapes.of("inject_conv.weight", 3)
        injections = [name for name, widths in INJECTIONS.items() if width == widths * d_model]
        if not injections:
            raise ValueError(f"inject_conv.weight has {width} channels for a width of {d_model}: {shapes.remedy}")
        cell_layers = _number_of("func.layers", state)
        first, last = ("func.layers.0", f"func.layers.{cell_layers - 1}") if cell_layers else ("func", "func")
        n_head, d_head = shapes.of(f"{first}.dec_attn.r_w_bias", 2)
        norm_affine = f"{first}.attn_norm.weight" in state
        return cls(
            **vars(ShownBins.read(shapes, d_model)),
            n_head=n_head,
            d_head=d_head,
            d_inner=shapes.of(f"{first}.pos_ff.ff1_net.bias", 1)[0],
            wnorm=f"{first}.dec_attn.qkv_net.weight_g" in state,
            norm_affine=norm_affine,
            heads_norm=f"{first}.dec_attn.heads_norm.weight" in state if norm_affine else None,
            outer_norm=f"{last}.outer_norm.weight" in state if norm_affine else None,
            cell_layers=max(cell_layers, 1),
            layers_before=_number_of("layers_before", state),
            layers_after=_number_of("layers_after", state),
            inject=injections[0],
            inject_norm="inject_norm.weight" in state,
            has_feedback=f"{first}.feedback" in state,
        )


def _feedback_faults(found: bool, expected: bool) -> list[str]:
    if found == expected:
        return []
    if found:
        return ["`feedback` is left out but the file has gains: pass `feedback` with the value that they began at"]
    return ["`feedback` is given but the file has no gains: leave `feedback` out"]


def _number_of(layers: str, state: dict[str, Tensor]) -> int:
    n = 0
    while f"{layers}.{n}.dec_attn.r_w_bias" in state:
        n += 1
    return n


class DEQTransformerWeights:
    """Reads files of DEQ-Transformer weights, of either generation, and of TorchDEQ's language model."""

    def recognises(self, state: dict[str, Tensor]) -> bool:
        """Whether it has the attention of the cell."""
        bare = without_wrapper(state)
        return is_torchdeqs(bare) or any(f"{place}dec_attn.r_w_bias" in bare for place in ATTENTION)

    def modern(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same weights as the current generation stores them; its own state dicts stay as they are.

        State dicts of 2019 and 2020 have, beside what `with_current_names` changes, the linear maps of the feed-forward
        as convolutions of kernel 1.
        """
        bare = without_wrapper(state)
        if is_torchdeqs(bare):
            return from_torchdeq(bare)
        current = with_current_names(state, CELL_COPIES)
        for name, value in current.items():
            if FEED_FORWARD_WEIGHT.search(name) and value.dim() == 3 and value.shape[2] == 1:
                current[name] = value.squeeze(2)
        return current

    def check(self, state: dict[str, Tensor], config: DEQTransformerConfig) -> None:
        """Compare the settings that the shapes of `state` show with those of a configuration.

        Raises:
            ValueError: naming, in one line, every setting that differs, both values and what to pass.
        """
        found = ShownSettings.of(state)
        raise_if_any(
            [
                *vocabulary_faults(found.n_token, config),
                *number_faults(found, config, VALUES),
                *switch_faults(found, config, ("norm_affine", "heads_norm", "outer_norm", "inject_norm")),
                *_feedback_faults(found.has_feedback, config.has_feedback),
                *wnorm_faults(found.wnorm, config.wnorm),
                *found.bin_faults(config),
            ]
        )
