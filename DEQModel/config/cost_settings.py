"""The settings of --cost, which tells what a run will cost."""

from dataclasses import dataclass

from system.flag import OF_THE_CALL, Need, flag

HERE = "here"
COST = (Need("--cost", lambda s: s.cost),)
MACHINES = (HERE, "v100", "a100", "h100", "h200")


@dataclass(frozen=True)
class CostSettings:
    """What is told of a run before it is started, and for which machine."""

    cost: bool = flag(
        False,
        "tell what a step of this configuration costs, in operations, bytes, seconds and memory, and stop",
        listed=False,
        fixed=OF_THE_CALL,
    )
    cost_vocabulary: int | None = flag(
        None,
        "words, for --cost without a corpus (default: those of --data, or of --dataset as published)",
        kind=int,
        least=2,
        below=2**31,
        listed=False,
        needs=COST,
        fixed=OF_THE_CALL,
    )
    cost_machine: str = flag(
        HERE,
        "whose speed --cost assumes: this machine's, measured in some seconds, or a GPU's by its datasheet",
        choices=MACHINES,
        listed=False,
        needs=COST,
        fixed=OF_THE_CALL,
    )
    cost_flops: float | None = flag(
        None,
        "in its place, GFLOP/s of float32 matrix products",
        kind=float,
        above=0,
        listed=False,
        needs=COST,
        fixed=OF_THE_CALL,
    )
    cost_bandwidth: float | None = flag(
        None, "in its place, GB/s of memory", kind=float, above=0, listed=False, needs=COST, fixed=OF_THE_CALL
    )
    cost_link: float | None = flag(
        None,
        "in its place, GB/s from one GPU to the next, in one direction",
        kind=float,
        above=0,
        listed=False,
        needs=COST,
        fixed=OF_THE_CALL,
    )
