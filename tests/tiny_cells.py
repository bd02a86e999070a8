"""Tiny DEQ-Transformers of all kinds of cells in float64, with weights that show."""

import torch
from solved_model import SolvedLM
from tiny_transformer import TINY

from models.transformers.attention import Positions, visibility

TIGHT = {"solver": "broyden", "f_thres": 200, "b_thres": 200, "f_eps": 1e-12, "b_eps": 1e-12}
TORCHDEQS = {"pre_lnorm": True, "norm_affine": True, "heads_norm": True, "cell_layers": 2}
BOUNDED = {"pre_lnorm": True, "norm_affine": True, "outer_norm": True}
CHOICES = [
    {"inject": "residual"},
    {"inject": "both", "norm_affine": True},
    {"heads_norm": True, "norm_affine": True, "wnorm": True},
    {"inject": "both", "cell_layers": 3},
    {"inject": "residual", "cell_layers": 2, **BOUNDED},
    {"layers_before": 2, "layers_after": 1},
    {"layers_after": 1, "inject": "residual", **BOUNDED},
    {"inject": "both", "inject_norm": True, "feedback": 0.3},
    {"inject": "residual", "inject_norm": True, "feedback": 0.3, "cell_layers": 2, **BOUNDED},
]


def tiny(std: float = 0.3, **options) -> SolvedLM:
    torch.manual_seed(0)
    model = SolvedLM(**(TINY | options)).double()
    for name, parameter in model.named_parameters():
        is_scale = name.endswith("norm.weight")
        torch.nn.init.normal_(parameter, mean=float(is_scale), std=0.1 if is_scale else std)
    return model


def loss(model: SolvedLM, segment, memory, n_layer: int | None) -> torch.Tensor:
    return model(*segment, memory, n_layer=n_layer).nll.mean()


def parts_of(model: SolvedLM, n_memory: int = 3, n_query: int = 4):
    """A state, a memory, an injection and positions, all random."""
    generator = torch.Generator().manual_seed(5)
    widths = ((n_query, 8), (n_memory, 8), (n_memory + n_query, model.func.d_injection))
    z, memory, u = (torch.randn(2, length, width, generator=generator, dtype=torch.float64) for length, width in widths)
    return z, memory, u, Positions(model.pos_emb(n_memory + n_query), visibility(n_query, n_memory, 0, z))


def applied(cell, z, memory, u, positions) -> torch.Tensor:
    return cell(z, cell.context(memory, u, positions))
