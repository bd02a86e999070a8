"""Files of DEQ-TrellisNet weights: older generations under the current names, and the settings that shapes show."""

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
    wnorm_faults,
)
from models.trellisnets.config import DEQTrellisNetConfig

CELL_COPIES = ("trellisnet.func_copy.", "trellisnet.deq.", "trellisnet.deqback.")
GATES = 4


@dataclass(frozen=True)
class ShownSettings:
    """What the shapes in a DEQ-TrellisNet's state dict show of the settings it was trained with."""

    n_token: int
    d_embed: int
    nhid: int
    nout: int
    ksize: int
    n_experts: int
    wnorm: bool
    bins: ShownBins | None  # None without an adaptive embedding

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> ShownSettings:
        """Read the settings off `state`.

        Raises:
            ValueError: when an entry is missing or has a shape that no DEQ-TrellisNet gives it.
        """
        shapes = Shapes(state, "DEQ-TrellisNet")
        wnorm = "trellisnet.func.full_conv.weight_g" in state
        weight = "weight_v" if wnorm else "weight"
        _, width, ksize = shapes.of(f"trellisnet.func.full_conv.{weight}", 3)
        d_input = shapes.of(f"trellisnet.inject_conv.{weight}", 3)[1]
        bins, n_experts = None, 0
        if "word_emb.emb_layers.0.weight" in state:
            bins, nout = ShownBins.read(shapes, d_input), d_input
            n_token, d_embed = bins.n_token, bins.d_embed
        else:
            n_token, d_embed = shapes.of("encoder.weight", 2)
            if "prior.weight" in state:
                n_experts, nout = shapes.of("prior.weight", 2)
            else:
                nout = shapes.of("decoder.weight", 2)[1]
        return cls(n_token, d_embed, width - nout, nout, ksize, n_experts, wnorm, bins)


class DEQTrellisNetWeights:
    """Reads files of DEQ-TrellisNet weights, of either generation."""

    def recognises(self, state: dict[str, Tensor]) -> bool:
        """Whether it has the convolution of the cell."""
        return "trellisnet.func.full_conv.bias" in without_wrapper(state)

    def modern(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same weights as the current generation stores them."""
        return with_current_names(state, CELL_COPIES)

    def check(self, state: dict[str, Tensor], config: DEQTrellisNetConfig) -> None:
        """Compare the settings that the shapes of `state` show with those of a configuration.

        Raises:
            ValueError: naming, in one line, every setting that differs, both values and what to pass.
        """
        found = ShownSettings.of(state)
        raise_if_any(
            [
                *vocabulary_faults(found.n_token, config),
                *number_faults(found, config, ("d_embed", "nhid", "nout", "ksize", "n_experts")),
                *wnorm_faults(found.wnorm, config.wnorm),
                *_bin_faults(found.bins, config),
            ]
        )


def _bin_faults(bins: ShownBins | None, config: DEQTrellisNetConfig) -> list[str]:
    if bins is not None and config.adaptive:
        return bins.bin_faults(config)
    if bins is not None:
        return ["`adaptive` is off but the file has an adaptive embedding: pass `adaptive`"]
    return ["`adaptive` is on but the file has a plain embedding: leave `adaptive` out"] if config.adaptive else []
