"""Files of Transformer-XL weights: published ones under the current names, and the settings that shapes show."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.shown_shapes import (
    Shapes,
    ShownBins,
    number_faults,
    raise_if_any,
    vocabulary_faults,
    with_current_names,
    without_wrapper,
)
from models.transformer_xl.config import TransformerXLConfig

QKV = "layers.{}.dec_attn.qkv_net.weight"


@dataclass(frozen=True)
class ShownSettings(ShownBins):
    """What the shapes in a Transformer-XL's state dict show of the settings it was trained with."""

    n_layer: int
    n_head: int
    d_head: int
    d_inner: int

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> ShownSettings:
        """Read the settings off `state`.

        Raises:
            ValueError: when an entry is missing or has a shape that no Transformer-XL gives it.
        """
        shapes = Shapes(state, "Transformer-XL")
        d_model = shapes.of(QKV.format(0), 2)[1]
        n_head, d_head = shapes.of("r_w_bias", 2)
        n_layer = 1
        while QKV.format(n_layer) in state:
            n_layer += 1
        return cls(
            **vars(ShownBins.read(shapes, d_model)),
            n_layer=n_layer,
            n_head=n_head,
            d_head=d_head,
            d_inner=shapes.of("layers.0.pos_ff.CoreNet.0.bias", 1)[0],
        )


class TransformerXLWeights:
    """Reads files of Transformer-XL weights, the published PyTorch code's and this program's."""

    def recognises(self, state: dict[str, Tensor]) -> bool:
        """Whether it has a layer of distinct weights."""
        return QKV.format(0) in without_wrapper(state)

    def modern(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same weights as this program stores them; published ones have projections as bare parameters."""
        return with_current_names(state)

    def check(self, state: dict[str, Tensor], config: TransformerXLConfig) -> None:
        """Compare the settings that the shapes of `state` show with those of a configuration.

        Raises:
            ValueError: naming, in one line, every setting that differs, both values and what to pass.
        """
        found = ShownSettings.of(state)
        raise_if_any(
            [
                *vocabulary_faults(found.n_token, config),
                *number_faults(found, config, ("n_layer", "d_model", "n_head", "d_head", "d_inner", "d_embed")),
                *found.bin_faults(config),
            ]
        )
