"""The code in DEQModel/models/README.md runs and does what the page says."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "DEQModel" / "models" / "README.md"


def test_code_of_the_page_runs_and_trains(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    names = {}
    exec(compile("\n".join(blocks), str(README), "exec"), names)
    assert names["loss"].item() < 0.3  # guessing gives 0.69
    out = capsys.readouterr().out
    assert out.count("the residual fell below eps") == 2
    assert len(list(names["model"].deq.parameters())) == 0
