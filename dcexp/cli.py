"""The door: words of the command line become one typed object and go to a verb. Only this module knows Hydra."""

import difflib
import logging
import os
import signal
import sys
import textwrap
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from dcexp.mistakes import is_wrong_argument, message

CONF = next(p for p in (Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf") if p.is_dir())

VERBS = {
    "run": "select, reshard, train and evaluate what the words describe (the default verb)",
    "plan": "show every step of that run, what is there already and what it would cost",
    "evaluate": "evaluate any checkpoint of open_clip: checkpoint=FILE model=ViT-B-32",
    "score": "features and CLIP scores for tars of your own: checkpoint=FILE model=ViT-B-32 shards=DIR out=DIR",
    "cluster": "k-means on the features of that run's pool: clustering.clusters=100000",
    "download": "get the evaluation sets of tasks",
    "verify": "check every artifact of that run against its manifest",
    "leaderboard": "compare all runs of the store",
}
WRITES_A_LOG = ["hydra/job_logging=screen_and_file"]
WRITES_NOTHING = ["hydra/job_logging=screen", "hydra.run.dir=.", "hydra.output_subdir=null"]
GROUPS = ("scale", "source", "filter", "reshard", "tasks", "engine", "tracker", "experiment", "part")


def main() -> None:
    """Entry point of ``dcexp`` and ``python -m dcexp``. Exits 1 with one message when a user can mend it."""
    words = sys.argv[1:]
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    if "--help" in words or "-h" in words:
        sys.stdout.write(usage())
        return
    for number in (signal.SIGTERM, signal.SIGUSR1):  # let go of claims, close the tracker
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        verb = _take_verb(words)
        _compose_and_call(verb, words)
    except KeyboardInterrupt:
        _stop("interrupted. Finished pieces are kept: the same command goes on from them", 130)
    except Exception as error:
        cause = _innermost(error)
        in_config = cause is not error and isinstance(cause, ImportError | TypeError | AttributeError)
        if traceback_wanted or not (_is_users(cause) or in_config):
            raise
        _note_in_log(error)
        _stop(message(cause, CONF), 1)


def usage() -> str:
    """What can be said, from the option files themselves."""
    lines = ["usage: python -m dcexp [VERB] [group=option | key=value]...", "", "verbs:"]
    lines += [f"  {verb:<12} {text}" for verb, text in VERBS.items()] + ["", "groups and their options:"]
    for group in GROUPS:
        options = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        lines += textwrap.wrap(options, 110, initial_indent=f"  {group:<13}", subsequent_indent=" " * 15)
    lines += [
        "",
        "keys:         seed=0  until=pool|subset|shards|checkpoint|results  rebuild=KIND  store.root=DIR",
        "              source.root=DIR  filter.fraction=0.3  filter.path=FILE  engine.workers=N  tracker.mode=offline",
        "              evalsets=DIR  evaluation=parity|fast  assets.cache=DIR  assets.lid_176_bin=FILE (and so on)",
        "mixtures:     +part@mixture.NAME=webdataset mixture.NAME.source.root=DIR mixture.NAME.weight=2  weight=1",
        "sweeps:       python -m dcexp -m filter=none,clip_score seed=0,1,2   (on SLURM: hydra/launcher=slurm)",
        "the config:   add --cfg job to see it, --hydra-help for Hydra's own flags",
    ]
    return "\n".join(lines) + "\n"


def _take_verb(words: list[str]) -> str:
    """Remove a leading verb from ``words``; anything with '=' or a leading sign is not one."""
    if not words or "=" in words[0] or words[0][:1] in "-+~":
        return "run"
    verb = words.pop(0)
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        raise ValueError(
            f"no verb {verb!r}{f', did you mean {near[0]!r}?' if near else '.'} There are: {', '.join(VERBS)}"
        )
    return verb


def _compose_and_call(verb: str, words: list[str]) -> None:
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the message is made in main()
    if late := next((word for word in words if word in VERBS), None):
        raise ValueError(f"{late!r} is a verb; verbs come first: python -m dcexp {late} …")
    sweep = bool({"-m", "--multirun"} & set(words))
    if verb != "run" and sweep:
        raise ValueError(f"{verb} takes one run, not a sweep: leave out -m and give one option per group")
    own = WRITES_A_LOG if verb in ("run", "evaluate") else WRITES_NOTHING
    if any(word.startswith(("--config-path", "-cp")) for word in words):
        own = []  # a conf of one's own need not have our options
    # argparse, which Hydra uses, wants all overrides side by side.
    first = next((i for i in range(len(words)) if _is_override(words, i)), len(words))
    sys.argv = [sys.argv[0], *words[:first], *own, *words[first:]]

    def call(cfg: Any) -> None:
        from hydra.utils import instantiate

        from dcexp import commands

        refuse_shadowed_scales()
        refuse_mixed_up_sweeps(cfg)
        logging.captureWarnings(True)
        try:
            getattr(commands, verb)(instantiate(cfg))
        except Exception as error:
            if sweep:  # when all runs are done, Hydra raises the first failure alone
                logging.getLogger(__name__).error("failed: %s", message(_innermost(error), CONF))
            raise

    hydra.main(version_base="1.3", config_path=str(CONF), config_name=verb)(call)()


def _is_override(words: list[str], i: int) -> bool:
    """True for ``key=value``, ``+key=…`` and ``~key``; not for the value of a flag before it."""
    word, before = words[i], words[i - 1] if i else ""
    of_flag = before in ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p")
    return not (word.startswith("-") or of_flag) and ("=" in word or word[:1] in ("+", "~"))


def refuse_shadowed_scales() -> None:
    """Raise ValueError when another config directory holds a scale of a published name with other values."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from dcexp.scale import PUBLISHED, locked

    for source in HydraConfig.get().runtime.config_sources:
        folder = Path(source.path) / "scale"
        if source.schema != "file" or folder == CONF / "scale" or not folder.is_dir():
            continue
        for path in sorted(folder.glob("*.yaml")):
            values: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            values = values.get("scale", values) if isinstance(values, dict) else {}
            if isinstance(values, dict) and (path.stem in PUBLISHED or values.get("name") in PUBLISHED):
                try:
                    locked(**{k: v for k, v in values.items() if k not in ("_target_", "defaults")})
                except ValueError as error:
                    raise ValueError(f"{path} shadows a published scale. {error}") from None


def refuse_mixed_up_sweeps(cfg: Any) -> None:
    """Raise ValueError for a sweep without -m, and for rebuild in one: each run would remake what the others use."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_cfg = HydraConfig.get()
    sweep = hydra_cfg.mode == RunMode.MULTIRUN
    if not sweep and (hydra_cfg.sweeper.get("params") or "Basic" not in hydra_cfg.launcher.get("_target_", "Basic")):
        raise ValueError("these words describe a sweep, which -m starts: python -m dcexp -m …")
    if sweep and cfg.get("rebuild"):
        raise ValueError("rebuild in a sweep would make shared pieces once per run: rebuild first, then sweep without")


def _innermost(error: BaseException) -> BaseException:
    """The error a stage or Hydra raised, without the wrappers around it."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    while isinstance(error, HydraException | OmegaConfBaseException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_users(error: BaseException) -> bool:
    """True for what a user can mend: bad values, missing files, full disks, dead workers, config mistakes."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    kinds = (ValueError, OSError, FloatingPointError, YAMLError, HydraException, OmegaConfBaseException)
    from_slurm = type(error).__module__.startswith("submitit")
    return from_slurm or isinstance(error, kinds) or type(error) is RuntimeError or is_wrong_argument(error)


def _note_in_log(error: Exception) -> None:
    """Put the whole traceback into the log of the run's folder, where there is one; the screen gets the message."""
    stopped = type(error), error, error.__traceback__
    record = logging.LogRecord(__name__, logging.ERROR, __file__, 0, "stopped", None, stopped)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _end(number: int, _: FrameType | None) -> NoReturn:
    name = signal.Signals(number).name
    _stop(f"ended by {name}. Finished pieces are kept: the same command goes on from them", 128 + number)


def _stop(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"\nerror: {message}\n")
    raise SystemExit(code)
