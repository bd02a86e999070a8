"""A trained model as one self-contained folder: for sharing, and for the programs that use it."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from config.flags import CommandLine
from config.run_settings import IN_ITS_FOLDER
from evaluation.report import EvaluationReport
from evaluation.trained_model import TrainedModel
from models.size import Size
from runs.experiment import RESULTS_FILE, SETTINGS_FILE, VOCABULARY_FILE, WEIGHTS_FILE
from runs.saved_model import ModelDescription, beside
from sharing.model_card import ModelCard
from system.errors import UserError
from system.flag import OF_THE_CALL
from system.json_file import read_json, write_json
from system.state_dicts import save_state_dict
from system.tensor_files import archive_signature

SAFETENSORS_FILE = "model.safetensors"
CARD_FILE = "README.md"
OF_THE_MACHINE = ("host", "command")  # nobody else's business
N_WORDS_OF_PROMPT = 3
SPLITS = ("valid", "test")
REMEDY = "pass the folder of a run as its training left it"


@dataclass(frozen=True)
class Export:
    """What has been exported: the folder, and remarks for the one who did it."""

    folder: Path
    remarks: tuple[str, ...]


def export(program: str, run: str, out: str) -> Export:
    """Make a folder of a run's model that needs nothing else.

    It appears when it is complete. Of the run's settings those of a place or of one call stay behind.

    Args:
        program: its name, before messages.
        run: the run's folder.
        out: the folder to make; there is none, or an empty one.

    Raises:
        UserError: the run has no model that can be used, or the folder cannot be made.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{out} is there already: pass a folder that is not")
    trained = TrainedModel.load(program, run=run)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=target.parent) as making:
            new = Path(making, "new")
            new.mkdir()
            remarks = _fill(new, Path(run), trained, target.name)
            if target.exists():
                target.rmdir()
            new.rename(target)
    except OSError as error:
        raise UserError(
            f"{out} cannot be made ({error.strerror or error}): pass a place that you may write to"
        ) from error
    return Export(target, (*trained.remarks, *remarks))


def _fill(folder: Path, run: Path, trained: TrainedModel, name: str) -> list[str]:
    state = trained.model.state_dict()
    command, remarks = trained.command, []
    files = {WEIGHTS_FILE: "the weights, a PyTorch state dict"}
    save_state_dict(state, folder / WEIGHTS_FILE)
    description = ModelDescription.beside(run / WEIGHTS_FILE) or ModelDescription.of(
        command.spec.name, trained.settings, trained.vocab, trained.settings.evaluated_applications
    )
    description.write(folder / WEIGHTS_FILE)
    files[beside(WEIGHTS_FILE).name] = "what the weights do not show of the model"
    if _write_safetensors(state, folder / SAFETENSORS_FILE):
        files[SAFETENSORS_FILE] = "the same weights, in the safetensors format"
    else:
        remarks.append(
            f"note: {SAFETENSORS_FILE} is left out: pip install -r requirements-extra.txt brings the package"
        )
    trained.vocab.write(folder / VOCABULARY_FILE)
    files[VOCABULARY_FILE] = "the words, one a line, in the order of their ids"
    about = _about(run, command)
    write_json(folder / SETTINGS_FILE, about)
    files[SETTINGS_FILE] = "the settings of the run, and what it was made with"
    reports, why_none = _reports(run)
    if reports:
        results = read_json(run / RESULTS_FILE, REMEDY)
        write_json(folder / RESULTS_FILE, {**results, "weights": archive_signature(folder / WEIGHTS_FILE)})
        files[RESULTS_FILE] = "all figures"
    else:
        remarks.append(f"note: {why_none}: the model card has no figures")
    card = ModelCard(
        name=name,
        kind=command.spec.name,
        program=command.spec.program,
        is_equilibrium=command.spec.is_equilibrium,
        n_parameters=Size.of(trained.model).whole,
        n_words=len(trained.vocab),
        rule=trained.rule,
        sentence=" ".join(trained.vocab.words[1 : 1 + N_WORDS_OF_PROMPT]),
        model=trained.in_words,
        has_unknown=trained.vocab.unk_id is not None,
        reports=reports,
        environment=about["environment"],
        files=files,
    )
    (folder / CARD_FILE).write_text(str(card), encoding="utf-8")
    return remarks


def _about(run: Path, command: CommandLine) -> dict[str, Any]:
    """What settings.json holds, without what is of one machine or one call."""
    path = run / SETTINGS_FILE
    content = read_json(path, REMEDY) if path.exists() else {}
    settings, made_with = content.get("settings", content), content.get("environment", {})
    made_with = made_with if isinstance(made_with, dict) else {}
    kept = {name: value for name, value in settings.items() if _is_of_model(name, command)}
    made_with = {key: value for key, value in made_with.items() if key not in OF_THE_MACHINE}
    return {"model": command.spec.name, "environment": made_with, "settings": kept}


def _is_of_model(name: str, command: CommandLine) -> bool:
    flag = command.flags[name]
    return not flag.is_place and flag.fixed not in (OF_THE_CALL, IN_ITS_FOLDER)


def _reports(run: Path) -> tuple[list[EvaluationReport], str]:
    """The figures of a run's model; or none, and why."""
    path = run / RESULTS_FILE
    if not path.exists():
        return [], f"{run} has no {RESULTS_FILE}"
    results = read_json(path, REMEDY)
    if results.get("weights") not in (None, archive_signature(run / WEIGHTS_FILE)):
        return [], f"{path} is of other weights"
    try:
        reports = [EvaluationReport.of(results[split]) for split in SPLITS]
        "".join(map(str, reports))  # what is no number has no digits
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} cannot be understood (no figures of {' and '.join(SPLITS)}): {REMEDY}") from error
    return reports, ""


def _write_safetensors(state: Mapping[str, Tensor], path: Path) -> bool:
    """Write the weights in that format; false where the package is not installed."""
    try:
        from safetensors.torch import save
    except ImportError:
        return False
    # Tied weights are there twice: the format has no names for one tensor.
    path.write_bytes(save({name: value.detach().cpu().clone() for name, value in state.items()}))
    return True
