"""Folders of runs as the training script leaves them, written by hand."""

import json
from pathlib import Path

from runs.curves import Curves


def written(folder: Path, *, results: dict | None = None, last: int = 20, **settings) -> Path:
    """The folder of a run of 20 updates, 8 of them shallow, with a validation every 4."""
    folder.mkdir(parents=True)
    settings = {"start_train_steps": 0, "pretrain_steps": 8, "name": folder.name, "cutoffs": [8, 16]} | settings
    (folder / "settings.json").write_text(json.dumps({"settings": settings, "environment": {"torch": "2.13"}}))
    curves = Curves(folder)
    for step in range(1, last + 1):
        points = {"train/loss": 5 - step / 10, "train/seconds": 2.0 * step, "train/tokens_per_second": 1234.0}
        if step > 8:
            points |= {f"{kind}/steps": 10.0 for kind in ("forward", "backward")}
            points |= {f"{kind}/residual": 1e-3 for kind in ("forward", "backward")}
        if step % 4 == 0:
            points |= {"valid/perplexity": {4: 120.0, 8: 80.0, 12: 110.0, 16: 90.0}.get(step, 95.0)}
            points |= {f"probe/residual_after_{n}": 1 / n for n in (1, 2, 9) if step > 8}
        curves.scalars(points, step)
    curves.close()
    (folder / "log.txt").write_text("25 words, 725 tokens for training, 1,065 parameters, on cpu\n")
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    return folder
