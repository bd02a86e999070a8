"""The program that continues prompts."""

import sys
import time
from collections.abc import Sequence

from config.words import options
from evaluation.model_program import ModelProgram
from evaluation.trained_model import TrainedModel
from generation.generator import Generator
from generation.prompt import prompt_tokens
from generation.sampling import Sampling
from generation.settings import GenerateSettings
from generation.transcript import Transcript
from modules.fixed_weights import fixed_weights
from system.errors import UserError
from system.out_of_memory import enough_memory
from system.script import with_status

PROGRAM = ModelProgram(
    "generate.py",
    "[RUN]",
    "Continue a prompt with a trained model. RUN is the folder of a run, or --load names a file of weights. The prompt "
    "is text as the corpus of the run was, words with white space between them. Words appear as they are drawn. Solves "
    "stop sequence by sequence, whatever --stop_scope says, so that samples do not depend on each other.",
    GenerateSettings,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Generate text; the exit status."""
    return with_status(run, sys.argv[1:] if argv is None else argv, PROGRAM.name)


def run(argv: Sequence[str]) -> int:
    """Do what a command line asks for. Standard output gets the new words alone."""
    call = PROGRAM.call(argv)
    if len(call.places) > 1:
        raise UserError(f"{len(call.places)} arguments that are no flags ({' '.join(call.places)}): pass one RUN")
    own, trained = call.own, PROGRAM.load(call, *call.places or [None])
    prompt, unknown = prompt_tokens(own, trained.vocab, trained.rule)
    stop, unit = _stop(own.stop, trained), trained.rule.unit
    _remark(*trained.remarks, f"note: {unknown}" if unknown else "", _note_on_memory(trained))
    generator = Generator(trained, Sampling(own.temperature, own.top_k, own.top_p), own.seed)
    transcript, n_drawn, start = Transcript(trained.vocab, own.samples, own.seed, unit), 0, time.perf_counter()
    remedy = f"lower it, or {options(trained.settings, 'mem_len', 'eval_tgt_len')}"
    with enough_memory(f"--samples {own.samples}", remedy), fixed_weights(trained.model):
        for draw in generator.draws(prompt, length=own.length, samples=own.samples, stop=stop):
            transcript.add(draw)
            n_drawn += 1
    transcript.close()
    seconds = time.perf_counter() - start
    _remark(f"{n_drawn} {unit}s in {seconds:.1f} s, {n_drawn / seconds:,.1f} {unit}s/s; {generator.solves}")
    return 0


def _stop(word: str | None, trained: TrainedModel) -> int | None:
    if word is None:
        return None
    word = word.lower() if trained.rule.lower_case else word
    if word not in trained.vocab:
        unit = trained.rule.unit
        raise UserError(f"--stop is {word!r}, which is no {unit} of the vocabulary: pass one that is, such as '<eos>'")
    return trained.vocab.id_of(word)


def _note_on_memory(trained: TrainedModel) -> str:
    if trained.model.memory_length > 0:
        return ""
    return "note: --mem_len is 0, so that new words see nothing of what is before them: pass that of training"


def _remark(*remarks: str) -> None:
    for remark in filter(None, remarks):
        print(remark, file=sys.stderr, flush=True)
