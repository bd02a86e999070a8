"""Train a DEQ-Transformer or a Transformer-XL, or evaluate one: `python train_transformer.py --help`."""

from system.startup import hush_signals

if __name__ == "__main__":
    give_signals_back = hush_signals()  # during the imports

from models.transformer_xl.spec import SPEC as TRANSFORMER_XL
from models.transformers.spec import SPEC as DEQ_TRANSFORMER
from system.script import leave
from training.recipe import program

main = program(DEQ_TRANSFORMER, TRANSFORMER_XL)

if __name__ == "__main__":
    give_signals_back()
    leave(main)
