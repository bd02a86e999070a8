"""The figure by which models are compared: perplexity for words, bits per character for characters."""

import dataclasses
import json
import math

import pytest
from penn_treebank import write_penn
from test_log_lines import published, validation
from test_results import SHALLOW, TEST, VALID, results
from tiny_run import COURSE, LENGTHS, MODEL, call

from data.measure import BITS_PER_CHARACTER, MEASURES, PERPLEXITY, figures
from evaluation.report import EvaluationReport
from runs import comparison, history
from runs.history import Curve, History
from sharing.export import export
from system.lines import WIDTH, stamped
from training.log_lines import for_bar, of_updates

OF_CHARACTERS = dataclasses.replace(TEST, unit="character")


def test_measures():
    assert {unit: (measure.key, measure.short) for unit, measure in MEASURES.items()} == {
        "word": ("perplexity", "ppl"),
        "character": ("bits_per_character", "bpc"),
    }
    assert (PERPLEXITY.shown(2.0), PERPLEXITY.in_table(2.0)) == ("7.389", "7.39")
    assert (BITS_PER_CHARACTER.shown(math.log(2)), BITS_PER_CHARACTER.in_table(math.inf)) == ("1.0000", "inf")
    assert figures(math.log(4), "word") == {"perplexity": pytest.approx(4)}
    assert figures(math.log(4), "character") == {
        "perplexity": pytest.approx(4),
        "bits_per_character": pytest.approx(2),
    }


def test_a_report():
    bits = 2 / math.log(2)
    assert str(TEST).startswith("test: perplexity 7.389 | loss 2.00000 nats (2.88539 bits) per token\n")
    assert str(OF_CHARACTERS).startswith(
        f"test: bits per character {bits:.4f} | perplexity 7.389 | loss 2.00000 nats per token\n"
    )
    assert "bits_per_character" not in TEST.as_dict()
    assert OF_CHARACTERS.as_dict()["bits_per_character"] == pytest.approx(bits)
    assert OF_CHARACTERS.scalars()["test/bits_per_character"] == pytest.approx(bits)
    assert OF_CHARACTERS.scalars()["test/perplexity"] == OF_CHARACTERS.as_dict()["perplexity"] == math.exp(2)


@pytest.mark.parametrize("report", [TEST, OF_CHARACTERS])
def test_a_report_is_the_same_after_a_file(report):
    assert EvaluationReport.of(json.loads(json.dumps(report.as_dict()))) == report
    assert EvaluationReport.of(report.state()) == report


def test_a_report_of_an_older_program_is_of_words():
    state = {name: value for name, value in TEST.state().items() if name != "unit"}
    assert EvaluationReport.of(state) == TEST


def test_the_table():
    valid, shallow = (dataclasses.replace(report, unit="character") for report in (VALID, SHALLOW))
    of_characters = results(valid=valid, test=OF_CHARACTERS, after_shallow=shallow)
    assert str(of_characters).splitlines()[:4] == [
        "bits per character          valid       test",
        "  unigram model             5.658      5.913",
        "  after shallow stage       4.328",
        "  final                     1.443      2.885",
    ]
    content = of_characters.as_dict()
    assert content["unigram_perplexity"]["valid"] == pytest.approx(50.5)
    assert content["unigram_bits_per_character"]["valid"] == pytest.approx(math.log2(50.5))
    assert "unigram_bits_per_character" not in results().as_dict()


def test_log_lines():
    window = published(loss=1.0)
    line = stamped(of_updates(window, 3000, 300000, BITS_PER_CHARACTER))
    assert " loss 1.00 bpc 1.443 lr 2.5e-4 " in line
    assert len(line) <= WIDTH
    assert for_bar(window, BITS_PER_CHARACTER)[:2] == ["loss 1.00", "bpc 1.443"]
    better = dataclasses.replace(VALID, unit="character")
    assert " valid loss 2.00000 bpc 2.8854 (best 1.4427), " in validation(OF_CHARACTERS, better)[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on characters."""
    place = tmp_path_factory.mktemp("bits")
    write_penn(place / "corpus")
    outcome = call(
        f"--data {place}/corpus --dataset ptb_char --work_dir {place}/R- --name characters {MODEL} {LENGTHS} {COURSE} "
        "--pretrain_steps 2 --eval-interval 2"
    )
    assert outcome.status == 0, outcome.err
    return outcome


def test_a_run_on_characters_tells_of_bits(trained):
    loss = trained.results["test"]["loss"]
    assert trained.results["test"]["bits_per_character"] == pytest.approx(loss / math.log(2))
    assert trained.results["test"]["perplexity"] == pytest.approx(math.exp(loss))
    for part in (
        " characters, ",
        "a unigram model scores bits per character ",
        " bpc ",
        "end of shallow stage: bits per character ",
        f"\ntest: bits per character {loss / math.log(2):.4f} | perplexity ",
        "\nbits per character          valid       test\n",
    ):
        assert part in trained.log
    assert " ppl " not in trained.log


def test_a_run_on_words_does_not(run):
    outcome = run()
    assert "bits per character" not in outcome.log
    assert "bits_per_character" not in json.dumps(outcome.results)


def test_runs_side_by_side(trained, run):
    own = History.of(trained.folder)
    wanted = trained.results["test"]["bits_per_character"]
    table = comparison.figures([own, History.of(run().folder)])
    heads, first, second = (line.split() for line in table.splitlines()[1:])
    assert heads.count("bpc") == 1
    assert f"{wanted:.3f}" in first
    assert second.count("-") == 2
    assert "bpc" not in comparison.figures([History.of(run().folder)])
    assert own.best_bits == trained.results["valid"]["bits_per_character"]
    assert History.of(run().folder).best_bits is None


def test_bits_of_a_loss_whose_perplexity_overflows(trained):
    """Perplexities of a bad model are infinite in files and curves; its bits are not."""
    own = History.of(trained.folder)
    bad = {"perplexity": math.inf, "bits_per_character": 1234.5}
    ended = dataclasses.replace(own, results={"valid": bad, "test": bad})
    assert comparison.figures([ended]).split().count("1234.500") == 2
    last = own.valid_bits.steps[-1]
    going_on = dataclasses.replace(
        own, results={}, valid_perplexity=Curve((last,), (math.inf,)), valid_bits=Curve((last,), (1e3,))
    )
    assert going_on.best_bits == 1e3


def test_curves_have_both(trained):
    curves = history._curves(trained.folder)
    for part in ("train", "valid", "test"):
        ((step, perplexity), *_) = curves[f"{part}/perplexity"].items()
        assert curves[f"{part}/bits_per_character"][step] == pytest.approx(math.log2(perplexity), rel=1e-5)


def test_a_sweep_and_an_export(trained, tmp_path):
    swept = call(["--eval", "--restart_dir", str(trained.folder), "--sweep", "f_thres=2,4", "--debug"])
    assert swept.status == 0, swept.err
    assert "valid bpc     test bpc" in swept.out
    export("export.py", str(trained.folder), str(tmp_path / "exported"))
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| split | perplexity | nats a token | bits per character | tokens |" in card
    assert "It is read as characters, `_` for a blank between words. Characters that are not in" in card
