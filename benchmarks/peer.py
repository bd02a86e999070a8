"""torchdeq, which engines are compared with, where it is installed; MISSING says how to get it, or is None."""

from __future__ import annotations

import warnings

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        from torchdeq import get_deq
        from torchdeq.loss import fp_correction
        from torchdeq.solver import get_solver

    MISSING = None
except ImportError as error:
    get_deq = fp_correction = get_solver = None
    MISSING = f"torchdeq cannot be imported ({error}): pip install --no-deps -r benchmarks/requirements.txt"

__all__ = ["MISSING", "fp_correction", "get_deq", "get_solver"]
