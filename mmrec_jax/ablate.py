"""What a run owes to each modality: the ablation table, with its significance.

``python launch.py --mode=ablate --workdir=RUN``, or :func:`ablate`. See docs/ablation.md.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mmrec_jax import compare, evaluate, store, train
from mmrec_jax import run as runs
from mmrec_jax.data import knockout
from mmrec_jax.types import PyTree, Spec, UserError


def ablate(
    workdir: str | Path,
    knockouts: str = "",
    retrain: bool = False,
    split: str = "test",
    seed: int = 0,
) -> dict[str, Any]:
    """Knocks modalities out of the run in ``workdir``, one way after another, and measures it.

    Args:
      workdir: of a finished run; it is left as it is, but for the files of the result.
      knockouts: parted by ``;``, each a row of the table; default :func:`usual`.
      retrain: also train anew with each, in ``workdir/ablate``; what is there already is kept.
      split: what is measured, "test" or "valid".
      seed: of what the knock-outs draw.

    Returns:
      What ``workdir/ablation.json`` holds; ``ablation.md`` is the table.

    Raises:
      UserError: no such run, features or knock-out, or a metric that users have no share of.
    """
    workdir = Path(workdir)
    if split == "test" and not (workdir / "summary.json").exists():
        raise UserError(f"{workdir} holds no finished run; train to the end, or --split=valid")
    run, data, ctx, variables = runs.load(workdir)
    rows = words(knockouts, data.spec)
    if not len(getattr(data, split)):
        raise UserError(f"{data.name} has no interactions in its {split} split")
    evaluator = evaluate.Evaluator(run, data, split, run.config)
    intact, metric = evaluator(variables, {}, ctx), run.config.eval.metric
    if metric not in intact:
        raise UserError(
            f"eval.metric is {metric}, which no single {run.task.ENTITY} has, and an ablation "
            "compares those; knock out with --mode=eval --knockout instead"
        )
    found = []
    for word in rows:
        changed = knockout.knock_out(data, word, seed)
        without = runs.setup(run.config, changed)[2]
        measured = evaluator(variables, {}, without)
        found.append(_row(word, "evaluation", intact, measured, metric))
    if split == "test":
        evaluate.count_tests(workdir, 1 + len(rows))
    if retrain:
        ids = getattr(data, f"{run.task.ENTITY}_ids")[evaluator.users]
        for word in rows:
            config = _configured(run.config, word, seed)
            measured = trained(config, workdir / "ablate" / _folder(word), split, ids)
            found.append(_row(word, "training", intact, measured, metric))
    for row, p in zip(found, compare.holm([row["p"] for row in found]), strict=True):
        row["p_holm"] = float(p)
    result = {
        "name": run.config.model.name,
        "data": data.name,
        "split": split,
        "split_hash": data.notes.get("split_hash"),
        "metric": metric,
        "seed": seed,
        "queries": len(evaluator.users),
        "intact": run.task.summarise(intact, evaluator.users),
        "rows": found,
        "learned_features": learned(variables),
    }
    store.write_json(workdir / "ablation.json", result)
    with store.replacing(workdir / "ablation.md") as part:
        part.write_text(table(result) + "\n")
    return result


def usual(spec: Spec) -> list[str]:
    """Each modality zero and shuffled, and where there are several, all of them shuffled."""
    each = [f"{name}:{how}" for name in spec.modalities for how in ("zero", "shuffle")]
    return each + ["*:shuffle"] * (len(spec.modalities) > 1)


def words(knockouts: str, spec: Spec) -> list[str]:
    """The knock-outs of ``knockouts``, or the usual ones; each checked.

    Raises:
      UserError: one is not known, or there are no features.
    """
    knockout.parse(knockouts, spec.modalities)
    given = [word.strip() for word in knockouts.split(";") if word.strip()]
    return list(dict.fromkeys(given)) or usual(spec)


def learned(variables: PyTree) -> list[str]:
    """Names of parameters that are a learned copy of features, which no later knock-out reaches."""
    paths = jax.tree_util.tree_flatten_with_path(variables.get("params", {}))[0]
    names = ["/".join(str(key.key) for key in path) for path, _ in paths]
    return [name for name in names if name.split("/")[-1] == "features"]


def trained(
    config: ConfigDict, workdir: Path, split: str, ids: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of each query of ``split`` by a run, trained unless ``workdir`` holds it finished.

    Raises:
      UserError: ``workdir`` holds another run, or one that asked others than ``ids``.
    """
    if store.read_summary(workdir).get("config") != json.loads(config.to_json()):
        train.train(config, workdir)
    (file,) = workdir.glob(f"per_*_{split}.parquet")
    asked, *names = (read := store.read_per_query(file)).column_names
    if not np.array_equal(read.column(asked).to_numpy(), ids):
        raise UserError(f"{file}: not the queries of this run; remove {workdir} and start again")
    return {name: read.column(name).to_numpy() for name in names}


def _configured(config: ConfigDict, word: str, seed: int) -> ConfigDict:
    """The configuration of a run that is trained with a knock-out, besides those it had."""
    config = copy.deepcopy(config)
    with config.unlocked():
        config.data.knockout = ";".join(filter(None, [config.data.get("knockout", ""), word]))
        config.data.knockout_seed = seed
    return config


def _folder(word: str) -> str:
    """A knock-out as the name of a folder: ``image-zero``, ``all-shuffle``."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", word.replace("*", "all"))


def _row(
    word: str, at: str, intact: Mapping[str, np.ndarray], measured: Mapping, metric: str
) -> dict[str, Any]:
    """A row of the result: how a knock-out differs from the intact run."""
    found = compare.paired(intact[metric], measured[metric])
    return {
        "knockout": word,
        "at": at,
        "value": float(np.mean(measured[metric], dtype=np.float64)),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "means": {name: float(np.mean(m, dtype=np.float64)) for name, m in measured.items()},
    }


def table(result: Mapping[str, Any]) -> str:
    """What :func:`ablate` returns, as Markdown."""
    metric = result["metric"]
    lines = [
        f"**{result['name']}** on **{result['data']}**, {result['split']}, "
        f"{result['queries']} queries, split `{str(result['split_hash'])[:8]}`",
        "",
        f"| knocked out | at | {metric} | difference | 95 % interval | p (Holm) |",
        "|---|---|---:|---:|---:|---:|",
        f"| nothing | | {result['intact'][metric]:.4f} | | | |",
    ]
    lines += [
        f"| `{row['knockout']}` | {row['at']} | {row['value']:.4f} | {row['difference']:+.4f} | "
        f"{row['low']:+.4f} to {row['high']:+.4f} | {row['p_holm']:.4f} |"
        for row in result["rows"]
    ]
    if copies := ", ".join(result["learned_features"]):
        lines += [
            "",
            f"This run has learned its own copy of features ({copies}), which a knock-out at "
            "evaluation does not reach: believe the rows of --retrain.",
        ]
    return "\n".join(lines)
