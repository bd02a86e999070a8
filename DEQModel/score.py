"""Tell how likely a trained model finds a text: `python score.py --help`."""

from system.startup import hush_signals

if __name__ == "__main__":
    give_signals_back = hush_signals()  # during the imports

from evaluation.score_program import main
from system.script import leave

if __name__ == "__main__":
    give_signals_back()
    leave(main)
