"""A tiny DEQ-Transformer in float64 with random weights, and a segment for it."""

import torch
from solved_model import SolvedLM

TINY = {"n_token": 30, "n_head": 2, "d_head": 4, "d_model": 8, "d_inner": 12, "d_embed": 8, "mem_len": 5}


def tiny(seed=0, **options):
    torch.manual_seed(seed)
    model = SolvedLM(**(TINY | options)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch(length=6, rows=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    stream = torch.randint(TINY["n_token"], (length + 1, rows), generator=generator)
    return stream[:-1], stream[1:]
