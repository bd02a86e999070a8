"""--cost: what it prints, for whom, and what it refuses."""

import dataclasses
import re

import pytest
import torch
from costed import operations_counter
from tiny_run import COMMAND, COURSE, LENGTHS, MODEL, call, write_corpus
from tiny_trained import call_program

import train_trellisnet
from costs import calibration
from costs.machine import GPUS, Machine
from costs.run_cost import RunCost
from costs.words import Words
from modules.cost import Work
from system.errors import UserError
from training.optimizer import make_optimizer

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
    assert "Jacobian penalty" not in out("--jac_loss_weight 1 --depth 3")
    assert "layers  " not in plain
    assert "layers  " in out("--layers_before 1")
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


def test_each_stage_of_a_depth_is_told(tmp_path):
    flags = f"--data {tmp_path} {SIZES} {V100} --cost_vocabulary 50 --depth".split()
    text = call([*flags, "0:1 2:3 3:equilibrium"]).out
    titles = re.findall("^an update from step (.*):", text, re.MULTILINE)
    assert titles == ["0 on, 1 applications of f", "2 on, 3 applications of f", "3 on, equilibrium (implicit gradient)"]
    assert [int(cells[0]) for cells in rows(text, "f with its graph ")] == [1, 3, 1]
    assert "a segment of an evaluation, equilibrium" in text
    assert seconds(text)[2] == float(rows(text, "1  ")[-1][1])  # on several GPUs: such as the last


def test_a_transformer_xl(tmp_path):
    flags = f"--arch transformer_xl --n_layer 3 --n_head 2 --d_head 3 --d_model 8 --d_inner 16 {LENGTHS}"
    outcome = call(f"--data {tmp_path} {flags} {V100} --cost_vocabulary 50 --batch_chunk 2")
    assert (outcome.status, outcome.err) == (0, "")
    assert "Transformer-XL, 50 words" in outcome.out
    assert "an update from step 0 on, layers as they are built: 4 x 8 tokens" in outcome.out
    assert rows(outcome.out, "layers ")[0][0] == "2"
    assert "f " not in outcome.out.replace("of ", "")


@pytest.mark.parametrize("flags", ["--wnorm", "--cell_layers 2 --layers_after 1 --feedback 0.3 --norm_affine"])
def test_an_update_of_muon_has_the_operations_that_pytorch_counts(flags):
    settings = COMMAND.parse(f"{SIZES} --optim Muon {flags}".split())
    run = RunCost(COMMAND, settings, Words(50, "here"))
    model = COMMAND.spec.build(run.config)
    optimizer = make_optimizer(model, settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with operations_counter() as counter:
        optimizer.step()
    assert run.update.work.flops == counter.get_total_flops() > 0
    assert run.n_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_processes_agree_on_solves_that_stop_together():
    def agreements(flags):
        run = RunCost(COMMAND, COMMAND.parse(f"{SIZES} --solver anderson {flags}".split()), Words(50, "here"))
        *_, (_, depth) = run.stages()
        return run.agreements(depth, 4)

    assert agreements("") == 6 + 6
    assert agreements("--batch_chunk 2") == 2 * (6 + 6)
    apart = ("--stop_scope sequence", "--rand_f_thres_delta 2", "--grad unroll", "--depth 3")
    assert [agreements(flags) for flags in apart] == [0, 0, 0, 0]


def test_what_a_model_has_no_formulas_for_is_told_in_flags():
    def none(config, segment):
        raise ValueError(f"there are no formulas for `d_model` {config.d_model}")

    command = dataclasses.replace(COMMAND, spec=dataclasses.replace(COMMAND.spec, cost=none))
    run = RunCost(command, command.parse(SIZES.split()), Words(50, "here"))
    with pytest.raises(UserError, match=r"^--cost: there are no formulas for --d_model 8$"):
        run.evaluation()


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
