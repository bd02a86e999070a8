"""Files of DEQ-Transformer weights: older generations under the current names, and the settings that shapes show."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from models.transformers.config import DEQTransformerConfig
from utils.adaptive_embedding import has_projections, table_shapes

CELL_COPIES = ("func_copy.", "deq.", "deqback.")
BARE_PROJECTION = re.compile(r"(^|\.)(emb|out)_projs\.\d+$")
FEED_FORWARD_WEIGHT = re.compile(r"\.ff[12]_net\.weight(_[gv])?$")


@dataclass(frozen=True)
class ShownSettings:
    """What the shapes in a DEQ-Transformer's state dict show of the settings it was trained with.

    A cutoff is None where only the number of cutoffs shows (div_val 1: one table holds all bins). Where several
    div_val give the same shapes it is the smallest.
    """

    n_token: int
    d_model: int
    n_head: int
    d_head: int
    d_inner: int
    d_embed: int
    wnorm: bool
    cutoffs: tuple[int | None, ...]
    div_val: int

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> "ShownSettings":
        """Read the settings off `state`.

        Raises:
            ValueError: when an entry is missing or has a shape that no DEQ-Transformer gives it.
        """
        d_model = _shape(state, "inject_conv.weight", 3)[1]
        n_head, d_head = _shape(state, "func.dec_attn.r_w_bias", 2)
        tables = [_shape(state, "word_emb.emb_layers.0.weight", 2)]
        while (name := f"word_emb.emb_layers.{len(tables)}.weight") in state:
            tables.append(_shape(state, name, 2))
        d_embed = tables[0][1]
        cutoffs: tuple[int | None, ...] = tuple(accumulate(size for size, _ in tables[:-1]))
        if len(tables) == 1 and "crit.cluster_weight" in state:
            cutoffs = (None,) * _shape(state, "crit.cluster_weight", 2)[0]
        return cls(
            n_token=sum(size for size, _ in tables),
            d_model=d_model,
            n_head=n_head,
            d_head=d_head,
            d_inner=_shape(state, "func.pos_ff.ff1_net.bias", 1)[0],
            d_embed=d_embed,
            wnorm="func.dec_attn.qkv_net.weight_g" in state,
            cutoffs=cutoffs,
            div_val=_div_val([width for _, width in tables], d_model, "word_emb.emb_projs.0.weight" in state),
        )


def _shape(state: dict[str, Tensor], name: str, n_dims: int) -> tuple[int, ...]:
    if name not in state:
        raise ValueError(f"no entry {name}: pass the state dict of a DEQ-Transformer")
    shape = tuple(state[name].shape)
    if len(shape) != n_dims:
        raise ValueError(f"{name} has shape {shape}, not {n_dims} dimensions: pass the state dict of a DEQ-Transformer")
    return shape


def _div_val(widths: list[int], d_model: int, projected: bool) -> int:
    if len(widths) == 1:
        return 2 if projected and widths[0] == d_model else 1
    for div_val in range(2, widths[0] + 1):
        if all(widths[0] // div_val**i == width for i, width in enumerate(widths)):
            return div_val
    raise ValueError(f"its embeddings' widths {widths} follow no `div_val`: pass the state dict of a DEQ-Transformer")


class DEQTransformerWeights:
    """Reads files of DEQ-Transformer weights, of either generation."""

    def modern(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same weights as the current generation stores them; its own state dicts stay as they are.

        State dicts of 2019 and 2020 have copies of the cell, projections as bare parameters, and the linear maps of the
        feed-forward as convolutions of kernel 1.
        """
        if all(name.startswith("module.") for name in state):  # saved from inside a data-parallel wrapper
            state = {name.removeprefix("module."): value for name, value in state.items()}
        current = {}
        for name, value in state.items():
            if name.startswith(CELL_COPIES):
                continue
            if BARE_PROJECTION.search(name):
                name += ".weight"
            if FEED_FORWARD_WEIGHT.search(name) and value.dim() == 3 and value.shape[2] == 1:
                value = value.squeeze(2)
            current[name] = value
        return current

    def check(self, state: dict[str, Tensor], config: DEQTransformerConfig) -> None:
        """Compare the settings that the shapes of `state` show with those of a configuration.

        Raises:
            ValueError: naming, in one line, every setting that differs, both values and what to pass.
        """
        found, faults = ShownSettings.of(state), []
        if found.n_token != config.n_token:
            faults.append(
                f"the data's vocabulary has {config.n_token} words but the file has {found.n_token}: "
                "check `data`, `dataset` and `cutoffs`"
            )
        for name in ("d_model", "n_head", "d_head", "d_inner", "d_embed"):
            value, wanted = getattr(found, name), getattr(config, name)
            if value != wanted:
                faults.append(f"`{name}` is {wanted} but the file has {value}: pass `{name}` {value}")
        if found.wnorm != config.wnorm:
            faults.append(
                "`wnorm` is off but the file has weight normalisation: pass `wnorm`"
                if found.wnorm
                else "`wnorm` is on but the file has no weight normalisation: leave `wnorm` out"
            )
        faults += _cutoff_faults(found.cutoffs, tuple(config.cutoffs)) + _div_val_faults(found, config)
        if faults:
            raise ValueError(f"does not match the flags: {'; '.join(faults)}")


def _cutoff_faults(found: tuple[int | None, ...], expected: tuple[int | None, ...]) -> list[str]:
    same = len(found) == len(expected) and all(a in (None, b) for a, b in zip(found, expected, strict=True))
    if same:
        return []
    given = f"`cutoffs` are {_joined(expected)}" if expected else "`adaptive` is off"
    if not found:
        return [f"{given} but the file has one bin: leave `adaptive` out"]
    if None in found:
        return [f"{given} but the file has {len(found)} cutoffs: pass `adaptive` `cutoffs` with as many numbers"]
    return [f"{given} but the file has {_joined(found)}: pass `adaptive` `cutoffs` {_joined(found)}"]


def _joined(numbers: Sequence[int | None]) -> str:
    return " ".join(map(str, numbers))


def _div_val_faults(found: ShownSettings, expected: DEQTransformerConfig) -> list[str]:
    # Several div_val may give the same shapes, so the shapes are what is compared.
    def shapes(div_val: int) -> tuple[list[int], bool]:
        # Bins of one word stand in for the cutoffs: those of a file may be unknown, and only widths matter here.
        cutoffs = range(1, 1 + len(found.cutoffs))
        tables = table_shapes(1 + len(cutoffs), found.d_embed, cutoffs, div_val)
        return [width for _, width in tables], has_projections(found.d_embed, found.d_model, div_val)

    if shapes(found.div_val) == shapes(expected.div_val):
        return []
    return [f"`div_val` is {expected.div_val} but the file has {found.div_val}: pass `div_val` {found.div_val}"]
