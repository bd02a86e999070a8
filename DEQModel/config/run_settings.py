"""The settings that say what a program does, where it computes, and what it writes down."""

from dataclasses import dataclass

from config.solve_settings import AN_EQUILIBRIUM
from system.flag import OF_THE_CALL, Need, flag

NO_NAME = "N/A"
IN_ITS_FOLDER = "the run goes on in its own folder"


@dataclass(frozen=True)
class TaskSettings:
    """What is done."""

    eval: bool = flag(False, "evaluate --load or --restart_dir on valid and test, then stop", fixed=OF_THE_CALL)
    load: str = flag("", "state dict to start from, or to evaluate", fixed=OF_THE_CALL, is_place=True)
    restart: bool = flag(
        False, "go on with the run in --restart_dir; flags that are left out keep its values", fixed=OF_THE_CALL
    )
    restart_dir: str = flag("", "folder of an earlier run", fixed=OF_THE_CALL, is_place=True)
    config: str = flag(
        "",
        "take settings from a run's settings.json, or from a TOML file; flags override them",
        listed=False,
        fixed=OF_THE_CALL,
        is_place=True,
    )
    sweep: str = flag(
        "",
        'with --eval: evaluate all combinations of these values, such as "solver=broyden,anderson f_thres=4,8,16"',
        listed=False,
        needs=(Need("--eval", lambda s: s.eval), Need(AN_EQUILIBRIUM, lambda s: not s.evaluates_shallow)),
        fixed=OF_THE_CALL,
    )
    max_eval_steps: int = flag(-1, "segments of an evaluation; -1 means all", least=1, or_exactly=-1)


@dataclass(frozen=True)
class DeviceSettings:
    """Where a run computes."""

    cuda: bool = flag(False, "run on the GPU")
    multi_gpu: bool = flag(False, "use all visible GPUs, a process for each")
    gpu0_bsz: int = flag(-1, "sequences for the first of several processes; -1 means even", least=1, or_exactly=-1)


@dataclass(frozen=True)
class RecordSettings:
    """What is written down, and when. Steps are optimizer updates."""

    save_interval: int | None = flag(
        None, "steps between checkpoints (default: those between validations)", kind=int, least=1, listed=False
    )
    max_bad_steps: int = flag(
        10,
        "updates in a row whose loss or gradient is not finite, and which are skipped, at which the run stops",
        least=1,
        listed=False,
    )
    log_interval: int = flag(200, "steps between log lines", least=1, spelling="--log-interval")
    eval_interval: int = flag(4000, "steps between validations", least=1, spelling="--eval-interval")
    work_dir: str = flag("LM-TFM", "runs go to <work_dir>deq-<dataset>/<timestamp or name>", fixed=IN_ITS_FOLDER)
    name: str = flag(NO_NAME, f"name of the run; {NO_NAME} means a timestamp", fixed=IN_ITS_FOLDER)
    sample: int = flag(
        0,
        "words that the best model writes into the log at the end of the run; 0 means none",
        least=0,
        listed=False,
        needs=(Need("training (no --eval)", lambda s: not s.eval),),
    )
    debug: bool = flag(False, "write nothing to disk but the cache of the encoded corpus", fixed=OF_THE_CALL)

    @property
    def steps_between_saves(self) -> int:
        """Steps between checkpoints."""
        return self.save_interval or self.eval_interval
