"""Continue a prompt with a trained model: `python generate.py --help`."""

from system.startup import hush_signals

if __name__ == "__main__":
    give_signals_back = hush_signals()  # during the imports

from generation.program import main
from system.script import leave

if __name__ == "__main__":
    give_signals_back()
    leave(main)
