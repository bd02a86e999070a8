"""The files of benchmarks/compare.py: those that there are, and mistakes in others."""

import compare
import pytest
from comparison import SEED, Comparison
from scripts import ROOT

import train_transformer
import train_trellisnet
from config.parser import Parser
from synthetic.program import check
from synthetic.settings import GROUPS, completed
from training.architecture import chosen

DEMO = ROOT / "benchmarks" / "comparisons" / "demo.toml"


def called(arguments: str, capsys) -> tuple[int, str, str]:
    status = compare.main(arguments.replace("DEMO", str(DEMO)).split())
    return status, *capsys.readouterr()


def of_training(program):
    """What reads the flags of a program that trains language models."""
    commands = [program.main.args[0], *program.main.keywords["others"]]
    return lambda words: chosen(commands, words).parse(words)


READERS = {
    "train_transformer.py": of_training(train_transformer),
    "train_trellisnet.py": of_training(train_trellisnet),
    "train_synthetic.py": lambda words: check(completed(Parser("", "", GROUPS).given(words)[0])),
}


@pytest.mark.parametrize("path", [*DEMO.parent.glob("*.toml")], ids=lambda path: path.stem)
def test_all_systems_of_the_comparisons_parse(path):
    comparison = Comparison.read(str(path))
    assert len(comparison.systems) > 1
    for system in comparison.systems:
        READERS[system.program]([*system.flags, SEED, str(comparison.seeds[0])])


GOOD = 'program = "train_transformer.py"\n[systems.a]\nflags = "--lr 0.1"\n'


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("seeds = [", ["cannot be understood", "demo.toml"]),
        ("", ["has no systems", "[systems.NAME]"]),
        ("systems = 3", ["has no systems"]),
        ("[systems]", ["has no systems"]),
        ("system = 1\n" + GOOD, ["there is no key system", "systems"]),
        (GOOD + 'flag = "x"', ["systems.a", "there is no key flag", "program, flags"]),
        ("systems.a = 3", ["systems.a is 3", "[systems.a]"]),
        ("[systems.a]", ["systems.a: no program is named", "train_synthetic.py"]),
        ('[systems.a]\nprogram = "train.py"', ["systems.a: program 'train.py' is not known", "train_synthetic.py"]),
        ("program = 3\n[systems.a]", ["program is 3", "write text"]),
        ("flags = [1]\n" + GOOD, ["flags is [1]", "write text"]),
        ('flags = "--name \'x"\n' + GOOD, ["cannot be split", "quotes"]),
        ('flags = "--seed 3"\n' + GOOD, ["flags: --seed is not for the file to give", "seeds = "]),
        (GOOD.replace("--lr 0.1", "--work_dir=x"), ["systems.a: --work_dir is not for the file to give"]),
        (GOOD.replace("--lr", "--nam"), ["systems.a: --nam is not"]),
        (GOOD.replace("--lr", "--out"), ["systems.a: --out is not"]),
        (GOOD.replace("--lr", "--eval"), ["systems.a: --eval is not"]),
        ("seeds = []\n" + GOOD, ["seeds is []"]),
        ("seeds = [true]\n" + GOOD, ["seeds is [True]"]),
        ("seeds = [-1]\n" + GOOD, ["seeds is [-1]"]),
        ("threads = 0\n" + GOOD, ["threads is 0"]),
        (GOOD.replace("--lr", "--config"), ["systems.a: --config is not"]),
        (GOOD.replace("--lr 0.1", "--pres x"), ["systems.a: --preset x: choose from equilibrium, published"]),
        (GOOD.replace("--lr 0.1", "--preset"), ["systems.a: --preset : choose from"]),
        (
            GOOD + '[systems.b]\nprogram = "train_synthetic.py"',
            ["a by train_transformer.py and b", "no common measure"],
        ),
    ],
)
def test_mistakes_in_the_file_are_one_line(content, parts, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(content)
    status, out, err = called(f"{tmp_path}/mine.toml --out {tmp_path}/out", capsys)
    (line,) = err.splitlines()
    assert (status, out) == (2, "")
    assert line.startswith("compare.py: error: ")
    assert all(part in line for part in parts), line
    assert not (tmp_path / "out").exists()
