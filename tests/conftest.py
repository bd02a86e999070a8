"""What tests of whole runs share."""

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from stopped_runs import flags, signal_in_update
from tiny_run import COURSE, LENGTHS, MODEL, Outcome, call, write_corpus


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads only wait for each other where tensors are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> Iterator[None]:
    """Children inherit ignored signals, as of a test run in the background: the scripts' answers to them are tested."""
    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGTERM: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """A folder with two corpora; runs go below it."""
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder / "corpus")
    write_corpus(folder / "other", n_words=30)
    return folder


@pytest.fixture(scope="session")
def run(place) -> Callable[[str], Outcome]:
    """Runs the script with a tiny model and these further flags; a run that was made before is not made again.

    What comes after the flags is passed as it is, blanks and all.
    """

    @functools.cache
    def cached(further: str = "", *words: str) -> Outcome:
        further = further.replace("{place}", str(place))
        base = f"--data {place}/corpus --dataset text --work_dir {place}/LM- {MODEL} {LENGTHS} {COURSE}"
        return call([*f"{base} {further}".split(), *words])

    return cached


@pytest.fixture(scope="session")
def weights_file(run) -> str:
    """A model that was trained a little."""
    return str(run("--max_step 8").folder / "model_state_dict.pkl")


@pytest.fixture
def user_cache(tmp_path_factory, monkeypatch) -> Path:
    """An empty folder as the user's cache folder."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def stopped(place, tmp_path) -> Path:
    """The folder of a run that was stopped at step 6 of 10."""
    with signal_in_update(6):
        return call(f"{flags(place, '--save_interval 4', 'stopped')} --work_dir {tmp_path}/R-").folder
