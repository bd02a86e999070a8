"""The folder of a run: no two runs get the same."""

import time
from itertools import count
from pathlib import Path

from config.run_settings import NO_NAME
from config.settings import Settings
from system.errors import UserError


def make_run_folder(settings: Settings) -> Path:
    """A new folder `<work_dir>deq-<dataset>/<timestamp or name>`, with -2, -3, … appended where that exists.

    The folder is created in one atomic step, so that two runs never share one, however close they start.

    Raises:
        UserError: the folder cannot be created.
    """
    name = time.strftime("%Y%m%d-%H%M%S") if settings.name == NO_NAME else settings.name
    parent = Path(f"{settings.work_dir}deq-{settings.dataset}")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise UserError(
            f"--work_dir {settings.work_dir}: cannot create a run folder in {parent} ({error.strerror}): "
            "pass a place that you may write to"
        ) from error
    raise AssertionError("count() does not end")
