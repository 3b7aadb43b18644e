"""Whether runs differ: paired tests on the metrics of the same users, and apart from them on seeds.

``python launch.py --mode=compare RUN RUN ...``, or :func:`compare`. See docs/compare.md.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmrec_jax import report, store
from mmrec_jax.types import Array, UserError

RESAMPLES = 10_000
LEVEL = 0.95  # of the intervals
_CHUNK = 2**23  # random numbers at once: bounds the memory at about 100 MB


@dataclasses.dataclass(frozen=True)
class Paired:
    """How two runs differ over the same users.

    Attributes:
      difference: mean of second - first.
      low, high: ends of its 95 % bootstrap interval.
      p: two-sided, of the sign-flip permutation test; not corrected.
    """

    difference: float
    low: float
    high: float
    p: float


def paired(
    first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Paired:
    """Compares two metrics of the same users, [Q] each; the same seed gives the same numbers.

    Raises:
      UserError: if they are not of the same users, or not all numbers.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise UserError(f"cannot pair metrics of {first.shape} with those of {second.shape} users")
    return paired_rows((second - first)[None], resamples, seed)[0]


def paired_rows(differences: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> list[Paired]:
    """:func:`paired` of many pairs at once, from their differences by user [P, Q].

    Raises:
      UserError: if a difference is not finite.
    """
    if not np.isfinite(differences).all():
        raise UserError("cannot test metrics that are not finite; leave out users without one")
    batch = max(1, min(resamples, _CHUNK // differences.shape[1]))
    moved = jnp.asarray(differences, jnp.float32)
    low, high, p = resampled(jax.random.key(seed), moved, resamples, batch)
    means = differences.mean(axis=1)
    return [Paired(*map(float, row)) for row in zip(means, low, high, p, strict=True)]


@functools.partial(jax.jit, static_argnums=(2, 3))
def resampled(
    key: Array, differences: Array, resamples: int, batch: int
) -> tuple[Array, Array, Array]:
    """Ends of the bootstrap intervals, and p of the sign-flip test; [P] each.

    The bootstrap draws users with replacement and takes percentiles of the means. The permutation
    test flips the sign of each user's difference at random; the observed signs count as one of the
    permutations, so that p is never 0. All pairs share their draws, which depend on ``key`` and the
    number of the resample alone.

    Args:
      key: of all draws.
      differences: [P, Q].
      resamples: draws of each kind.
      batch: how many are drawn at once.
    """
    users = differences.shape[1]
    product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)

    def resample(number: Array) -> tuple[Array, Array]:
        draw, flip = jax.random.split(jax.random.fold_in(key, number))
        # Half the cost of randint, which also evens out what is far below what is shown: the
        # first users are more likely by a factor of 1 + users / 2**32.
        index = jax.random.bits(draw, (users,)) % users
        counts = jnp.zeros(users, jnp.float32).at[index].add(1.0)
        return product(differences, counts), product(differences, _signs(flip, users))

    drawn, flipped = lax.map(resample, jnp.arange(resamples), batch_size=batch)
    tail = (1 - LEVEL) / 2
    low, high = jnp.quantile(drawn / users, jnp.array([tail, 1 - tail]), axis=0)
    # Sums of the same numbers in another order may differ by a rounding; equal ones must count.
    rounding = 1e-6 * jnp.abs(differences).sum(axis=1)
    extreme = jnp.abs(flipped) >= (jnp.abs(differences.sum(axis=1)) - rounding)[None]
    return low, high, (1 + extreme.sum(axis=0)) / (1 + resamples)


def _signs(key: Array, count: int) -> Array:
    """1 or -1 at random, float32 [count]; of single bits, as they are what takes the time."""
    words = jax.random.bits(key, (-(-count // 32), 1))
    bits = (words >> jnp.arange(32, dtype=words.dtype)[None]) & 1
    return 1.0 - 2.0 * bits.reshape(-1)[:count].astype(jnp.float32)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's correction: p-values that hold for all the tests together, in the order given."""
    given = np.asarray(p, np.float64)
    order = np.argsort(given, kind="stable")
    steps = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


@dataclasses.dataclass
class Group:
    """Finished runs that differ in nothing but the seed.

    Attributes:
      name: the method, with what sets it apart from other groups of that method.
      setting: the configuration without the seed, as text.
      seeds: of the runs.
      runs: their directories.
      metrics: by name, the metric of each user in each run, [runs, Q].
    """

    name: str
    setting: str
    seeds: list[int]
    runs: list[str]
    metrics: dict[str, np.ndarray]

    def by_user(self, metric: str) -> np.ndarray:
        """Mean over the seeds, [Q]."""
        return self.metrics[metric].mean(axis=0)

    def by_seed(self, metric: str) -> list[float]:
        """Mean over the users, of each run."""
        return [float(value) for value in self.metrics[metric].mean(axis=1)]


@dataclasses.dataclass(frozen=True)
class _Run:
    """A finished run as it is read: its summary, its setting, and its table of test metrics."""

    path: str
    summary: Mapping[str, Any]
    setting: str
    entity: str
    columns: Mapping[str, np.ndarray]

    @property
    def metric(self) -> str:
        return self.summary["config"]["eval"]["metric"]


def compare(
    runs: Sequence[str | os.PathLike],
    metrics: Sequence[str] = (),
    output: str | os.PathLike = "compare",
    resamples: int = RESAMPLES,
    seed: int = 0,
    against: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Compares finished runs and writes ``compare.md``, ``compare.json`` and ``compare.png``.

    Args:
      runs: their directories; that of a sweep stands for the runs of its winner.
      metrics: such as "recall@20"; empty takes what the runs were chosen by, and ndcg at its K.
      output: folder of what is written.
      resamples: of the bootstrap and of the permutation test.
      seed: of both.
      against: a run or a sweep whose group all others are compared with; None compares all pairs.

    Returns:
      What ``compare.json`` holds.

    Raises:
      UserError: runs that cannot be compared, with the name of the run and the reason.
    """
    baseline = _expanded([] if against is None else [against])
    read = [_read(path) for path in _expanded([*baseline, *runs])]
    metrics = list(metrics) or _usual(read)
    for run in read:
        _check(run, read[0], metrics)
    groups = _groups(read, metrics)
    result = {
        **{key: read[0].summary[key] for key in ("data", "protocol", "split_hash")},
        read[0].entity + "s": len(read[0].columns[read[0].entity]),
        "resamples": resamples,
        "seed": seed,
        "groups": [
            {"name": group.name, "runs": group.runs, "seeds": group.seeds} for group in groups
        ],
        "metrics": _tested(groups, metrics, resamples, seed, bool(baseline)),
    }
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    store.write_json(output / "compare.json", result)
    with store.replacing(output / "compare.md") as part:
        part.write_text(table(result) + "\n", encoding="utf-8")
    plot(result, output / "compare.png")
    return store.plain(result)


def _expanded(paths: Sequence[str | os.PathLike]) -> list[Path]:
    """Directories of lone runs, each once, with the winner's runs in place of a sweep."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        members = [path]
        if (path / "sweep.json").exists():
            if not (path / "summary.json").exists():
                raise UserError(f"{path}: the sweep has not ended; start it again to go on")
            winner = store.read_summary(path).get("winner")
            if not isinstance(winner, dict) or not winner.get("members"):
                raise UserError(f"{path}/summary.json: names no winner; start the sweep again")
            members = [path / name for name in winner["members"]]
        found |= {member.resolve(): member for member in members}
    return list(found.values())


def _read(path: Path) -> _Run:
    """A run and its metrics by user.

    Raises:
      UserError: it has not ended, or was not tested.
    """
    summary, setting = report.read_run(path)
    if not {"name", "seed"} <= set(summary) or "metric" not in summary["config"].get("eval", {}):
        raise UserError(f"{path}/summary.json: not the summary of a run; name runs or sweeps")
    config = {key: value for key, value in json.loads(setting).items() if key != "sweep"}
    tables = sorted(path.glob("per_*_test.parquet"))
    if not tables:
        raise UserError(
            f"{path}: there is no per_user_test.parquet; only runs that were tested can be compared"
        )
    table = store.read_per_query(tables[0])
    entity = table.column_names[0]
    columns = {name: np.asarray(table[name].to_numpy()) for name in table.column_names}
    order = np.argsort(columns[entity], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    return _Run(str(path), summary, json.dumps(config, sort_keys=True), entity, columns)


def _usual(runs: Sequence[_Run]) -> list[str]:
    """The metrics that the runs were chosen by and, where all have it, ndcg at the same K."""
    names = dict.fromkeys(run.metric for run in runs)
    for name in list(names):
        ndcg = f"ndcg@{name.partition('@')[2]}"
        if all(ndcg in run.columns for run in runs):
            names[ndcg] = None
    return list(names)


def _check(run: _Run, first: _Run, metrics: Sequence[str]) -> None:
    """Raises UserError if a run cannot be paired with the first, with the reason."""
    for key, what in (("data", "data"), ("protocol", "protocol"), ("split_hash", "split hash")):
        mine, theirs = run.summary.get(key), first.summary.get(key)
        if mine != theirs:
            raise UserError(f"{run.path}: its {what} is {mine}, but {first.path} has {theirs}")
    for name in metrics:
        if name not in run.columns or name == run.entity:
            known = ", ".join(column for column in run.columns if column != run.entity)
            raise UserError(
                f"{run.path}: its table by {run.entity} has no {name}, only {known}; "
                "choose --metrics among these"
            )
        values = run.columns[name]
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise UserError(f"{run.path}: {name} is not a number for every {run.entity}")
    ids, others = run.columns[run.entity], first.columns.get(run.entity)
    if len(np.unique(ids)) < len(ids):
        raise UserError(
            f"{run.path}: it has several rows for one {run.entity}, which cannot be paired"
        )
    if others is None or not np.array_equal(ids, others):
        raise UserError(f"{run.path}: it was tested on other {run.entity}s than {first.path}")


def _groups(runs: Sequence[_Run], metrics: Sequence[str]) -> list[Group]:
    """Runs that differ only in their seeds, together, in the order of the first of each.

    Raises:
      UserError: two runs that do not even differ in that, or a single group.
    """
    together: dict[str, dict[int, _Run]] = {}
    for run in runs:
        mine = together.setdefault(run.setting, {})
        twin = mine.setdefault(run.summary["seed"], run)
        if twin is not run:
            raise UserError(f"{run.path}: it has the same settings and seed as {twin.path}")
    if len(together) < 2:
        raise UserError(f"{runs[0].path}: there is no run with other settings to compare it with")
    names = _names({setting: [*mine.values()][0] for setting, mine in together.items()})
    return [
        Group(
            name=names[setting],
            setting=setting,
            seeds=list(mine),
            runs=[run.path for run in mine.values()],
            metrics={
                name: np.stack([run.columns[name].astype(np.float64) for run in mine.values()])
                for name in metrics
            },
        )
        for setting, mine in together.items()
    ]


def _names(settings: Mapping[str, _Run]) -> dict[str, str]:
    """A name for each setting: the method's, and where it has several what sets them apart."""
    by_method = collections.defaultdict(list)
    for setting, run in settings.items():
        by_method[run.summary["name"]].append(setting)
    names = {}
    for method, mine in by_method.items():
        for setting in mine:
            apart = f" ({report.distinction(setting, mine)})" if len(mine) > 1 else ""
            names[setting] = method + apart
    return names


def _tested(
    groups: Sequence[Group], metrics: Sequence[str], resamples: int, seed: int, against_first: bool
) -> dict[str, dict[str, Any]]:
    """By metric: ``groups`` with their spread, ``users`` and ``seeds`` with the tests of pairs."""
    pairs = list(itertools.combinations(groups, 2))
    if against_first:
        pairs = pairs[: len(groups) - 1]  # those of the first with each other one
    rows = [b.by_user(name) - a.by_user(name) for name in metrics for a, b in pairs]
    over_users = iter(paired_rows(np.stack(rows), resamples, seed))
    results = {}
    for name in metrics:
        of_users = [dataclasses.asdict(next(over_users)) for _ in pairs]
        of_seeds = [welch(a.by_seed(name), b.by_seed(name)) for a, b in pairs]
        results[name] = {
            "groups": [_spread(group, name) for group in groups],
            "over_users": _corrected(pairs, of_users),
            "over_seeds": _corrected(pairs, of_seeds),
        }
    return results


def _spread(group: Group, metric: str) -> dict[str, Any]:
    values = group.by_seed(metric)
    return {
        "name": group.name,
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "by_seed": values,
    }


def _corrected(pairs: Sequence[tuple[Group, Group]], tests: list[dict]) -> list[dict[str, Any]]:
    """The tests with the names of what they compare, and Holm's correction over those with a p."""
    known = [test["p"] for test in tests if test["p"] is not None]
    holms = iter(holm(known).tolist())
    return [
        {"first": a.name, "second": b.name, **test}
        | {"p_holm": None if test["p"] is None else next(holms)}
        for (a, b), test in zip(pairs, tests, strict=True)
    ]


def welch(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Welch's t-test of means over seeds; p is None with fewer than two seeds or no spread."""
    from scipy import stats

    p, difference = None, statistics.fmean(second) - statistics.fmean(first)
    if min(len(first), len(second)) > 1 and max(np.ptp(first), np.ptp(second)) > 0:
        p = float(stats.ttest_ind(second, first, equal_var=False).pvalue)
    return {"difference": difference, "p": p if p is None or math.isfinite(p) else None}


def table(result: Mapping[str, Any]) -> str:
    """What :func:`compare` returns, as Markdown."""
    entity = "users" if "users" in result else "items"
    lines = [
        f"**{result['data']}**, protocol `{result['protocol']}`, split "
        f"`{str(result['split_hash'])[:8]}`, {result[entity]} {entity}, "
        f"{result['resamples']} resamples; differences are second - first"
    ]
    for name, found in result["metrics"].items():
        lines += ["", f"### {name}", "", f"| method | seeds | {name} |", "|---|---:|---:|"]
        for group in found["groups"]:
            cell = report.spread(group["by_seed"], 4)
            lines.append(f"| {group['name']} | {len(group['by_seed'])} | {cell} |")
        lines += ["", f"Paired over {entity}, each {entity[:-1]}'s mean over the seeds:", ""]
        lines += ["| first | second | difference | 95 % interval | p | p (Holm) |"]
        lines += ["|---|---|---:|---:|---:|---:|"]
        for test in found["over_users"]:
            interval = f"[{test['low']:+.4f}, {test['high']:+.4f}]"
            lines.append(_row(test, interval))
        if any(test["p"] is not None for test in found["over_seeds"]):
            lines += ["", f"Separately, over seeds (Welch's t-test, {entity} held fixed):", ""]
            lines += ["| first | second | difference | p | p (Holm) |", "|---|---|---:|---:|---:|"]
            lines += [_row(test) for test in found["over_seeds"] if test["p"] is not None]
    return "\n".join(lines)


def _row(test: Mapping[str, Any], *cells: str) -> str:
    chances = [f"{test[key]:.4f}" for key in ("p", "p_holm")]
    row = [test["first"], test["second"], f"{test['difference']:+.4f}", *cells, *chances]
    return "| " + " | ".join(row) + " |"


def plot(result: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Draws the differences with their intervals; hollow where Holm's p is not below 0.05."""
    from matplotlib.figure import Figure

    metrics = result["metrics"]
    pairs = next(iter(metrics.values()))["over_users"]
    figure = Figure(figsize=(3 + 4 * len(metrics), min(1.5 + 0.4 * len(pairs), 60)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    places = np.arange(len(pairs))
    for axes, (name, found) in zip(panels, metrics.items(), strict=True):
        tests = found["over_users"]
        middle, low, high = (
            np.array([t[key] for t in tests]) for key in ("difference", "low", "high")
        )
        sure = np.array([test["p_holm"] < 1 - LEVEL for test in tests])
        axes.axvline(0, color="grey", linewidth=1)
        axes.hlines(places, low, high, color="C0")
        axes.scatter(middle, places, facecolors=np.where(sure, "C0", "white"), edgecolors="C0")
        axes.set(title=name, xlabel="second - first")
    panels[0].set_yticks(places, [f"{test['second']} - {test['first']}" for test in pairs])
    panels[0].invert_yaxis()
    with store.replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)
