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
    vocabulary_faults,
    with_named_projections,
    without_wrapper,
    wnorm_faults,
)
from models.transformers.config import DEQTransformerConfig

CELL_COPIES = ("func_copy.", "deq.", "deqback.")
FEED_FORWARD_WEIGHT = re.compile(r"\.ff[12]_net\.weight(_[gv])?$")


@dataclass(frozen=True)
class ShownSettings(ShownBins):
    """What the shapes in a DEQ-Transformer's state dict show of the settings it was trained with."""

    n_head: int
    d_head: int
    d_inner: int
    wnorm: bool

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> ShownSettings:
        """Read the settings off `state`.

        Raises:
            ValueError: when an entry is missing or has a shape that no DEQ-Transformer gives it.
        """
        shapes = Shapes(state, "DEQ-Transformer")
        d_model = shapes.of("inject_conv.weight", 3)[1]
        n_head, d_head = shapes.of("func.dec_attn.r_w_bias", 2)
        return cls(
            **vars(ShownBins.read(shapes, d_model)),
            n_head=n_head,
            d_head=d_head,
            d_inner=shapes.of("func.pos_ff.ff1_net.bias", 1)[0],
            wnorm="func.dec_attn.qkv_net.weight_g" in state,
        )


class DEQTransformerWeights:
    """Reads files of DEQ-Transformer weights, of either generation."""

    def recognises(self, state: dict[str, Tensor]) -> bool:
        """Whether it has the attention of the cell."""
        return "func.dec_attn.r_w_bias" in without_wrapper(state)

    def modern(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same weights as the current generation stores them; its own state dicts stay as they are.

        State dicts of 2019 and 2020 have copies of the cell, projections as bare parameters, and the linear maps of the
        feed-forward as convolutions of kernel 1.
        """
        current = {}
        for name, value in with_named_projections(without_wrapper(state)).items():
            if name.startswith(CELL_COPIES):
                continue
            if FEED_FORWARD_WEIGHT.search(name) and value.dim() == 3 and value.shape[2] == 1:
                value = value.squeeze(2)
            current[name] = value
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
                *number_faults(found, config, ("d_model", "n_head", "d_head", "d_inner", "d_embed")),
                *wnorm_faults(found.wnorm, config.wnorm),
                *found.bin_faults(config),
            ]
        )
