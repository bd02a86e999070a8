"""State dicts of TorchDEQ's language model under the names of this one.

Its cell has a list of attentions and one of feed-forwards, each with the norms before it, and its queries, keys and
values lie head by head: rows (head, which, channel) where they are (which, head, channel) here.
"""

from __future__ import annotations

import re

from torch import Tensor

SUBLAYER = re.compile(r"func\.(dec_attn|pos_ff)\.(\d+)\.(.+)")
INJECTION = re.compile(r"injection\.(weight|bias)")
FIRST_BIAS = "func.dec_attn.0.r_w_bias"
NORMS = {  # a norm there -> and here
    "dec_attn.ln1": "attn_norm",
    "dec_attn.ln2": "dec_attn.heads_norm",
    "pos_ff.ln": "ff_norm",
}
AS_CONVOLUTIONS = re.compile(r"(dec_attn\.[a-z]+_net|inject_conv)\.weight(_[gv])?$")


def is_torchdeqs(state: dict[str, Tensor]) -> bool:
    """Whether a state dict is of TorchDEQ's language model, going by its names."""
    return FIRST_BIAS in state


def from_torchdeq(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights, or gradients of them, under the names and in the order of channels of this model."""
    n_head = len(state[FIRST_BIAS]) if state[FIRST_BIAS].dim() else 0
    places = [match for name in state if (match := SUBLAYER.fullmatch(name))]
    n_layer = 1 + max(int(place[2]) for place in places)
    current = {}
    for name, value in state.items():
        name, is_qkv = _renamed(name, alone=n_layer == 1)
        if is_qkv:
            value = _in_thirds(value, n_head)
        if AS_CONVOLUTIONS.search(name) and value.dim() == 2:
            value = value.unsqueeze(2)
        current[name] = value
    return current


def _renamed(name: str, *, alone: bool) -> tuple[str, bool]:
    """A name here, and whether its rows are those of queries, keys and values."""
    if INJECTION.fullmatch(name):
        return name.replace("injection", "inject_conv"), True
    place = SUBLAYER.fullmatch(name)
    if place is None:
        return name, False
    sublayer, layer, entry = place.groups()
    owner, _, kind = f"{sublayer}.{entry}".rpartition(".")
    cell = "func" if alone else f"func.layers.{layer}"
    return f"{cell}.{NORMS.get(owner, owner)}.{kind}", owner == "dec_attn.qkv_net"


def _in_thirds(value: Tensor, n_head: int) -> Tensor:
    """Rows (H, 3, E) as (3, H, E); what has no such rows stays as it is, and is found not to fit."""
    if value.dim() == 0 or n_head == 0 or len(value) % (3 * n_head):
        return value
    return value.unflatten(0, (n_head, 3, -1)).transpose(0, 1).flatten(0, 2).contiguous()
