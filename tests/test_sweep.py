"""--sweep: the grid, its table, its file."""

import json

import pytest

from config import sweep_grid
from config.flags import CommandLine
from models.transformers.spec import SPEC
from system.errors import UserError

COMMAND = CommandLine("train_transformer.py", SPEC)


def grid(text: str) -> list[dict]:
    return sweep_grid.grid(text, COMMAND.flags, COMMAND.defaults)


def test_grid_is_the_product_in_the_order_given():
    assert grid("f_thres=4,8 mem_len=0,75,9") == [
        {"f_thres": f_thres, "mem_len": mem_len} for f_thres in (4, 8) for mem_len in (0, 75, 9)
    ]
    assert grid("f_eps=1e-2 solver=broyden anderson_ridge=1 stop_scope=batch,sequence") == [
        {"f_eps": 0.01, "solver": "broyden", "anderson_ridge": 1.0, "stop_scope": scope}
        for scope in ("batch", "sequence")
    ]
    assert grid("") == []


def test_what_can_be_swept():
    swept = {name for name, flag in COMMAND.flags.items() if flag.sweeps}
    of_solves = {"f_thres", "f_eps", "solver", "stop_mode", "stop_scope", "f_history", "anderson_ridge"}
    assert swept == of_solves | {"amp", "z_init", "mem_len", "local_size", "eval_tgt_len"}
    with pytest.raises(UserError, match=r"--sweep cannot change 'lr': choose from .*f_thres"):
        grid("lr=1")


def test_a_setting_that_comes_twice_is_refused():
    with pytest.raises(UserError, match="--sweep names f_thres twice"):
        grid("f_thres=4 mem_len=3 f_thres=8")


@pytest.fixture(scope="module")
def swept(run, weights_file):
    return run_with(run, weights_file, "f_thres=2,6 mem_len=0,12", "--name swept")


def run_with(run, weights_file, sweep: str, further: str = ""):
    return run(f"--eval --load {weights_file} {further}", "--sweep", sweep)


def table(outcome) -> list[str]:
    lines = outcome.out.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.lstrip().startswith("f_thres  ")) :]


def test_table_has_a_row_for_every_point(swept):
    header, *rows, last = table(swept)
    assert header.split("  ")[0] == "f_thres"
    assert "--eval_tgt_len 8, 4 rows" in " ".join(swept.out.split()), "what the figures depend on beside what changes"
    assert "--f_thres" not in swept.out
    assert [row.split()[:2] for row in rows] == [["2", "0"], ["2", "12"], ["6", "0"], ["6", "12"]]
    assert len({len(line) for line in (header, *rows)}) == 1, "the columns are aligned"
    assert last.startswith("all figures: ")
    assert all(row.split()[-1].endswith("%") for row in rows)


@pytest.mark.parametrize("place_in_grid", range(4))
def test_every_point_is_the_evaluation_with_its_settings(swept, run, weights_file, place_in_grid, place):
    stored = json.loads((place / "LM-deq-text" / "swept" / "sweep.json").read_text())
    point = stored["points"][place_in_grid]
    changed = point["settings"]
    alone = run(f"--eval --load {weights_file} --f_thres {changed['f_thres']} --mem_len {changed['mem_len']}")
    for split in ("valid", "test"):
        assert f"{split}: perplexity {point[split]['perplexity']:.3f} " in alone.out
        assert (point[split]["threshold"], point[split]["memory"]) == (changed["f_thres"], changed["mem_len"])
    assert f"{point['test']['perplexity']:.2f}" in table(swept)[1 + place_in_grid].split()


def test_length_of_segments_and_solver_can_be_swept(run, weights_file, place):
    run_with(run, weights_file, "eval_tgt_len=3,8 solver=broyden,fixed_point", "--name lengths")
    points = json.loads((place / "LM-deq-text" / "lengths" / "sweep.json").read_text())["points"]
    reports = [point["test"] for point in points]
    assert [(report["segment"], report["solver"]) for report in reports] == [
        (length, solver) for length in (3, 8) for solver in ("broyden", "fixed_point")
    ]
    assert len({report["loss"] for report in reports}) == 4


def test_debug_writes_nothing(run, weights_file, tmp_path):
    outcome = run_with(run, weights_file, "f_thres=2", f"--debug --work_dir {tmp_path}/")
    assert outcome.status == 0, outcome.err
    assert list(tmp_path.iterdir()) == []
    assert outcome.out.splitlines()[-1].startswith("nothing but the cache")


def test_contradicting_point_is_refused_before_anything_is_evaluated(run, weights_file, tmp_path):
    outcome = run_with(run, weights_file, "mem_len=8,0", f"--same_length --work_dir {tmp_path}/")
    assert outcome.status == 2
    assert "perplexity" not in outcome.out
    assert list(tmp_path.iterdir()) == []
    assert "--same_length needs a memory, but --mem_len is 0" in outcome.err
