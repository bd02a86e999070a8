"""A DEQ-Transformer together with how deep it goes, for tests that look at both."""

from dataclasses import fields
from functools import partial
from typing import Any

from torch import Tensor

from models.protocol import LMOutput
from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM
from modules.depth import Applications
from modules.deq import DEQModule

OF_THE_MODEL = {field.name for field in fields(DEQTransformerConfig)}


class SolvedLM:
    """A language model and its solver; what it does not have itself is the model's.

    Args:
        options: fields of `DEQTransformerConfig` and arguments of `DEQModule`.
    """

    def __init__(self, **options: Any):
        self.model = DEQTransformerLM(
            DEQTransformerConfig(**{key: options[key] for key in options if key in OF_THE_MODEL})
        )
        self.deq = DEQModule(**{key: options[key] for key in options if key not in OF_THE_MODEL})

    def __call__(
        self,
        tokens: Tensor,
        targets: Tensor,
        memory: Any = None,
        *,
        n_layer: int | None = None,
        jacobian_samples: int = 0,
    ) -> LMOutput:
        depth = self.deq if n_layer is None else Applications(n_layer)
        if jacobian_samples:
            depth = partial(depth, jacobian_samples=jacobian_samples)
        return self.model(tokens, targets, memory, depth)

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "deq"):  # not there yet, in a copy that is under way
            raise AttributeError(name)
        return getattr(self.model, name)

    def double(self) -> "SolvedLM":
        self.model.double()
        return self

    def to(self, *where: Any) -> "SolvedLM":
        self.model.to(*where)
        return self

    def train(self, mode: bool = True) -> "SolvedLM":
        self.model.train(mode)
        self.deq.train(mode)
        return self

    def eval(self) -> "SolvedLM":
        return self.train(False)
