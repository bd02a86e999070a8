"""Train a throw-away model, or evaluate one."""

from tanh_model import SPEC

from system.script import leave
from training.recipe import program

main = program(SPEC)

if __name__ == "__main__":
    leave(main)
