"""Reports of solves that never took place."""

from modules.report import SolveReport, Termination


def solve_report(
    termination: Termination = Termination.CONVERGED,
    *,
    n_steps: int = 3,
    residual: float = 0.5,
    sequence_residuals: tuple[float, ...] = (1e-4, 1e-4),
) -> SolveReport:
    """A report of `n_steps` steps that ended at this relative residual; eps is 1e-3."""
    return SolveReport(
        termination=termination,
        n_steps=n_steps,
        n_evals=n_steps + 1,
        best_step=n_steps,
        stop_mode="rel",
        stop_scope="batch",
        eps=1e-3,
        abs_residual=2 * residual,
        rel_residual=residual,
        abs_trace=(2.0, 2 * residual),
        rel_trace=(1.0, residual),
        sequence_residuals=sequence_residuals,
        sequence_steps=(n_steps,) * len(sequence_residuals),
        sequence_terminations=(termination,) * len(sequence_residuals),
    )
