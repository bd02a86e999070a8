"""Small models, a real step of each, and what the formulas say of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, bmm_flop

from costs.step import Part, evaluation_parts, training_parts
from models.cost import ModelCost, Segment
from models.protocol import LanguageModel, ModelSpec
from models.transformer_xl.config import TransformerXLConfig
from models.transformer_xl.spec import SPEC as TRANSFORMER_XL
from models.transformers.config import DEQTransformerConfig
from models.transformers.spec import SPEC as TRANSFORMER
from models.trellisnets.config import DEQTrellisNetConfig
from models.trellisnets.spec import SPEC as TRELLISNET
from modules.cost import NUMBER, Work
from modules.depth import Applications, AsBuilt, Depth
from modules.deq import DEQModule
from modules.solve_cost import DepthCost
from utils.adaptive_embedding import bin_edges

B, L = 3, 8


def operations_counter() -> FlopCounterMode:
    """PyTorch's own, which of products that are added in place knows nothing."""
    added_in_place = {torch.ops.aten.baddbmm_: lambda total, a, b, **scales: bmm_flop(a, b)}
    return FlopCounterMode(display=False, custom_mapping=added_in_place)


def transformer(**changed: Any) -> tuple[ModelSpec, DEQTransformerConfig]:
    shapes = {"n_token": 50, "n_head": 2, "d_head": 6, "d_model": 12, "d_inner": 20, "d_embed": 12, "mem_len": 5}
    return TRANSFORMER, DEQTransformerConfig(**{**shapes, **changed})


def transformer_xl(**changed: Any) -> tuple[ModelSpec, TransformerXLConfig]:
    """Whose heads are not as wide together as the model."""
    shapes = {"n_head": 3, "d_head": 5, "d_model": 12, "d_inner": 20, "d_embed": 12, "n_layer": 3, "mem_len": 5}
    return TRANSFORMER_XL, TransformerXLConfig(**{"n_token": 50, **shapes, **changed})


def trellisnet(**changed: Any) -> tuple[ModelSpec, DEQTrellisNetConfig]:
    return TRELLISNET, DEQTrellisNetConfig(**{"n_token": 50, "d_embed": 8, "nhid": 10, "nout": 8, **changed})


def solves(**settings: Any) -> DEQModule:
    """Solves that take all their steps; f is not packed, as the counter does not see the products that are."""
    wanted = {"solver": "broyden", "f_thres": 6, "b_thres": 5, "f_eps": 0.0, "b_eps": 0.0, "prepare": "eager"}
    return DEQModule(**{**wanted, **settings})


class NoModules(AbstractContextManager):
    """In place of the counter's own tracker of modules, which cannot stand a backward pass within one."""

    parents = frozenset({"Global"})

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class Costed:
    """A model, a segment in the middle of a text, and the formulas' account of a step on it."""

    model: LanguageModel
    tokens: Tensor
    targets: Tensor
    memory: Any
    depth: Depth
    cost: ModelCost

    @classmethod
    def of(cls, kind: tuple[ModelSpec, Any], depth: Depth, *, training: bool = True) -> Costed:
        torch.manual_seed(0)
        spec, config = kind
        model = spec.build(config).train(training)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.1)  # solves that neither converge nor lose their way
        before, tokens, targets = torch.randint(config.n_token, (3, L, B))
        with torch.no_grad():
            memory = model.hidden(before, None, Applications(1)).memory
        edges = bin_edges(config.n_token, config.cutoffs)
        counts = torch.histc(targets.float(), bins=config.n_token, min=0, max=config.n_token)
        shares = [float(counts[low:high].sum()) / (B * L) for low, high in pairwise(edges)]
        cost = spec.cost(config, Segment(B, L, training, shares))
        return cls(model, tokens, targets, memory, depth if spec.is_equilibrium else AsBuilt(), cost)

    @property
    def times(self) -> DepthCost:
        return self.cost.times(self.depth)

    def counted(self, *, charged: bool = False) -> int:
        """Operations of the matrix products that PyTorch counts in a step, with the Jacobian's penalty or without."""
        counter = operations_counter()
        counter.mod_tracker = NoModules()
        with counter, torch.set_grad_enabled(self.model.training):
            output = self.model(self.tokens, self.targets, self.memory, self.depth)
            loss = output.nll.mean() + (output.solve.jacobian_loss if charged else 0)
            if self.model.training:
                loss.backward()
        return counter.get_total_flops()

    def kept(self) -> float:
        """Floating-point entries that autograd keeps of a forward pass, beside parameters."""
        parameters = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        kept: dict[int, Any] = {}  # the storages themselves, so that no address is used twice

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if tensor.is_floating_point() and storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.model(self.tokens, self.targets, self.memory, self.depth)
        return sum(storage.nbytes() for storage in kept.values()) / NUMBER

    def parts(self) -> list[Part]:
        if self.model.training:
            return training_parts(self.cost, self.depth, Work())
        return evaluation_parts(self.cost, self.depth)

    def predicted(self) -> float:
        """The same by the formulas."""
        return sum(part.work.flops for part in self.parts())
