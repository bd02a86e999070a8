"""The penalty on the equilibrium's Jacobian, in some of the updates."""

from __future__ import annotations

import random
from functools import partial

from torch import Tensor

from modules.depth import Depth
from modules.deq import DEQModule
from modules.report import SolveInfo
from synthetic.settings import Settings

RISE = 0.1  # of the weight, every `jac_incremental` updates


class JacobianPenalty:
    """weight · ‖vᵀJ‖² / numel, with probability `jac_loss_freq`, where the settings ask for it.

    Source: Bai, Koltun and Kolter, arXiv 2106.14342.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._random = random.Random(settings.seed)

    def watching(self, depth: Depth) -> Depth:
        """The depth of an update, with the penalty or without."""
        settings = self.settings
        if settings.jac_loss_weight == 0 or not isinstance(depth, DEQModule):
            return depth
        return partial(depth, jacobian_samples=settings.jac_samples * (self._random.random() < settings.jac_loss_freq))

    def of(self, solve: SolveInfo | None, step: int) -> Tensor | float:
        """What an update adds to its loss."""
        settings = self.settings
        if solve is None or solve.jacobian_loss is None:
            return 0.0
        risen = step // settings.jac_incremental if settings.jac_incremental else 0
        return (settings.jac_loss_weight + RISE * risen) * solve.jacobian_loss
