"""Which settings a run that goes on takes from before, which may change, and which may not."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from config.settings import NO_NAME, Settings, flags_of
from system.errors import UserError

# Of a call, not of the run: never taken from before, and free to change.
OF_THE_CALL = ("cuda", "multi_gpu", "gpu0_bsz", "eval", "load", "restart", "restart_dir", "sweep", "debug")
PLACES = ("data", "load", "restart_dir")
FIXED = {
    "the weights have its shape": (
        *("n_head", "d_head", "d_embed", "d_model", "d_inner"),
        *("not_tied", "adaptive", "cutoffs", "div_val", "wnorm", "pre_lnorm", "attn_type"),
    ),
    "the corpus has its numbering": ("dataset",),
    "the optimizer's state is its own": ("optim",),
    "the position in the text and the memory count its rows": ("batch_size",),
    "it had its effect when the run began": (
        *("init", "emb_init", "init_range", "emb_init_range", "init_std", "proj_init_std", "start_train_steps"),
    ),
    "the run goes on in its own folder": ("name", "work_dir"),
}


def completed(before: Mapping[str, Any], folder: str) -> tuple[dict[str, Any], list[str]]:
    """The settings of an earlier run, with defaults for those that its program lacked, and a line on each of these.

    Raises:
        UserError: it has settings that this program does not know, and so would not follow.
    """
    flags = flags_of(Settings)
    unknown = sorted(before.keys() - flags.keys())
    if unknown:
        raise UserError(
            f"--restart_dir {folder}: the run has settings that this program does not know ({', '.join(unknown)}): go "
            "on with the program that wrote its checkpoint, or start a new run from its weights with --load"
        )
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    newer = {flags[name].option(name): defaults[name] for name in defaults if name not in before}
    remarks = [f"note: the run's program had no {flag}: it goes on with the default, {newer[flag]}" for flag in newer]
    return {**defaults, **before}, remarks


def inherited(before: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an earlier run, completed, that hold where the command line does not name them."""
    kept = {name: value for name, value in before.items() if name not in OF_THE_CALL}
    return {**kept, "cutoffs": kept["cutoffs"] or None}


def without_places(settings: Settings) -> dict[str, Any]:
    """The settings that several processes must share; files may lie in different places on their machines."""
    return {name: value for name, value in vars(settings).items() if name not in PLACES}


def changes(before: Mapping[str, Any], now: Settings, step: int) -> list[str]:
    """A line on each setting that has changed, and one where the folder seems to be another run's.

    Args:
        before: settings of the run that goes on.
        now: those it goes on with.
        step: that it goes on from.

    Raises:
        UserError: settings that a run cannot change, all of them in one line.
    """
    flags = flags_of(now)
    changed = {
        flags[name].option(name): (before[name], value, _why_fixed(name))
        for name, value in vars(now).items()
        if name not in OF_THE_CALL and value != before[name]
    }
    refused = [f"{flag} {was} to {new} ({why})" for flag, (was, new, why) in changed.items() if why]
    if refused:
        raise UserError(
            f"--restart cannot change {'; '.join(refused)}: leave these flags out, or start a new run, from weights "
            "with --load"
        )
    if now.max_step < step:
        raise UserError(f"--max_step {now.max_step} lies before step {step}, which the run has reached: raise it")
    told = [f"changed: {flag} is {new}, was {was}" for flag, (was, new, _) in changed.items()]
    name, folder = before["name"], os.path.basename(os.path.realpath(now.restart_dir))
    if name != NO_NAME and folder != name and not folder.startswith(f"{name}-"):
        told.append(f"warning: the checkpoint in {now.restart_dir} is of a run that was named {name}")
    return told


def _why_fixed(name: str) -> str | None:
    return next((why for why, names in FIXED.items() if name in names), None)
