"""What a run will cost, for people: tables of a step's parts, of its memory, and of several GPUs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from config.cost_settings import HERE
from config.flags import CommandLine
from config.settings import Settings
from costs.calibration import measured_machine
from costs.machine import GIGA, GPUS, Machine
from costs.run_cost import RunCost
from costs.scaling import Share, agreements, all_reduce, counts
from costs.step import Part
from costs.words import Words
from evaluation.evaluation import EVAL_ROWS
from modules.cost import NUMBER
from modules.depth import Applications, AsBuilt, Depth
from system.lines import under_each_other


def cost_report(command: CommandLine, settings: Settings) -> str:
    """What settings come to.

    Raises:
        UserError: the number of words is unknown, there is no such model, or no formula for it.
    """
    run = RunCost(command, settings, Words.of(settings))
    bins = "counted" if run.words.counts is not None else "by Zipf's law"
    head = [
        f"{command.spec.name}, {run.words.n_token:,} words ({run.words.source}; how often which: {bins}), "
        f"{run.n_parameters / 1e6:.1f} M parameters",
        "matrix products in GFLOP (a multiply-add is 2); GB read and written; solves take all steps",
    ]
    machine = _machine(settings)
    head.append(_in_words(machine))
    tables, n_rows = [], settings.batch_size
    for first, depth in run.stages():
        title = f"an update from step {first} on, {_depth_in_words(depth)}: {n_rows} x {settings.tgt_len} tokens"
        tables.append(f"{title}\n{_parts_table(run.training(depth, n_rows), machine)}")
        tables.append(_memory_table(run, depth, n_rows))
    size = f"{EVAL_ROWS} x {settings.eval_tgt_len} tokens"
    title = f"a segment of an evaluation, {_depth_in_words(run.last_depth)}: {size}"
    tables.append(f"{title}\n{_parts_table(run.evaluation(), machine)}")
    if machine.link:
        *_, (_, depth) = run.stages()
        tables.append(_gpus_table(run, depth, machine))
    return "\n\n".join(["\n".join(head), *tables])


def _machine(settings: Settings) -> Machine:
    """The machine that settings name, with the figures that they give in place of its own."""
    given = {"flops": settings.cost_flops, "bandwidth": settings.cost_bandwidth, "link": settings.cost_link}
    given = {name: GIGA * value for name, value in given.items() if value is not None}
    if settings.cost_machine == HERE:
        machine = measured_machine(torch.device("cuda" if settings.cuda else "cpu"))
    else:
        machine = GPUS[settings.cost_machine]
    if "link" in given:
        given["network"] = given["link"]
    return dataclasses.replace(machine, **given)


def _in_words(machine: Machine) -> str:
    return (
        f"{machine.name}: {machine.flops / GIGA:,.0f} GFLOP/s in float32, {machine.bandwidth / GIGA:,.1f} GB/s, "
        f"{1e6 * machine.call:.1f} us to start an operation"
    )


def _depth_in_words(depth: Depth) -> str:
    if isinstance(depth, AsBuilt):
        return "layers as they are built"
    if isinstance(depth, Applications):
        return f"{depth.n} applications of f"
    return f"equilibrium ({depth.settings.grad} gradient)"


def _parts_table(parts: Sequence[Part], machine: Machine) -> str:
    seconds = [machine.seconds(part.work) for part in parts]
    cells = [
        (
            part.name,
            f"{part.times}",
            f"{part.work.flops / GIGA:,.2f}",
            f"{part.work.bytes / GIGA:,.2f}",
            f"{second:.4f}",
            f"{second / sum(seconds):.1%}",
        )
        for part, second in zip(parts, seconds, strict=True)
    ]
    flops, n_bytes = (sum(getattr(part.work, what) for part in parts) / GIGA for what in ("flops", "bytes"))
    whole = ("all", "", f"{flops:,.2f}", f"{n_bytes:,.2f}", f"{sum(seconds):.4f}", "")
    return _table([("", "times", "GFLOP", "GB", "seconds", "share"), *cells, whole])


def _memory_table(run: RunCost, depth: Depth, n_rows: int) -> str:
    """In one line, as it has a number for each of some things; those that are not there are left out."""
    memory = run.memory(depth, n_rows)
    things = {**{name: n_bytes for name, n_bytes in vars(memory).items() if n_bytes}, "all": memory.whole}
    cells = [tuple(things), tuple(f"{n_bytes / GIGA:.3f}" for n_bytes in things.values())]
    return f"its memory, GB\n{_table(cells)}"


def shares_of(run: RunCost, depth: Depth, machine: Machine) -> list[Share]:
    """An update on 1 to 64 GPUs, as many rows in all."""
    shares, n_rows = [], run.settings.batch_size
    for n in counts(n_rows):
        rows = -(-n_rows // n)
        computing = sum(machine.seconds(part.work) for part in run.training(depth, rows))
        communicating = all_reduce(machine, n, NUMBER * run.n_parameters) + agreements(n, run.agreements(depth, rows))
        shares.append(Share(n, computing, communicating, run.memory(depth, rows).whole))
    return shares


def _gpus_table(run: RunCost, depth: Depth, machine: Machine) -> str:
    shares = shares_of(run, depth, machine)
    alone, n_tokens = shares[0].seconds, run.settings.batch_size * run.settings.tgt_len
    cells = [
        (
            f"{share.n}",
            f"{-(-run.settings.batch_size // share.n)}",
            f"{share.seconds:.4f}",
            f"{share.communicating:.4f}",
            f"{n_tokens / share.seconds:,.0f}",
            f"{alone / share.n / share.seconds:.0%}",
            f"{share.memory / GIGA:.2f}" + (" (too much)" if 0 < machine.memory < share.memory else ""),
        )
        for share in shares
    ]
    title = ("GPUs", "rows each", "seconds", "of that communicating", "tokens/s", "efficiency", "GB each")
    return f"such an update on several GPUs, as many rows in all\n{_table([title, *cells])}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return under_each_other(list(zip(*rows, strict=True)))
