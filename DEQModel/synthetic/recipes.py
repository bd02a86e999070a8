"""Settings that train a model on a task, where the command line does not say others.

Widths give about 14K parameters for copy memory (the TCN 16K). Those of the tasks that need depth give about 80K to the
DEQ-Transformer and to the stack; the other models are as the flags' defaults make them.
"""

from typing import Any

OF_DEQS = {"solver": "broyden", "f_thres": 16, "b_thres": 16}  # on all tasks
COPY_MEMORY = {"n_train": 20000}
NEEDS_DEPTH = {"d_model": 64, "n_head": 4, "init_std": -1.0, "not_tied": True} | {
    "optim": "Muon",
    "lr": 0.01,
    "adam_ratio": 0.3,
    "scheduler": "trapezoid",
    "warmup_step": 30,
    "max_step": 300,
}
# From 1 to 23 plain steps without a graph, then 6 with one: the state learns to stay right however long it is iterated.
STAYS_RIGHT = {"solver": "fixed_point", "f_thres": 12, "rand_f_thres_delta": 11, "test_solver": "broyden"} | {
    "grad": "phantom",
    "phantom_steps": 6,
    "phantom_damping": 1.0,
}
P_HOP = NEEDS_DEPTH | {"seq_len": 64, "p": 8, "batch_size": 16, "n_test": 48}
STATE_TRACKING = NEEDS_DEPTH | {"seq_len": 32, "batch_size": 32, "n_test": 64}

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
    ("p_hop", "deq_transformer"): P_HOP | STAYS_RIGHT | {"d_inner": 352},
    ("p_hop", "stack"): P_HOP | {"n_layer": 3, "d_inner": 44},
    ("state_tracking", "deq_transformer"): STATE_TRACKING | STAYS_RIGHT | {"d_inner": 272},
    ("state_tracking", "stack"): STATE_TRACKING | {"n_layer": 3, "d_inner": 16},
}
