"""Settings that train a model on a task, where the command line does not say others.

Widths give about 14K parameters for copy memory (the TCN 16K) and about 80K for the tasks that need depth.
"""

from typing import Any

OF_DEQS = {"solver": "broyden", "f_thres": 16, "b_thres": 16}  # on all tasks
COPY_MEMORY = {"n_train": 20000}

RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    # Six applications bring the state so near to the equilibrium that the solves go on where the shallow stage ends.
    ("copy_memory", "deq_transformer"): COPY_MEMORY
    | {"n_layer": 6, "pretrain_steps": 1200, "max_step": 1800, "batch_size": 8}
    | {"f_thres": 12, "b_thres": 12, "b_eps": 0.01},
    ("copy_memory", "deq_trellisnet"): COPY_MEMORY
    # An application carries a state one position on, so that no threshold of any use sees T positions back: it guesses.
    | {"d_model": 36, "kernel_size": 2, "n_layer": 12, "pretrain_steps": 500, "max_step": 1000, "batch_size": 8}
    | {"lr": 0.01, "f_thres": 12, "b_thres": 12},
    ("copy_memory", "stack"): COPY_MEMORY | {"d_model": 20, "d_inner": 56, "n_layer": 3},
    ("copy_memory", "tcn"): COPY_MEMORY | {"d_model": 11, "n_layer": 8, "kernel_size": 8},
    ("copy_memory", "lstm"): COPY_MEMORY | {"d_model": 52, "n_layer": 1},
    ("copy_memory", "gru"): COPY_MEMORY | {"d_model": 60, "n_layer": 1},
}
