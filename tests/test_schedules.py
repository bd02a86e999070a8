"""The learning rate's course, against its formulas and against PyTorch's plateau scheduler."""

import math
import random

import pytest
import torch

from utils.schedules import Annealing, Patience, Plateau, Schedule


@pytest.mark.parametrize("kind", ["cosine", "inv_sqrt", "constant", "dev_perf"])
def test_the_first_update_is_warmed_up(kind):
    rate = Schedule(kind, lr=1.0, warmup_step=10, max_step=100)
    first = 10**-1.5 if kind == "inv_sqrt" else 0.1
    assert rate(0) == rate(1) == pytest.approx(first)
    assert rate(7) == pytest.approx(7 * first)


@pytest.mark.parametrize("step", [10, 11, 37, 99, 100])
def test_cosine_counts_from_step_0_after_the_warmup(step):
    rate = Schedule("cosine", lr=0.3, warmup_step=10, max_step=100, eta_min=0.02)
    assert rate(step) == pytest.approx(0.02 + 0.28 * (1 + math.cos(math.pi * step / 100)) / 2)


def test_cosine_without_warmup_starts_at_lr_and_stays_at_eta_min():
    rate = Schedule("cosine", lr=0.3, max_step=100, eta_min=0.02)
    assert rate(0) == 0.3
    assert rate(100) == rate(1000) == pytest.approx(0.02)


def test_inv_sqrt_falls_from_where_the_warmup_ends():
    rate = Schedule("inv_sqrt", lr=2.0, warmup_step=16)
    assert rate(16) == pytest.approx(2 / 4)
    assert rate(17) == pytest.approx(2 * 17**-0.5)
    assert rate(400) == pytest.approx(2 / 20)
    assert Schedule("inv_sqrt", lr=2.0)(0) == 2.0


@pytest.mark.parametrize("kind", ["constant", "dev_perf"])
def test_constant_after_the_warmup(kind):
    rate = Schedule(kind, lr=0.3, warmup_step=2, max_step=5)
    assert [rate(step) for step in (2, 3, 1000)] == [0.3] * 3


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("lr_min", [0.0, 0.3])
def test_plateau_is_torchs(patience, lr_min):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.8, patience=patience, min_lr=lr_min)
    plateau = Plateau(0.8, 0.8, lr_min, patience)
    rng, rates = random.Random(1), set()
    for i in range(60):
        loss = 5 - 0.01 * i + rng.gauss(0, 0.2)
        oracle.step(loss)
        plateau = plateau.after(loss)
        rates.add(plateau.lr)
        assert plateau.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
    assert len(rates) > 2


def test_plateau_never_raises_the_rate():
    plateau = Plateau(0.1, 0.5, lr_min=0.2, patience=0, best=1.0)
    assert plateau.after(2.0).lr == 0.1


@pytest.mark.parametrize("kind", ["cosine", "inv_sqrt", "constant", "dev_perf"])
def test_steps_at_which_the_rate_is_divided_by_10(kind):
    plain, falling = (Schedule(kind, lr=0.3, warmup_step=4, max_step=50, when=when) for when in ((), (20, 10, 40)))
    for step, factor in ((0, 1), (9, 1), (10, 10), (19, 10), (20, 100), (39, 100), (40, 1000), (60, 1000)):
        assert falling(step) == plain(step) / factor


@pytest.mark.parametrize("n", [0, 1, 3, 5])
def test_a_validation_without_progress_is_above_the_best_of_those_more_than_n_old(n):
    rng, patience, losses, told = random.Random(n), Patience(n), [], []
    for i in range(40):
        loss = 5 - 0.1 * i + rng.gauss(0, 0.5)
        told.append(patience.ends_with(loss))
        assert told[-1] == any(loss > before for age, before in enumerate(reversed(losses), start=1) if age > n)
        patience = patience.after(loss)
        losses.append(loss)
    assert len(set(told)) == 2


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_no_progress(loss):
    patience = Patience(0).after(2.0)
    assert patience.ends_with(loss)
    assert not patience.after(loss).ends_with(1.0)
    assert not Patience(0).after(loss).ends_with(1.0)


def test_annealing_waits_anew_after_each_fall_and_compares_with_the_best_of_all():
    annealing, falls = Annealing(Patience(2)), []
    for loss in (3.0, 2.0, 2.5, 2.5, 2.5, 2.1, 2.1, 2.1, 1.9, 2.5, 2.5, 2.5):
        annealing = annealing.after(loss)
        falls.append(annealing.falls)
    # 2.0 is three validations old at the fifth, counts as one of then, and is three old at the eighth and eleventh
    assert falls == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]


def test_trapezoid_is_flat_and_falls_over_its_last_two_fifths():
    schedule = Schedule("trapezoid", lr=2.0, warmup_step=4, max_step=20, eta_min=0.5)
    rates = [schedule(step) for step in range(22)]
    assert rates[:4] == [0.5, 0.5, 1.0, 1.5]
    assert rates[4:13] == [2.0] * 9
    assert rates[12:21] == pytest.approx(torch.linspace(2.0, 0.5, 9).tolist())
    assert rates[21] == 0.5
