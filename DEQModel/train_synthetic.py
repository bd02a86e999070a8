"""Train a model on copy memory, p-hop induction or state tracking: `python train_synthetic.py --help`."""

from system.startup import hush_signals

if __name__ == "__main__":
    give_signals_back = hush_signals()  # during the imports

from synthetic.program import main
from system.script import leave

if __name__ == "__main__":
    give_signals_back()
    leave(main)
