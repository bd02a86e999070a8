"""The settings that make a DEQ-Transformer language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from system.errors import UserError
from utils.adaptive_embedding import check_bins

OUT_DROPOUTS = ("position", "channel")
EQUILIBRIUM_SETTINGS = (  # which DEQModule knows under the same names
    "solver",
    "b_solver",
    "f_thres",
    "b_thres",
    "f_eps",
    "b_eps",
    "stop_mode",
    "b_stop_mode",
    "stop_scope",
    "grad",
    "phantom_steps",
    "phantom_damping",
    "b_init",
)
FREE_SETTINGS = (  # may differ between models of the same parameters
    *EQUILIBRIUM_SETTINGS,
    "rand_f_thres_delta",
    "f_history",
    "anderson_ridge",
    "mem_len",
    "local_size",
    "same_length",
)


@dataclass(frozen=True)
class DEQTransformerConfig:
    """Shapes, regularisation and solver settings; field names are those of the flags.

    Attributes:
        n_token: V, size of the vocabulary.
        n_head, d_head, d_model: H, E and D, with H·E = D and D even.
        d_inner: F, width of the feed-forward layer.
        d_embed: width of the first bin's embeddings.
        cutoffs: first word ids of the softmax's further bins; empty for a plain softmax.
        div_val: bin i has embeddings of width d_embed // div_val^i.
        tied: embedding and softmax share their weights.
        dropout, dropatt: rates; `dropatt` is that of the attention weights.
        out_dropout: what the output dropout drops whole: "position" or "channel".
        pre_lnorm, wnorm: layer norm before the sublayers; weight normalisation in the cell.
        mem_len: positions remembered from one segment to the next.
        local_size: attention horizon in positions, 0 for none.
        same_length: every query attends over the same number of keys, `mem_len` of them.
        solver, b_solver, f_thres, b_thres, f_eps, b_eps, stop_mode, b_stop_mode, stop_scope, grad, phantom_steps,
        phantom_damping, b_init: see `modules.deq.DEQModule`.
        rand_f_thres_delta: its `f_thres_delta`.
        f_history: updates that a Broyden estimate is made of; None for all.
        anderson_ridge: Anderson's absolute ridge; None for a relative one.

    Raises:
        UserError: settings that contradict each other, naming the flags.
    """

    n_token: int
    n_head: int
    d_head: int
    d_model: int
    d_inner: int
    d_embed: int
    cutoffs: tuple[int, ...] = ()
    div_val: int = 1
    tied: bool = True
    dropout: float = 0.0
    dropatt: float = 0.0
    out_dropout: str = "position"
    pre_lnorm: bool = False
    wnorm: bool = False
    mem_len: int = 0
    local_size: int = 0
    same_length: bool = False
    solver: str = "anderson"
    stop_mode: str = "rel"
    f_thres: int = 50
    b_thres: int = 80
    f_eps: float = 1e-3
    b_eps: float = 1e-3
    b_solver: str | None = None
    b_stop_mode: str = "rel"
    stop_scope: str = "batch"
    grad: str = "implicit"
    phantom_steps: int = 5
    phantom_damping: float = 0.5
    b_init: str = "zero"
    rand_f_thres_delta: int = 0
    f_history: int | None = None
    anderson_ridge: float | None = None

    def __post_init__(self) -> None:
        if self.n_head * self.d_head != self.d_model:
            raise UserError(
                f"--n_head {self.n_head} times --d_head {self.d_head} is {self.n_head * self.d_head}, but --d_model is "
                f"{self.d_model}: the product must equal --d_model"
            )
        if self.d_model % 2:
            raise UserError(f"--d_model is {self.d_model}: pass an even width, as positions are sines and cosines")
        if self.out_dropout not in OUT_DROPOUTS:
            raise UserError(f"--out_dropout is {self.out_dropout!r}: choose one of {', '.join(OUT_DROPOUTS)}")
        if self.same_length and self.mem_len == 0:
            raise UserError("--same_length needs a memory, but --mem_len is 0: pass a --mem_len above 0")
        check_bins(self.n_token, self.cutoffs, self.d_embed, self.div_val)

    def equilibrium_settings(self) -> dict[str, Any]:
        """The arguments of `DEQModule`."""
        options: dict[str, dict[str, Any]] = {
            "broyden": {"history": self.f_history},
            "anderson": {"lam": self.anderson_ridge},
        }
        return {name: getattr(self, name) for name in EQUILIBRIUM_SETTINGS} | {
            "f_thres_delta": self.rand_f_thres_delta,
            "f_options": options.get(self.solver),
            "b_options": options.get(self.b_solver or self.solver),
        }

    @property
    def horizon(self) -> int:
        """Keys that a query may attend over, itself included; 0 for all.

        With `same_length` these are `mem_len` ones: the query at the start of a segment sees no more than that.
        """
        limits = [size for size in (self.local_size, self.mem_len if self.same_length else 0) if size > 0]
        return min(limits, default=0)
