"""Train a DEQ-TrellisNet language model, or evaluate one: `python train_trellisnet.py --help`."""

from system.startup import hush_signals

if __name__ == "__main__":
    give_signals_back = hush_signals()  # during the imports

from models.trellisnets.spec import SPEC
from system.script import leave
from training.recipe import program

main = program(SPEC)

if __name__ == "__main__":
    give_signals_back()
    leave(main)
