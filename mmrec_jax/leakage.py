"""Leakage Impact Score: the most that preference data can be worth to a method.

LIS: Zhang, Huang et al., "A Metric for MLLM Alignment in Large-scale Recommendation", 2025,
https://arxiv.org/abs/2508.04963. Before a multimodal language model is aligned at great cost to
preference data (which user likes what, which items go together), ask what these data could bring at
best: let the ranker have them outright, though they know what it is tested on, and measure by how
much it ranks better than without. No embedding that was made of the data can be expected to tell
it more. A small score speaks against the data, whatever the language model.

There is no public code, and only the abstract and short summaries of the paper could be read.
Theirs is that a ranker with leaked preferences is compared with the same ranker without. Ours are:

- The leaked pairs of user and item become training interactions. The authors leak them to a
  production ranker, it seems as a feature; that has no counterpart which every method could read.
- Test queries are the same with and without: the same users, targets, histories and masked items
  (``Dataset.known``). So a leaked pair that is a test target counts as a hit where the method has
  learned it, and it is learned through parameters and graphs, never read off the query.
- Validation stays as it is and chooses the epoch in both.
- The score is the difference of a metric's means, and relative to the mean without. Its interval is
  a bootstrap over users of their differences, each averaged over the seeds; the interval of the
  relative score takes the mean without as given.
- Without a table, shares of the test interactions themselves are leaked, each holding the smaller
  ones: the curve of what perfect preference data of that size would bring.

A run with leaked data is no test result of its method. Name and notes of its data say so.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmrec_jax import ablate, compare, store
from mmrec_jax import data as datasets
from mmrec_jax.types import UserError

RATES = (0.1, 0.5, 1.0)  # shares of the test interactions that are leaked where there is no table
WARNING = (
    "NO TEST RESULTS OF THE METHOD: what is called leaked was trained on preferences that the test "
    "asks for. It bounds what preference data could bring, and says nothing of how well the method "
    "recommends."
)


def leakage(
    config: ConfigDict,
    workdir: str | Path,
    preferences: str = "",
    seeds: Sequence[int] = (),
    rates: Sequence[float] = RATES,
) -> dict[str, Any]:
    """Trains with and without leaked preferences, and compares on the same test queries.

    Args:
      config: of the method, which may be any that is measured by user on interactions.
      workdir: where the runs and the result go; runs that have ended are kept.
      preferences: a table of users and items (:func:`mmrec_jax.data.leak.given`); "" leaks shares
        of the test interactions.
      seeds: of the runs with and without; default the one of ``config``.
      rates: these shares.

    Returns:
      What ``workdir/leakage.json`` holds; ``leakage.md`` has it as tables.

    Raises:
      UserError: preferences that do not fit the data, impressions, or faulty configuration.
    """
    workdir, seeds = Path(workdir), [int(seed) for seed in seeds or (config.seed,)]
    if config.data.leak:
        raise UserError(f"config.data.leak is '{config.data.leak}'; --mode=leak sets it, leave it")
    given = [str(Path(preferences).resolve())] if preferences else [f"test={r:g}" for r in rates]
    notes = {}
    for what in given:  # mistakes show before anything is trained
        notes[what] = datasets.load(**_configured(config, what, 0).data).notes["LEAKED"]
    data = datasets.load(**config.data)
    ids = data.user_ids[np.unique(data.test.user)]
    if not len(ids):
        raise UserError(f"{data.name} has no test interactions to measure with")
    measured = {
        what: [
            ablate.trained(
                _configured(config, what, seed), workdir / f"{_label(what)}-{seed}", "test", ids
            )
            for seed in seeds
        ]
        for what in ("", *given)
    }
    result = {
        "warning": WARNING,
        "name": config.model.name,
        "data": data.name,
        "split_hash": data.notes.get("split_hash"),
        "metric": config.eval.metric,
        "seeds": seeds,
        "queries": len(ids),
        "leaks": [{"leak": notes[w], "scores": scores(measured[""], measured[w])} for w in given],
    }
    store.write_json(workdir / "leakage.json", result)
    with store.replacing(workdir / "leakage.md") as part:
        part.write_text("\n\n".join([table(result), *details(result)]) + "\n")
    return result


def scores(
    plain: Sequence[Mapping[str, np.ndarray]], leaked: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, dict[str, Any]]:
    """The score of each metric, from metrics of the same users [Q] by seed, without and with.

    Returns:
      By metric: means ``plain`` and ``leaked``, their difference ``lis`` with its interval ``low``
      to ``high``, the same as shares of ``plain`` (None where that is 0), and ``by_seed``.
    """
    names = list(plain[0])
    stack = lambda of: np.stack([[np.asarray(m[n], np.float64) for n in names] for m in of])
    before, after = stack(plain), stack(leaked)  # [seeds, metrics, Q]
    moved = after - before
    found = {}
    for at, paired in enumerate(compare.paired_rows(moved.mean(axis=0))):
        base = float(before[:, at].mean())
        share = lambda value, base=base: value / base if base else None
        found[names[at]] = {
            "plain": base,
            "leaked": float(after[:, at].mean()),
            "lis": paired.difference,
            "low": paired.low,
            "high": paired.high,
            "relative": share(paired.difference),
            "relative_low": share(paired.low),
            "relative_high": share(paired.high),
            "by_seed": moved[:, at].mean(axis=1).tolist(),
        }
    return found


def table(result: Mapping[str, Any]) -> str:
    """The scores of the metric that the method is chosen by, as Markdown, a row for each leak."""
    metric = result["metric"]
    lines = [
        f"**{result['warning']}**",
        "",
        f"Leakage Impact Score of {metric}, {result['name']} on {result['data']}, "
        f"{len(result['seeds'])} seed(s), {result['queries']} users",
        "",
        f"| leaked | pairs, new to training | of test | {_HEAD}",
        "|---|---:|---:" + _RULE,
    ]
    lines += [
        f"| {Path(entry['leak']['from']).name} "
        f"| {entry['leak']['pairs'] - entry['leak']['known_already']} "
        f"| {entry['leak']['of_test']} {_cells(entry['scores'][metric])}"
        for entry in result["leaks"]
    ]
    return "\n".join(lines)


def details(result: Mapping[str, Any]) -> list[str]:
    """The scores of all metrics, a table for each leak."""
    return [
        "\n".join(
            [f"Leaked: {entry['leak']['from']}", "", f"| metric | {_HEAD}", "|---" + _RULE]
            + [f"| {name} {_cells(score)}" for name, score in entry["scores"].items()]
        )
        for entry in result["leaks"]
    ]


_HEAD = "without | with the leak | LIS | 95 % interval | LIS, relative | 95 % interval |"
_RULE = "|---:|---:|---:|---:|---:|---:|"


def _cells(score: Mapping[str, Any]) -> str:
    """The cells of one score that :data:`_HEAD` names."""
    cells = [f"{score['plain']:.4f}", f"{score['leaked']:.4f}", f"{score['lis']:+.4f}"]
    cells += [f"{score['low']:+.4f} to {score['high']:+.4f}"]
    if score["relative"] is None:
        return f"| {' | '.join([*cells, '-', '-'])} |"
    cells += [f"{score['relative']:+.1%}"]
    cells += [f"{score['relative_low']:+.1%} to {score['relative_high']:+.1%}"]
    return f"| {' | '.join(cells)} |"


def _label(what: str) -> str:
    """What the runs with a leak are called, in the names of their folders."""
    if not what:
        return "plain"
    return f"leaked-{what.replace('=', '-')}" if what.startswith("test=") else "leaked-table"


def _configured(config: ConfigDict, what: str, seed: int) -> ConfigDict:
    """The configuration of one run."""
    config = copy.deepcopy(config)
    with config.unlocked():
        config.data.leak, config.seed = what, seed
    return config
