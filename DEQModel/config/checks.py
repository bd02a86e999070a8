"""What settings must satisfy before anything is loaded or built, in one place."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch

from config.cost_settings import HERE
from config.parser import check_ranges
from config.run_settings import NO_NAME
from config.settings import Settings
from system.errors import UserError
from system.flag import Flag, defaults_of, flags_of

PLAIN_NAME = re.compile(r"(?!\.{1,2}$)[^/\\\0]+")
LONGEST_NAME = 200  # bytes; file systems allow 255, and a number may be appended


def check(settings: Settings, flags: Mapping[str, Flag], defaults: Mapping[str, Any]) -> None:
    """Refuse settings that make no sense, alone or together.

    Raises:
        UserError: one line with the flag, its value and the remedy.
    """
    check_ranges(dataclasses.asdict(settings), flags)
    _check_run(settings)
    check_needs(settings, flags, defaults)


def _check_run(settings: Settings) -> None:
    if settings.batch_chunk > settings.batch_size:
        raise UserError(
            f"--batch_chunk {settings.batch_chunk} is more than --batch_size {settings.batch_size}: "
            "a chunk needs at least one sequence"
        )
    if not settings.train_thres and settings.rand_f_thres_delta >= max(settings.f_thres, 1):
        raise UserError(
            f"--rand_f_thres_delta {settings.rand_f_thres_delta} is not below --f_thres {settings.f_thres}: a solve "
            "needs at least one step"
        )
    computes = not settings.cost or settings.cost_machine == HERE
    if settings.cuda and computes and not torch.cuda.is_available():
        raise UserError(
            "--cuda: PyTorch sees no GPU here; leave --cuda out to run on the CPU, or pass --no-cuda where a run's "
            "settings have it, or install a driver and a CUDA build of PyTorch"
        )
    _check_weights_source(settings)
    if not settings.eval and settings.start_train_steps >= settings.max_step:
        raise UserError(
            f"--start_train_steps {settings.start_train_steps} leaves nothing to train with --max_step "
            f"{settings.max_step}: raise --max_step or pass --eval"
        )
    if settings.name != NO_NAME and not _is_plain_name(settings.name):
        raise UserError(
            f"--name is {_shortened(settings.name)!r}: pass a plain folder name without slashes, of printable "
            f"characters and at most {LONGEST_NAME} bytes"
        )


def _is_plain_name(name: str) -> bool:
    return PLAIN_NAME.fullmatch(name) is not None and name.isprintable() and len(name.encode()) <= LONGEST_NAME


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else f"{text[:40]}… ({len(text)} characters)"


def _check_weights_source(settings: Settings) -> None:
    if settings.eval and not (settings.load or settings.restart_dir):
        raise UserError("--eval has nothing to evaluate: pass --load FILE.pkl or --restart_dir FOLDER")
    if settings.restart and not settings.restart_dir:
        raise UserError("--restart needs --restart_dir: pass the folder of the run to start from")
    if settings.restart and settings.debug and not settings.eval:
        raise UserError("--restart goes on in the run's folder, which --debug would not write: leave one of them out")
    if settings.restart_dir and not (settings.restart or settings.eval):
        raise UserError(
            f"--restart_dir {settings.restart_dir} does nothing without --restart or --eval: add one of them"
        )
    if settings.load and settings.restart_dir:
        raise UserError(f"--load {settings.load} and --restart_dir {settings.restart_dir} both name weights: pass one")


def check_needs(settings: Any, flags: Mapping[str, Flag], defaults: Mapping[str, Any]) -> None:
    """Refuse settings that have no effect without others, where they are not at their defaults.

    Raises:
        UserError: one line with the flag, its value and the remedy.
    """
    for name, flag in flags.items():
        value = getattr(settings, name)
        for need in flag.needs:
            if value in (defaults[name], ()) or need.is_there(settings):
                continue
            words = value if isinstance(value, tuple) else () if value is True else (value,)
            given = " ".join([flag.option(name), *map(str, words)])
            raise UserError(f"{given} has no effect without {need.what}: add that or leave the flag out")


def notes(settings: Settings, n_gpus: int, n_processes: int) -> list[str]:
    """Remarks on settings that are allowed but do not do all that their names promise here.

    Args:
        n_gpus: number of GPUs that PyTorch sees.
        n_processes: that train together.
    """
    remarks = []
    if settings.multi_gpu and n_processes == 1:
        device = "one GPU" if settings.cuda else "the CPU"
        remarks.append(f"note: --multi_gpu: {_why_one_device(settings, n_gpus)}, so this run uses {device}")
    if settings.gpu0_bsz != -1 and n_processes == 1:
        remarks.append(f"note: --gpu0_bsz {settings.gpu0_bsz} is ignored: it means something only in several processes")
    others = settings.batch_size - settings.gpu0_bsz
    if settings.gpu0_bsz != -1 and n_processes > 1 and others > 2 * settings.gpu0_bsz * (n_processes - 1):
        remarks.append(
            f"note: --gpu0_bsz {settings.gpu0_bsz} leaves {others} sequences to {n_processes - 1} other process(es), "
            "for which the first will wait; leave it out for even shares"
        )
    if not settings.eval:
        remarks += _at_odds(settings) + _of_no_use(settings)
    if n_gpus and not settings.cuda:
        remarks.append("note: there is a GPU; --cuda would use it")
    if settings.eval and settings.evaluates_shallow and settings.pretrain_steps:
        remarks.append(
            f"note: --pretrain_steps {settings.pretrain_steps} makes this a shallow evaluation; pass "
            "--pretrain_steps 0 to evaluate the equilibrium"
        )
    return remarks


def _at_odds(settings: Settings) -> list[str]:
    flags = flags_of(settings)
    remarks = []
    for name, flag in flags.items():
        if flag.note is not None and flag.note.at_odds(settings):
            names = (name, flag.note.beside) if flag.note.beside else (name,)
            given = " and ".join(f"{flags[name].option(name)} {getattr(settings, name)}" for name in names)
            remarks.append(f"note: {given}: {flag.note.consequence}")
    return remarks


def _of_no_use(settings: Settings) -> list[str]:
    flags, defaults = flags_of(settings), defaults_of(settings)
    given = {name: getattr(settings, name) for name in flags if getattr(settings, name) != defaults[name]}
    return [
        f"note: {flags[name].option(name)} {value} has no effect without {flags[name].serves.what}"
        for name, value in given.items()
        if flags[name].serves and not flags[name].serves.is_there(settings)
    ]


def _why_one_device(settings: Settings, n_gpus: int) -> str:
    if n_gpus == 0:
        return "PyTorch sees no GPU"
    if not settings.cuda:
        return "--cuda is not given"
    return "there is a single GPU" if n_gpus == 1 else "it is started as the only process"
