"""A tiny DEQ-TrellisNet in float64, and a segment for it."""

import dataclasses

import torch

from models.trellisnets.config import DEQTrellisNetConfig
from models.trellisnets.model import DEQTrellisNetLM

B, L, V = 3, 7, 23
CONFIG = DEQTrellisNetConfig(n_token=V, d_embed=6, nhid=4, nout=6, wnorm=True)


def build(**changes):
    """A model in float64 whose weights are large enough that every one of them shows."""
    model = DEQTrellisNetLM(dataclasses.replace(CONFIG, **changes)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def segment(length=L, n_batch=B):
    return torch.randint(V, (length, n_batch)), torch.randint(V, (length, n_batch))
