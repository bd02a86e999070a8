"""The code in DEQModel/models/README.md runs and does what the page says."""

import re
import sys
import types
from pathlib import Path

import torch

README = Path(__file__).parent.parent / "DEQModel" / "models" / "README.md"


def test_code_of_the_page_runs_and_trains(capsys, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8
    names = {"__name__": "models_readme"}
    monkeypatch.setitem(sys.modules, "models_readme", types.ModuleType("models_readme"))  # where dataclasses look
    exec(compile("\n".join(blocks), str(README), "exec"), names)
    assert names["loss"].item() < 0.3  # guessing gives 0.69
    out = capsys.readouterr().out
    assert out.count("the residual fell below eps") == 2
    assert "0 of 256 did not converge" in out
    assert len(list(names["model"].deq.parameters())) == 0
    assert names["h"].shape == names["c"].shape == (256, 16)
    assert {name for name, _ in names["layer"].named_parameters()} == {"weight", "bias"}
    assert names["solve"].forward.n_unconverged == names["solve"].backward.n_unconverged == 0
    torch.testing.assert_close(names["two"], names["z"][[0, 2]], rtol=0, atol=0.01)  # solved to 1e-3 both
    assert all(parameter.grad.any() for parameter in names["lm"].parameters())
