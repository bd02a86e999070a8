"""--cost: what it prints, for whom, and what it refuses."""

import re

import pytest
import torch
from tiny_run import COURSE, LENGTHS, MODEL, call, write_corpus
from tiny_trained import call_program

import train_trellisnet
from costs import calibration
from costs.machine import GPUS, Machine
from modules.cost import Work

WT103 = "--adaptive --div_val 4 --wnorm --n_head 10 --d_head 70 --d_model 700 --d_inner 48000 --solver broyden"
SIZES = f"{MODEL} {LENGTHS} {COURSE}"
V100 = "--cost --cost_machine v100"


def rows(text: str, name: str) -> list[list[str]]:
    """The figures of all lines that begin with a name."""
    return [line.removeprefix(name).split() for line in text.splitlines() if line.startswith(name)]


def seconds(text: str) -> list[float]:
    """Of each step."""
    return [float(cells[-1]) for cells in rows(text, "all ") if len(cells) == 3]


def test_a_published_configuration_without_its_corpus(tmp_path):
    outcome = call(f"--data {tmp_path} {WT103} {V100} --batch_size 64 --pretrain_steps 9 --n_layer 2")
    assert (outcome.status, outcome.err) == (0, "")
    assert "DEQ-Transformer, 267,735 words (as wt103 has; how often which: by Zipf's law), 97.7 M" in outcome.out
    assert "an update from step 0 on, 2 applications of f: 64 x 150 tokens" in outcome.out
    assert "an update from step 9 on, equilibrium (implicit gradient): 64 x 150 tokens" in outcome.out
    assert rows(outcome.out, "f in the solve ")[0][0] == "51"
    assert rows(outcome.out, "vjp of f in the backward solve ")[0][0] == "81"
    scaled = re.findall(r"^(\d+) +(\d+) +[\d.]+ +[\d.]+ +[\d,]+ +(\d+)% +[\d.]+", outcome.out, re.MULTILINE)
    assert [(n, n_rows) for n, n_rows, _ in scaled] == [(str(2**i), str(2 ** (6 - i))) for i in range(7)]
    efficiencies = [int(efficiency) for *_, efficiency in scaled]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert 100 == efficiencies[0] > efficiencies[-1] > 0
    assert list(tmp_path.iterdir()) == []


def test_words_are_counted_where_there_is_a_corpus(tmp_path):
    write_corpus(tmp_path)
    outcome = call(f"--data {tmp_path} --dataset text {SIZES} {V100}")
    assert outcome.status == 0, outcome.err
    assert f"25 words ({tmp_path}; how often which: counted)" in outcome.out


def test_effects_of_the_flags(tmp_path):
    base = f"--data {tmp_path} {SIZES} {V100}"

    def out(flags: str = "") -> str:
        outcome = call(f"{base} {flags}")
        assert outcome.status == 0, outcome.err
        return outcome.out

    plain = out()
    assert "1,000 words (as given" in out("--cost_vocabulary 1000")
    # so small a model waits for its operations to be started, but not where the machine is a thousand times slower
    assert seconds(out("--cost_flops 0.001"))[0] > 10 * seconds(plain)[0]
    assert seconds(out("--cost_bandwidth 0.001"))[0] > 10 * seconds(plain)[0]
    assert "A100" in out("--cost_machine a100")
    communicating = [float(rows(text, "2 ")[0][2]) for text in (plain, out("--cost_link 0.1"))]
    assert communicating[1] > 10 * communicating[0]
    assert "\nf  " in plain
    assert out("--batch_chunk 2") != plain
    assert "Jacobian penalty" in out("--jac_loss_weight 1")
    assert "Jacobian penalty" not in plain
    assert "f, computed twice" in out("--grad unroll")
    assert "an update from step 2 on" in out("--pretrain_steps 2")


def test_this_machine_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "MATRIX", 64)
    monkeypatch.setattr(calibration, "ENTRIES", 2**12)
    outcome = call(f"--data {tmp_path} {SIZES} --cost")
    assert outcome.status == 0, outcome.err
    assert re.search(r"this machine: [\d,]+ GFLOP/s in float32, [\d,.]+ GB/s, [\d.]+ us", outcome.out)
    assert "on several GPUs" not in outcome.out


def test_a_trellisnet(tmp_path):
    flags = f"--data {tmp_path} --dataset ptb --d_embed 8 --nhid 6 --nout 8 --batch_size 4 {V100} --solver broyden"
    outcome = call_program(train_trellisnet.main, flags.split())
    assert outcome.status == 0, outcome.err
    assert "DEQ-TrellisNet, 10,000 words (as ptb has" in outcome.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dataset text --cost", "the number of words is unknown.* pass --cost_vocabulary N"),
        ("--cost_vocabulary 9", "--cost_vocabulary 9 has no effect without --cost"),
        ("--cost_machine h100", "--cost_machine h100 has no effect without --cost"),
        ("--cost --cost_machine abacus", "invalid choice: 'abacus'"),
        ("--cost --cost_vocabulary 50 --optim Muon", "--cost: there are no formulas for --optim Muon"),
        ("--cost --cost_vocabulary 50 --cell_layers 2", "--cost: there are no formulas for --cell_layers 2: leave it"),
        ("--cost --cost_flops 0", "--cost_flops is 0.0: pass a finite number above 0"),
        ("--cost --cost_vocabulary 50 --adaptive --cutoffs 60", "--cutoffs are 60, but the vocabulary has 50 words"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, flags, message):
    outcome = call(f"--data {tmp_path} {SIZES} {flags}")
    assert outcome.status == 2
    assert re.search(message, outcome.err)
    assert outcome.err.count("\n") == 1


def test_a_gpu_may_be_asked_about_without_one(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert call(f"--data {tmp_path} {SIZES} {V100} --cuda").status == 0
    assert "--cuda: PyTorch sees no GPU" in call(f"--data {tmp_path} {SIZES} --cost --cuda").err


def test_a_machine_computes_moves_and_starts():
    slow = Machine("", flops=1e9, bandwidth=1e6, call=1e-3, waits=True)
    assert slow.seconds(Work(flops=3e9, streamed=1e6, moved=2e6, calls=5)) == pytest.approx(3 + 2 + 0.005)
    assert slow.seconds(Work(flops=1e9, streamed=4e6)) == pytest.approx(4)
    queued = Machine("", flops=1e9, bandwidth=1e6, call=1e-3, waits=False)
    assert queued.seconds(Work(flops=1e9, calls=100)) == pytest.approx(1)
    assert queued.seconds(Work(calls=100)) == pytest.approx(0.1)
    assert all(gpu.link > gpu.network > 0 and gpu.memory > 0 for gpu in GPUS.values())
