"""Every mistake of a user: one line that names it, status 2, no traceback, and no run folder left behind."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_run import COURSE, LENGTHS, MODEL, call, write_corpus

SCRIPT = Path(__file__).parent.parent / "DEQModel" / "train_transformer.py"


@pytest.fixture
def refused(tmp_path) -> Callable[[str], str]:
    """Calls the script with a tiny model and further flags, and returns the one line of its refusal."""
    write_corpus(tmp_path / "corpus")

    def call_refused(further: str) -> str:
        base = f"--data {tmp_path}/corpus --dataset text --work_dir {tmp_path}/LM- {MODEL} {LENGTHS} {COURSE}"
        outcome = call(f"{base} {further.replace('{place}', str(tmp_path))}")
        assert outcome.status == 2, outcome.err
        assert outcome.out == ""
        assert not list(tmp_path.glob("LM-*")), "a run folder was left behind"
        *progress, last = outcome.err.splitlines()
        assert all(line.startswith("encoding ") for line in progress), outcome.err
        assert last.startswith("train_transformer.py: error: ")
        return last.removeprefix("train_transformer.py: error: ")

    return call_refused


FLAGS = [
    # further flags; parts of the message: flag, value, remedy
    ("--solver newton", ["--solver", "'newton'", "anderson", "broyden"]),
    ("--stop_mode both", ["--stop_mode", "'both'", "rel", "abs"]),
    ("--stop_scope row", ["--stop_scope", "'row'", "batch", "sequence"]),
    ("--b_solver newton", ["--b_solver", "'newton'", "anderson", "broyden"]),
    ("--b_stop_mode both", ["--b_stop_mode", "'both'", "rel", "abs"]),
    ("--grad exact", ["--grad", "'exact'", "implicit", "phantom"]),
    ("--b_init one", ["--b_init", "'one'", "zero", "shine"]),
    ("--b_init shine", ["--b_init is 'shine'", "--solver is 'anderson'", "pass --solver 'broyden'"]),
    (
        "--b_init shine --solver broyden --stop_scope sequence",
        ["--b_init is 'shine'", "--stop_scope is 'sequence'", "--stop_scope 'batch'"],
    ),
    ("--b_init shine --solver broyden --grad one_step", ["--b_init shine", "--grad implicit"]),
    ("--rev_beta 0.5", ["--rev_beta 0.5", "no effect", "--grad reversible"]),
    ("--rev_beta 1 --grad reversible", ["--rev_beta is 1", "above 0 and below 1"]),
    ("--load=", ["--load is empty", "leave it out"]),
    ("--sweep=", ["--sweep is empty"]),
    ("--name=", ["--name is empty"]),
    ("--sample -1", ["--sample is -1", "at least 0"]),
    ("--max_step 1" + 300 * "0", ["--max_step", "301 digits"]),
    ("--emb_init_range 1e308", ["--emb_init_range is 1e+308", "below 1000000.0"]),
    ("--init_range 1e308 --init uniform", ["--init_range is 1e+308", "below 1000000.0"]),
    ("--init_std 1e300", ["--init_std is 1e+300", "below 1000000.0"]),
    ("--proj_init_std 1e300", ["--proj_init_std is 1e+300", "below 1000000.0"]),
    ("--eta_min 1e308", ["--eta_min is 1e+308", "below 1e+38"]),
    ("--lr_min 1e308", ["--lr_min is 1e+308", "below 1e+38"]),
    ("--weight_decay 1e308", ["--weight_decay is 1e+308", "below 1e+38"]),
    ("--lr 1e39", ["--lr is 1e+39", "below 1e+38"]),
    ("--jac_loss_weight 1e308", ["--jac_loss_weight is 1e+308", "below 1e+38"]),
    ("--phantom_steps 3", ["--phantom_steps 3", "no effect", "--grad phantom"]),
    ("--phantom_steps 0 --grad phantom", ["--phantom_steps is 0", "pass 1 or more"]),
    ("--phantom_damping 0.3", ["--phantom_damping 0.3", "no effect", "--grad phantom"]),
    ("--phantom_damping 1.5 --grad phantom", ["--phantom_damping is 1.5", "above 0 and at most 1"]),
    ("--f_history 3", ["--f_history 3", "no effect", "broyden"]),
    ("--f_history 0 --solver broyden", ["--f_history is 0", "pass 1 or more"]),
    ("--anderson_ridge 1e-4 --solver broyden", ["--anderson_ridge 0.0001", "no effect", "anderson"]),
    ("--anderson_ridge=-1", ["--anderson_ridge is -1", "pass 0 or more"]),
    ("--rand_f_thres_delta 6", ["--rand_f_thres_delta 6", "--f_thres 6"]),
    ("--rand_f_thres_delta -1", ["--rand_f_thres_delta is -1", "at least 0"]),
    ("--rand_f_thres_delta 2 --grad unroll", ["--rand_f_thres_delta 2", "no effect", "unroll"]),
    ("--jac_loss_weight=-1", ["--jac_loss_weight is -1", "at least 0"]),
    ("--jac_loss_freq 0.2", ["--jac_loss_freq 0.2", "no effect", "--jac_loss_weight"]),
    ("--jac_loss_freq 2 --jac_loss_weight 1", ["--jac_loss_freq is 2", "below 1, or 1"]),
    ("--jac_incremental 5", ["--jac_incremental 5", "no effect", "--jac_loss_weight"]),
    ("--jac_samples 5", ["--jac_samples 5", "no effect", "--jac_loss_weight"]),
    ("--spectral_radius --eval --load x --pretrain_steps 9", ["--spectral_radius has no effect", "--pretrain_steps 0"]),
    ("--sweep f_thres=3", ["--sweep f_thres=3", "no effect", "--eval"]),
    ("--sweep f_thres=3 --eval --load x --pretrain_steps 9", ["--sweep f_thres=3", "--pretrain_steps 0"]),
    ("--eval --load x --sweep f_thres", ["--sweep", "'f_thres'", "f_thres=4,8"]),
    ("--eval --load x --sweep f_thres=", ["--sweep", "'f_thres='", "f_thres=4,8"]),
    ("--eval --load x --sweep f_thr=3", ["--sweep", "'f_thr'", "f_thres", "mem_len"]),
    ("--eval --load x --sweep d_model=3", ["--sweep", "'d_model'", "choose from"]),
    ("--eval --load x --sweep f_thres=3,x", ["--sweep", "f_thres=x", "int"]),
    ("--eval --load x --sweep f_thres=3,,4", ["--sweep", "f_thres=:", "int"]),
    ("--eval --load x --sweep f_thres=3,-1", ["--f_thres is -1", "pass 0 or more"]),
    ("--eval --load x --sweep solver=newton", ["--sweep", "solver=newton", "broyden"]),
    ("--eval --load x --sweep f_history=3", ["--f_history 3", "no effect", "broyden"]),
    ("--out_dropout word", ["--out_dropout", "'word'", "position", "channel"]),
    ("--dataset enwik8", ["--dataset", "'enwik8'", "wt103", "text"]),
    ("--optim Lion", ["--optim", "'Lion'", "RAdam"]),
    ("--scheduler step", ["--scheduler", "'step'", "inv_sqrt"]),
    ("--init zeros", ["--init", "'zeros'", "normal", "uniform"]),
    ("--emb_init zeros", ["--emb_init", "'zeros'", "normal", "uniform"]),
    ("--n_layer two", ["--n_layer", "'two'", "int"]),
    ("--lr fast", ["--lr", "'fast'", "float"]),
    ("--nonsense 3", ["unrecognized arguments", "--nonsense"]),
    ("--f_tres 3", ["unrecognized arguments: --f_tres 3: did you mean --f_thres?"]),
    ("--max-steps=3", ["--max-steps=3: did you mean --max_step?"]),
    ("--pre", ["ambiguous option: --pre ", "--pre_lnorm", "--pretrain_steps"]),
    ("--mem_len", ["--mem_len", "expected one argument"]),
    ("--d_head 5", ["--n_head 2", "--d_head 5", "10", "--d_model 8", "product"]),
    ("--d_head 3 --n_head 3 --d_model 9", ["--d_model is 9", "even"]),
    ("--f_thres -1", ["--f_thres is -1", "pass 0 or more"]),
    ("--b_thres -3", ["--b_thres is -3", "pass 0 or more"]),
    ("--f_eps=-1e-3", ["--f_eps is -0.001", "pass 0 or more"]),
    ("--b_eps nan", ["--b_eps is nan", "finite"]),
    ("--mem_len -1", ["--mem_len is -1", "at least 0"]),
    ("--local_size 99999999999999999999", ["--local_size is 99999999999999999999", "below 2147483648"]),
    ("--adaptive --cutoffs 99999999999999999999", ["--cutoffs is 99999999999999999999", "below 2147483648"]),
    ("--tgt_len 0", ["--tgt_len is 0", "at least 1"]),
    ("--eval_tgt_len 0", ["--eval_tgt_len is 0", "at least 1"]),
    ("--local_size -2", ["--local_size is -2", "at least 0"]),
    ("--batch_size 0", ["--batch_size is 0", "at least 1"]),
    ("--batch_chunk 0", ["--batch_chunk is 0", "at least 1"]),
    ("--batch_chunk 5", ["--batch_chunk 5", "--batch_size 4", "at least one sequence"]),
    ("--gpu0_bsz 0", ["--gpu0_bsz is 0", "at least 1, or -1"]),
    ("--max_step 0", ["--max_step is 0", "at least 1"]),
    ("--start_train_steps 4", ["--start_train_steps 4", "--max_step 4", "raise --max_step"]),
    ("--pretrain_steps -1", ["--pretrain_steps is -1", "at least 0"]),
    ("--warmup_step -1", ["--warmup_step is -1", "at least 0"]),
    ("--max_eval_steps 0", ["--max_eval_steps is 0", "at least 1, or -1"]),
    ("--log-interval 0", ["--log-interval is 0", "at least 1"]),
    ("--eval-interval 0", ["--eval-interval is 0", "at least 1"]),
    ("--n_layer 0", ["--n_layer is 0", "at least 1"]),
    ("--n_head 0", ["--n_head is 0", "at least 1"]),
    ("--d_inner 0", ["--d_inner is 0", "at least 1"]),
    ("--d_embed 0", ["--d_embed is 0", "at least 1 and below 2147483648, or -1"]),
    ("--dropout 1", ["--dropout is 1", "at least 0 and below 1"]),
    ("--dropatt=-0.1", ["--dropatt is -0.1", "at least 0 and below 1"]),
    ("--lr 0", ["--lr is 0", "above 0"]),
    ("--lr inf", ["--lr is inf", "finite"]),
    ("--clip 0", ["--clip is 0", "above 0"]),
    ("--decay_rate 1.5", ["--decay_rate is 1.5", "above 0 and below 1"]),
    ("--patience -1", ["--patience is -1", "at least 0"]),
    ("--weight_decay nan", ["--weight_decay is nan", "finite"]),
    ("--init_std=-1", ["--init_std is -1", "at least 0"]),
    ("--seed -1", ["--seed is -1", "at least 0"]),
    ("--alpha=-1", ["--alpha is -1", "at least 0"]),
    ("--alpha 1e308", ["--alpha is 1e+308", "below 1e+38"]),
    ("--beta nan", ["--beta is nan", "finite"]),
    ("--beta=-0.5", ["--beta is -0.5", "at least 0"]),
    ("--anneal -1", ["--anneal is -1", "at least 0"]),
    ("--when 2 0", ["--when is 0", "at least 1"]),
    ("--when", ["--when", "expected at least one argument"]),
    ("--adam_ratio 0.3", ["--adam_ratio 0.3 has no effect without --optim Muon"]),
    ("--adam_ratio -1 --optim Muon", ["--adam_ratio is -1.0", "at least 0"]),
    ("--asgd", ["--asgd has no effect without --optim SGD"]),
    ("--nonmono 3 --optim SGD", ["--nonmono 3 has no effect without --asgd"]),
    ("--nonmono -1 --asgd --optim SGD", ["--nonmono is -1", "at least 0"]),
    ("--attn_type 1", ["--attn_type is 1", "only 0"]),
    ("--same_length --mem_len 0", ["--same_length", "--mem_len is 0", "above 0"]),
    ("--eval", ["--eval", "nothing to evaluate", "--load", "--restart_dir"]),
    ("--restart", ["--restart needs --restart_dir"]),
    ("--restart --restart_dir {place}/none", ["no checkpoint", "none/checkpoint.pt does not exist", "--load"]),
    ("--save_interval 0", ["--save_interval is 0", "at least 1"]),
    ("--max_bad_steps 0", ["--max_bad_steps is 0", "at least 1"]),
    ("--restart_dir runs/x", ["--restart_dir runs/x", "--restart", "--eval"]),
    ("--eval --load a.pkl --restart_dir runs/x", ["--load a.pkl", "--restart_dir runs/x", "pass one"]),
    ("--name a/b", ["--name", "'a/b'", "plain folder name"]),
    ("--name ..", ["--name", "'..'", "plain folder name"]),
    ("--name a\x07b", ["--name", r"'a\x07b'", "printable"]),
    (f"--name {'é' * 101}", ["--name", "at most 200 bytes"]),
    ("--name a\udcff", ["--name", r"'a\udcff'", "UTF-8"]),
    ("--work_dir {place}/a\udcff", ["--work_dir", r"a\udcff", "UTF-8"]),
    ("--d_inner 1000000000000", ["--d_inner is 1000000000000", "below 2147483648"]),
    ("--d_inner 2000000000 --d_model 80000 --d_head 40000", ["--d_inner 2000000000", "--d_model 80000", "memory"]),
    ("--outer_norm", ["--outer_norm", "no effect without --pre_lnorm"]),
    ("--cutoffs 3 5", ["--cutoffs 3 5", "no effect without --adaptive"]),
    ("--adaptive", ["--adaptive", "--cutoffs", "--dataset text"]),
    ("--adaptive --cutoffs 9 5", ["--cutoffs", "9 5", "rise"]),
    ("--adaptive --cutoffs 5 5", ["--cutoffs", "5 5", "rise"]),
    ("--adaptive --cutoffs 0 5", ["--cutoffs is 0", "at least 1"]),
    ("--adaptive --cutoffs 5 25", ["--cutoffs", "5 25", "25 words"]),
    ("--adaptive --cutoffs 5 10 --div_val 4", ["--div_val is 4", "--d_embed 8", "5 10"]),
    ("--batch_size 500", ["train.txt: 725 tokens", "500 rows", "smaller --batch_size than 500"]),
    ("--work_dir {place}/corpus/train.txt/", ["--work_dir", "cannot create", "pass a place"]),
]


@pytest.mark.parametrize(("further", "parts"), FLAGS, ids=[further for further, _ in FLAGS])
def test_flag_is_refused(refused, further, parts):
    message = refused(further)
    for part in parts:
        assert part in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(refused):
    message = refused("--cuda")
    assert "--cuda: " in message
    assert "leave --cuda out" in message


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda folder: (folder / "valid.txt").unlink(), ["--data", "valid.txt", "missing"]),
        (lambda folder: (folder / "train.txt").write_text(""), ["train.txt", "empty"]),
        (lambda folder: (folder / "test.txt").write_bytes(b"word1 \xff\xfe\n"), ["test.txt", "UTF-8"]),
        (lambda folder: (folder / "valid.txt").write_text("word1\nword2 strange\n"), ["valid.txt", "2", "strange"]),
        (lambda folder: (folder / "test.txt").write_text("word1\n"), ["test.txt: 2 tokens", "in 4 rows", "longer"]),
    ],
    ids=["missing", "empty", "not UTF-8", "unknown word", "too short"],
)
def test_corpus_is_refused(refused, tmp_path, spoil, parts):
    spoil(tmp_path / "corpus")
    message = refused("")
    for part in parts:
        assert part in message


def test_name_with_a_line_break_is_refused(tmp_path):
    outcome = call(["--work_dir", f"{tmp_path}/", "--name", "a\nb"])
    assert outcome.status == 2
    assert r"--name is 'a\nb': pass" in outcome.err
    assert outcome.err.count("\n") == 1


def test_folder_that_cannot_be_searched_is_refused(refused, monkeypatch):
    def no_entry(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", no_entry)  # a superuser, who may run this, can search every folder
    message = refused("")
    for part in ("--data", "corpus: Permission denied", "permissions"):
        assert part in message


def test_a_call_without_arguments_names_the_corpus_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = call([])
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "wikitext-103" in outcome.err


def test_missing_corpus_is_refused(refused):
    message = refused("--data {place}/nowhere")
    assert "--data" in message
    assert "nowhere" in message
    assert "get_data.sh" in message


class Hostile:
    """Would make a folder if its pickle were run."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_checkpoints_are_refused(refused, tmp_path):
    trained = call(
        f"--data {tmp_path}/corpus --dataset text --work_dir {tmp_path}/good- {MODEL} {LENGTHS} {COURSE} --max_step 1"
    )
    good = trained.folder / "model_state_dict.pkl"
    cut, text, hostile = (tmp_path / name for name in ("cut.pkl", "text.pkl", "hostile.pkl"))
    cut.write_bytes(good.read_bytes()[:3000])
    text.write_text("no checkpoint")
    with open(hostile, "wb") as file:
        pickle.dump(Hostile(tmp_path / "ran"), file)

    for path in (cut, text, hostile, tmp_path / "nowhere.pkl"):
        assert str(path) in refused(f"--eval --load {path}")
        assert str(path) in refused(f"--load {path}")
    assert not (tmp_path / "ran").exists()
    assert f"{tmp_path}/nowhere: there is no such folder" in refused("--eval --restart_dir {place}/nowhere")

    contradictions = refused(f"--eval --load {good} --d_inner 12 --pre_lnorm")
    assert "--d_inner is 12, not 16" in contradictions
    assert "--pre_lnorm is True, not False" in contradictions
    assert "leave these flags out" in contradictions

    bare = tmp_path / "bare.pkl"  # without what stands beside a run's file: what the shapes tell is compared
    shutil.copy(good, bare)
    for flags, parts in {
        "--d_inner 12": ["--d_inner is 12", "--d_inner 16"],
        "--n_head 4 --d_head 2": ["--n_head is 4", "--n_head 2", "--d_head is 2", "--d_head 4"],
        "--d_model 16 --d_head 8": ["--d_model is 16", "--d_model 8"],
        "--d_embed 4": ["--d_embed is 4", "--d_embed 8"],
        "--wnorm": ["--wnorm"],
        "--adaptive --cutoffs 5": ["--cutoffs are 5", "--adaptive"],
        "--dataset ptb": ["13 words", "25"],
    }.items():
        message = refused(f"--eval --load {bare} {flags}")
        for part in [str(bare), *parts]:
            assert part in message

    weights = trained.weights
    weights["crit.out_layers.0.weight"] = weights["crit.out_layers.0.weight"] + 1
    torch.save(weights, tmp_path / "untied.pkl")
    assert "tied by the flags: pass --not_tied" in refused(f"--eval --load {tmp_path}/untied.pkl")


def test_refusal_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, str(SCRIPT), "--data", str(tmp_path), "--f_thres", "-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("train_transformer.py: error: --f_thres is -1: pass ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
