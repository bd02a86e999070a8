"""The sizes that scripts and README tell of the models that the scripts train."""

from dataclasses import dataclass

import pytest
import torch
from scripts import ROOT, copied_to, passed

import train_transformer
import train_trellisnet

COMMANDS = {"transformer": train_transformer.main.args[0], "trellisnet": train_trellisnet.main.args[0]}
N_TOKENS = {"wt103": 267_735, "ptb": 10_000, "ptb_char": 50}


@dataclass(frozen=True)
class Size:
    """Parameters, in millions."""

    whole: float
    map: float  # injection and cell

    @classmethod
    def of(cls, project, script: str, words: str = "") -> "Size":
        """Of the model that a script of `project` trains; no memory is taken for it."""
        command = COMMANDS["trellisnet" if "trellisnet" in script else "transformer"]
        settings = command.parse(passed(project, script, "train", *words.split()))
        with torch.device("meta"):
            model = command.spec.build(command.spec.configure(settings, N_TOKENS[settings.dataset]))
        counted = {name: parameter.numel() for name, parameter in model.named_parameters()}
        of_map = [count for name, count in counted.items() if name.startswith(("trellisnet.", "func.", "inject_conv."))]
        return cls(sum(counted.values()) / 1e6, sum(of_map) / 1e6)


@pytest.mark.parametrize(
    ("script", "words", "told"),
    [
        ("run_wt103_deq_transformer.sh", "", "{0.whole:.1f} M parameters, {0.map:.1f} M in"),
        ("run_wt103_torchdeq_lm.sh", "", "{0.whole:.1f} M parameters, {0.map:.1f} M in"),
        ("run_wt103_deq_trellisnet.sh", "", "{0.whole:.1f} M parameters, {0.map:.1f} M in"),
        ("run_ptb_deq_transformer.sh", "words", "words {0.whole:.1f} M parameters, {0.map:.1f} M in"),
        ("run_ptb_deq_transformer.sh", "chars", "characters {0.whole:.1f} M"),
        ("run_ptb_deq_trellisnet.sh", "words", "words {0.whole:.1f} M parameters, {0.map:.1f} M in"),
        ("run_ptb_deq_trellisnet.sh", "chars", "characters {0.whole:.1f} M"),
    ],
)
def test_a_script_tells_the_size_of_its_model(script, words, told, tmp_path):
    comment = " ".join((ROOT / script).read_text().split("\nset -")[0].replace("\n#", " ").split())
    assert told.format(Size.of(copied_to(tmp_path), script, words)) in comment


def test_the_readme_tells_them_too(tmp_path):
    readme, project = " ".join((ROOT / "README.md").read_text().split()), copied_to(tmp_path)
    assert f"({Size.of(project, 'run_wt103_deq_transformer.sh').whole:.0f} M parameters)" in readme
    wt103 = Size.of(project, "run_wt103_deq_trellisnet.sh")
    assert f"on WikiText-103: {wt103.whole:.1f} M parameters, {wt103.map:.1f} M in" in readme
    for words, unit in (("words", "words"), ("chars", "characters")):
        trellisnet, transformer = (
            Size.of(project, f"run_ptb_deq_{model}.sh", words).whole for model in ("trellisnet", "transformer")
        )
        assert f"{unit} {trellisnet:.1f} M and {transformer:.1f} M" in readme
