"""Generated text against brute force: one solve over the whole prefix for every word, and samples one by one."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_trained import trained_model, trained_trellisnet

from config.depth import evaluation_depth
from data.vocabulary import Vocab
from evaluation.trained_model import TrainedModel
from generation.generator import Draw, Generator
from generation.reading import read
from generation.sampling import Sampling
from generation.transcript import Transcript
from models.protocol import CellMap
from modules.deq import DEQModule
from system.errors import UserError

PROMPT = (0, 3, 4, 5, 1, 7)
LIKELIEST = Sampling(temperature=0)


def samples_of(trained: TrainedModel, sampling: Sampling = LIKELIEST, *, seed: int = 0, prompt=PROMPT, **options):
    words: dict[int, list[int]] = {}
    for sample, word in Generator(trained, sampling, seed).draws(prompt, **options):
        words.setdefault(sample, []).append(word)
    return words


def column(*ids: int) -> torch.Tensor:
    return torch.tensor(ids)[:, None]


MODELS = [
    "",
    "--wnorm",
    "--pre_lnorm --outer_norm",
    "--layers_before 1 --layers_after 2 --inject both",
    "--norm_affine --heads_norm --inject residual --z_init previous",
    "--local_size 5",
    "--adaptive --cutoffs 5 9 --div_val 2",
    "--solver anderson --f_thres 200",
]


TRELLISNETS = ["", "--ksize 1", "--wnorm --nhid 3", "--adaptive --cutoffs 5 9 --div_val 2", "--n_experts 2"]


@pytest.mark.parametrize(
    ("make", "further"),
    [(trained_model, f"--mem_len 30 {further}") for further in MODELS]
    + [(trained_trellisnet, further) for further in TRELLISNETS],
)
def test_reading_on_word_by_word_gives_what_one_solve_over_the_prefix_does(make, further):
    trained = make(further)
    model, depth = trained.model, evaluation_depth(trained.settings)
    text = torch.randint(20, (20, 3), generator=torch.Generator().manual_seed(1))
    memory, differences = None, []
    for n in range(1, len(text) + 1):
        once_more = read(model, text[n - 1 : n], memory, depth, segment=1)
        memory = once_more.memory
        whole = read(model, text[:n], None, depth, segment=n)
        assert len(whole.solves) == len(once_more.solves) == 1
        differences.append(float((once_more.log_p - whole.log_p).abs().max()))
    assert max(differences) < 1e-8
    in_segments = read(model, text, None, depth, segment=7)
    assert len(in_segments.solves) == 3
    torch.testing.assert_close(in_segments.log_p, whole.log_p, rtol=0, atol=1e-8)


def test_a_shorter_memory_forgets():
    trained = trained_model("--mem_len 3")
    model, depth = trained.model, evaluation_depth(trained.settings)
    read_slowly, at_once = (read(model, column(*range(10)), None, depth, segment).log_p for segment in (1, 10))
    assert (read_slowly - at_once).abs().max() > 1e-3


def test_the_likeliest_words_are_those_of_brute_force():
    trained = trained_model("--mem_len 40 --adaptive --cutoffs 5 9 --div_val 2")
    prefix, depth = list(PROMPT), evaluation_depth(trained.settings)
    for _ in range(12):
        prefix.append(int(read(trained.model, column(*prefix), None, depth, len(prefix)).log_p.argmax()))
    assert samples_of(trained, length=12) == {0: prefix[len(PROMPT) :]}
    assert len(set(prefix[len(PROMPT) :])) > 3, "a model that says the same words again and again proves nothing"


def test_first_words_are_drawn_as_often_as_they_are_likely():
    trained = trained_model()
    log_p = read(trained.model, column(*PROMPT), None, evaluation_depth(trained.settings), 8).log_p[0]
    first = Counter(words[0] for words in samples_of(trained, Sampling(), length=1, samples=4000).values())
    found = torch.tensor([first[word] for word in range(20)]) / 4000
    assert (found - log_p.exp()).abs().max() < 0.03


@pytest.mark.parametrize(
    ("make", "sampling"),
    [
        (trained_model, Sampling()),
        (trained_model, Sampling(temperature=1.5, top_k=9, top_p=0.9)),
        (trained_trellisnet, Sampling()),
    ],
)
def test_a_sample_is_the_same_however_many_there_are(make, sampling):
    trained = make()
    five = samples_of(trained, sampling, seed=7, length=15, samples=5)
    assert len({tuple(words) for words in five.values()}) == 5
    for sample in range(5):
        assert samples_of(trained, sampling, seed=7 + sample, length=15) == {0: five[sample]}
    assert samples_of(trained, sampling, seed=7, length=15, samples=2) == {0: five[0], 1: five[1]}


def test_samples_end_at_the_stop_word_and_leave_the_batch(monkeypatch):
    trained = trained_model("--mem_len 12")
    full = samples_of(trained, Sampling(), length=15, samples=6)
    stop = Counter(word for words in full.values() for word in set(words)).most_common(1)[0][0]
    sizes = []

    def counted(model, tokens, *rest, **further):
        sizes.append(tokens.shape[1])
        return read(model, tokens, *rest, **further)

    monkeypatch.setattr("generation.generator.read", counted)
    ended = samples_of(trained, Sampling(), length=15, samples=6, stop=stop)
    for sample, words in full.items():
        n = words.index(stop) + 1 if stop in words else 15
        assert ended[sample] == words[:n]
    assert sizes[0] == 1, "the prompt is read once"
    assert sizes[1:] == [sum(len(words) > n for words in ended.values()) for n in range(1, len(sizes))]
    assert len(set(sizes[1:])) > 1


def test_solves_stop_sequence_by_sequence_and_are_counted():
    generator = Generator(trained_model("--stop_scope batch"), LIKELIEST, 0)
    assert isinstance(generator.depth, DEQModule)
    assert generator.depth.stop_scope == "sequence"
    list(generator.draws(range(10), length=5))  # ten tokens in segments of 8, then four words
    assert generator.solves.n_solves == 2 + 4


def test_weights_are_packed_for_several_rows_alone(monkeypatch):
    packed = []
    monkeypatch.setattr(CellMap, "pack", lambda self, z: packed.append(z.shape[:2]) or self)
    samples_of(trained_model(), length=4, prompt=(0, 3))
    assert packed == [(1, 2)]  # the prompt
    samples_of(trained_model(), length=4, samples=2, prompt=(0,))
    assert packed[1:] == [(2, 1)] * 3


def test_a_shallow_model_generates_without_solves():
    trained = trained_model("--pretrain_steps 9 --eval_n_layer 3")
    generator = Generator(trained, LIKELIEST, 0)
    assert len(list(generator.draws(PROMPT, length=4))) == 4
    assert generator.solves.n_solves == 0


def test_another_model_with_a_memory_of_one_tensor(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "second_model")
    from tanh_model import TanhConfig, TanhLM

    torch.manual_seed(0)
    model = TanhLM(TanhConfig(n_token=20, width=8, gain=3.0)).eval()
    trained = trained_model()
    trained = replace(trained, model=model)
    three = samples_of(trained, Sampling(), length=6, samples=3, stop=5)
    for sample in range(3):
        assert samples_of(trained, Sampling(), seed=sample, length=6, stop=5) == {0: three[sample]}


def test_states_that_are_not_finite_are_told():
    trained = trained_model()
    torch.nn.init.constant_(trained.model.crit.out_layers[0].bias, torch.inf)
    with pytest.raises(UserError, match=r"behind 0 new words .* not finite: change --solver"):
        samples_of(trained, length=3)


def shown(words: list[list[int]], capsys, **options) -> str:
    vocab = Vocab(["<eos>", "the", "語", "."])
    transcript = Transcript(vocab, len(words), seed=5)
    for position in range(max(map(len, words))):
        for sample, of_sample in enumerate(words):
            if position < len(of_sample):
                transcript.add(Draw(sample, of_sample[position]))
    transcript.close()
    return capsys.readouterr().out


def test_words_are_shown_with_single_blanks_and_line_ends(capsys):
    assert shown([[1, 2, 3]], capsys) == "the 語 .\n"
    assert shown([[0, 1, 0, 0, 1, 3, 0]], capsys) == "\nthe\n\nthe .\n"


def test_several_samples_have_headers_that_name_their_seeds(capsys):
    assert shown([[1, 3], [3, 0, 1], [0]], capsys) == (
        "--- sample 1 of 3 (--seed 5)\nthe .\n--- sample 2 of 3 (--seed 6)\n.\nthe\n--- sample 3 of 3 (--seed 7)\n\n"
    )


def test_the_first_sample_is_shown_as_it_is_drawn(capsys):
    transcript = Transcript(Vocab(["<eos>", "a", "b"]), samples=2, seed=0)
    for draw, seen in ((Draw(0, 1), "a"), (Draw(1, 2), ""), (Draw(0, 2), " b")):
        capsys.readouterr() if draw == Draw(0, 1) else None
        transcript.add(draw)
        assert capsys.readouterr().out == seen
