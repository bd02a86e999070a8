"""The program that tells how likely a model finds a text."""

import sys
from collections.abc import Iterator, Sequence

from data.text_tokens import TextTokens
from evaluation.model_program import Call, ModelProgram
from evaluation.score_settings import ScoreSettings
from evaluation.scoring import score
from evaluation.solve_statistics import SolveSummary
from evaluation.token_scores import check_place, write_table
from system.errors import UserError
from system.progress import say
from system.script import with_status

PROGRAM = ModelProgram(
    "score.py",
    "[RUN] TEXT",
    "Tell how likely a trained model finds a text: perplexity, bits per word and per character. RUN is the folder of "
    "a run, or --load names a file of weights; TEXT is a file in UTF-8 as the corpus of the run was, words with white "
    "space between them, or - for standard input.",
    ScoreSettings,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Score a text; the exit status."""
    return with_status(run, sys.argv[1:] if argv is None else argv, PROGRAM.name)


def run(argv: Sequence[str]) -> int:
    """Do what a command line asks for."""
    call = PROGRAM.call(argv)
    run_folder, source = _places(call)
    own = call.own
    if own.per_token:
        check_place(own.per_token, source)
    trained = PROGRAM.load(call, run_folder)
    for remark in trained.remarks:
        say(remark)
    text = TextTokens.of_file(source, trained.vocab, trained.rule)
    found = score(trained, text, rows=own.rows, batch_size=own.batch_size, per_token=bool(own.per_token))
    say(f"{trained.in_words}\n{found}")
    for note in _notes(text, own, found.report.solve):
        say(note)
    if found.tokens is not None:
        write_table(own.per_token, text, found.tokens)
    return 0


def _places(call: Call[ScoreSettings]) -> tuple[str | None, str]:
    """The run's folder, None where there is another source, and that of the text."""
    wanted = "TEXT" if call.source.load else "RUN TEXT"
    if len(call.places) != len(wanted.split()):
        raise UserError(
            f"{len(call.places)} arguments that are no flags ({' '.join(call.places)}): pass {wanted}"
            + ("" if call.source.load else ", or --load FILE.pkl TEXT")
        )
    return (None if call.source.load else call.places[0]), call.places[-1]


def _notes(text: TextTokens, own: ScoreSettings, solve: SolveSummary | None) -> Iterator[str]:
    """What one should know of the score."""
    left_over = len(text) % own.rows
    first = f"the first {text.unit} of each of {own.rows} rows is" if own.rows > 1 else f"the first {text.unit} is"
    rest = f", and the last {left_over} of {len(text):,} tokens do not fill the rows" if left_over else ""
    yield f"note: {first} only context{rest}"
    if told := text.unknown_in_words():
        yield f"note: {told}"
    if own.batch_size and own.batch_size < own.rows and solve is not None and solve.stop_scope == "batch":
        yield (
            f"note: solves stop over the {own.batch_size} rows that are computed at the same time, where an evaluation "
            f"has {own.rows}: pass --stop_scope sequence for a score that does not depend on that"
        )
