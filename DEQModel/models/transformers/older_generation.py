"""State dicts of the older generation of published files (2019, 2020) under the current names and shapes.

They have copies of the cell, projections as bare parameters, and the linear maps of the feed-forward as convolutions
of kernel 1.
"""

import re

from torch import Tensor

CELL_COPIES = ("func_copy.", "deq.", "deqback.")
BARE_PROJECTION = re.compile(r"(^|\.)(emb|out)_projs\.\d+$")
FEED_FORWARD_WEIGHT = re.compile(r"\.ff[12]_net\.weight(_[gv])?$")


def current_generation(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as the current generation stores them; its own state dicts stay as they are."""
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
