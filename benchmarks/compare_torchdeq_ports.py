"""Five models as they are written for torchdeq, solved by torchdeq and by this library, side by side.

For each the largest difference of an output, and of a gradient relative to the gradients' largest entry. With --write
what torchdeq made goes to a file, which `tests/test_torchdeq_ports.py` compares with where torchdeq is not installed.

    pip install --no-deps -r benchmarks/requirements.txt
    PYTHONPATH=DEQModel:tests python benchmarks/compare_torchdeq_ports.py --write tests/golden/torchdeq_ports.npz
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from peer import MISSING, fp_correction, get_deq
from ported_models import GAMMA, MODELS, N_STATES, N_STEPS, Outcome, PortedModel
from torch import Tensor

IMPLICIT = {"ift": True, "f_max_iter": 400, "b_max_iter": 400, "f_tol": 1e-13, "b_tol": 1e-13}
RELATIVE = {"f_stop_mode": "rel", "b_stop_mode": "rel"}
ITERATION = {"f_solver": "fixed_point_iter", "b_solver": "fixed_point_iter"}
BROYDEN = {"f_solver": "broyden", "b_solver": "broyden"}
SAMPLED = {"f_solver": "fixed_point_iter", "n_states": N_STATES, "f_max_iter": N_STEPS, "f_tol": 0.0, "grad": 1}
SETTINGS = {  # of get_deq
    "language_model": IMPLICIT | RELATIVE | BROYDEN,
    "three_tensors": IMPLICIT | RELATIVE | BROYDEN,
    "implicit_graph": IMPLICIT | RELATIVE | ITERATION,
    "multi_scale": IMPLICIT | RELATIVE | ITERATION,
    "sampled_trajectory": SAMPLED,
}


def solved_by_torchdeq(model: PortedModel, settings: dict[str, object]) -> Outcome:
    """The model in torchdeq's hands; its states are a tensor or, of several tensors, a list."""
    deq = get_deq(core="indexing", **settings)
    start = model.start[0] if len(model.start) == 1 else model.start
    solved, _ = deq(model.f, start)
    states = [(state,) if isinstance(state, Tensor) else tuple(state) for state in solved]
    loss = fp_correction(lambda state: model.loss(*state), (states,), weight_func="exp", gamma=GAMMA)
    return Outcome.of(model, states, loss)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="an .npz file for torchdeq's outputs and gradients")
    args = parser.parse_args()
    if MISSING:
        print(MISSING, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray] = {}
    print(f"{'model':20s}{'outputs':>10s}{'gradients':>12s}")
    for name, build in MODELS.items():
        theirs = solved_by_torchdeq(build(), SETTINGS[name])
        of_outputs, of_gradients = build().outcome().differences(theirs)
        print(f"{name:20s}{of_outputs:10.1e}{of_gradients:12.1e}")
        arrays |= theirs.arrays(name)
    if args.write:
        np.savez_compressed(args.write, **arrays)
    return 0


if __name__ == "__main__":
    sys.exit(main())
