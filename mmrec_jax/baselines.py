"""The standing baseline set, tuned with the budget of the method that is studied.

``python launch.py --mode=baselines --workdir=RUN_OR_SWEEP``, or :func:`tune`. See
docs/baselines.md.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from mmrec_jax import data as datasets
from mmrec_jax import report, space, store, sweep
from mmrec_jax import run as runs
from mmrec_jax.types import UserError

MEMBERS = ("popularity", "itemknn", "ease", "ials", "mf", "ensemble")  # below configs/baseline
_EVAL = ("metric", "metrics", "ks", "protocol", "block")  # what makes numbers comparable


@dataclasses.dataclass(frozen=True)
class Studied:
    """A finished run or sweep.

    Attributes:
      config: what its runs have in common; its data and evaluation are those of the baselines.
      seeds: of the runs.
      trials: settings tried.
      runs: directories of what was chosen.
    """

    config: Any
    seeds: tuple[int, ...]
    trials: int
    runs: tuple[Path, ...]


def studied(workdir: str | os.PathLike) -> Studied:
    """What was run in ``workdir``, a lone run (one setting) or a sweep.

    Raises:
      UserError: nothing has ended there.
    """
    path = Path(workdir)
    told = _read(path / "summary.json")
    if (path / "sweep.json").exists():
        plan = _read(path / "sweep.json")
        winner = tuple(path / name for name in told["winner"]["members"])
        config = ConfigDict(runs.tuples(plan["config"]))
        return Studied(config, tuple(plan["seeds"]), len(plan["settings"]), winner)
    config = ConfigDict(runs.tuples(told["config"]))
    return Studied(config, (told["seed"],), 1, (path,))


def _read(path: Path) -> dict[str, Any]:
    try:
        return store.read_json(path, "remove it, and start its command again")
    except OSError as error:
        raise UserError(f"{path}: no finished run or sweep is here; start it first") from error


def tune(
    config: Any,
    trials: int,
    workdir: str | os.PathLike,
    seeds: Sequence[int] | None = None,
    members: Sequence[str] = MEMBERS,
) -> list[Path]:
    """Tunes each baseline by a sweep over the space of its own file, in ``workdir/NAME``.

    Data, metrics and protocol are those of ``config``; the choice is made on validation, and only
    what was chosen is tested. What has ended is not run again, and what was killed goes on. The
    ensemble is left out, with a line on standard error, if there is no content.

    Args:
      config: of the studied method.
      trials: settings to try of each; all of a smaller space, and for 1 that of the file.
      workdir: where the sweeps are written.
      seeds: of methods that learn; the others are the same for all, and take the first. None
        takes that of ``config``.
      members: names of files below ``configs/baseline``.

    Returns:
      The directories of the sweeps.

    Raises:
      UserError: a budget below 1, an unknown name, or what a sweep finds wrong.
    """
    if trials < 1:
        raise UserError(f"--trials is {trials}; it must be at least 1")
    seeds = tuple(seeds or (config.seed,))
    done = []
    for name in members:
        if name == "ensemble" and not _has_content(config):
            print("baselines: ensemble left out, for there is no content", file=sys.stderr)
            continue
        module = _module(name)
        own: Any = adopt(module.get_config(), config)
        own.sweep.trials = trials
        wanted: dict[str, Any] = module.sweep() if trials > 1 and hasattr(module, "sweep") else {}
        wanted["seed"] = seeds if own.train.epochs else seeds[:1]
        path = Path(workdir) / name
        if not (path / "summary.json").exists():
            print(f"baselines: {name}", file=sys.stderr)
        sweep.sweep(own, wanted, path)
        done.append(path)
    return done


def _has_content(config: Any) -> bool:
    data = datasets.load(**config.data)
    return bool(data.features or data.item_graphs)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"configs.baseline.{name}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"configs/baseline/{name}.py is not to be found; start from the checkout, with one of "
            f"{', '.join(MEMBERS)}"
        ) from error


def adopt(own: ConfigDict, config: Any) -> ConfigDict:
    """``own`` with the data, the seed and the evaluation of ``config``, as far as it has them."""
    known = dict(space.leaves(own))
    shared = {key: value for key, value in space.leaves(config) if key.startswith("data.")}
    shared |= {f"eval.{key}": config.eval[key] for key in _EVAL}
    shared["seed"] = config.seed
    own.update_from_flattened_dict({key: value for key, value in shared.items() if key in known})
    return own


def table(method: Studied, swept: Sequence[Path]) -> str:
    """A Markdown table of the studied method and the chosen setting of each baseline.

    Means over seeds, with the sample deviation from two on.
    """
    metric = method.config.eval.metric
    known = _read(method.runs[0] / "summary.json").get("test", {})
    ndcg = f"ndcg@{metric.partition('@')[2]}"
    tests = [name for name in dict.fromkeys((metric, ndcg)) if name in known]
    header = ["method", "settings tried", "seeds", f"valid {metric}", *(f"test {n}" for n in tests)]
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    for number, one in enumerate([method, *map(studied, swept)]):
        told = [_read(run / "summary.json") for run in one.runs]
        cells = [told[0]["name"] + ("" if number else " (studied)"), str(one.trials)]
        cells += [str(len(told)), report.spread([t.get("valid", {}).get(metric) for t in told], 4)]
        cells += [report.spread([t["test"][name] for t in told], 4) for name in tests]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def against(workdir: str | os.PathLike, trials: int = 0, output: str | os.PathLike = "") -> str:
    """Tunes the set for what was run in ``workdir``, and says how it all compares.

    Args:
      workdir: of a run or a sweep.
      trials: settings to try of each baseline; 0 takes as many as the sweep tried.
      output: where the sweeps are written; "" takes ``workdir/baselines-TRIALS``.
    """
    method = studied(workdir)
    trials = trials or method.trials
    output = output or Path(workdir) / f"baselines-{trials}"
    swept = tune(method.config, trials, output, method.seeds)
    lone = method.trials == 1
    budget = f"Budget: {trials} setting{'s' * (trials > 1)} of each baseline, {method.trials} of"
    budget += f" {method.config.model.name}. A smaller number in the table is a whole grid."
    if trials == 1:
        budget += " Nothing was tuned: each has the setting of its file; --trials=N tunes them."
    elif lone:
        budget += " The studied method was not tuned; --mode=sweep does that."
    command = ["python", "launch.py", "--mode=compare", os.fspath(workdir), *map(os.fspath, swept)]
    return f"{table(method, swept)}\n\n{budget}\nTests of the differences: {shlex.join(command)}"
