"""The engine: equilibria of maps as layers of PyTorch models.

Its files import each other relatively, so that the folder is a package under two names: `modules` for the scripts of
this repository, `deqlib` where it was installed with pip.
"""

from .anderson import Anderson
from .arguments import add_arguments, settings_from
from .broyden import Broyden
from .deq import DEQModule
from .fixed_point import FixedPoint
from .jacobian import jacobian_loss, spectral_radius
from .normalisation import normalise, plain
from .optimizations import variational_mask
from .report import SolveInfo, SolveReport, Termination
from .solver import Solver
from .solvers import SOLVERS
from .starts import mixed_start
from .state import unpacked
from .trajectory import weighted_loss

__all__ = [
    "SOLVERS",
    "Anderson",
    "Broyden",
    "DEQModule",
    "FixedPoint",
    "SolveInfo",
    "SolveReport",
    "Solver",
    "Termination",
    "add_arguments",
    "jacobian_loss",
    "mixed_start",
    "normalise",
    "plain",
    "settings_from",
    "spectral_radius",
    "unpacked",
    "variational_mask",
    "weighted_loss",
]
