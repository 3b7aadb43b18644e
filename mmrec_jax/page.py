"""``report.html``: what a run or a sweep has to show, in one file that needs no other.

``python -m mmrec_jax.page DIR ...`` writes it anew from the files of a run or sweep; nothing is
computed again. The page holds its pictures, loads nothing and runs no script.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrec_jax import hosts, logs, markup, plots, report, slices, store
from mmrec_jax.types import Array, Context, Dataset, PyTree, UserError

NAME = "report.html"
_EXPLAINED = 64  # numbers of an array that a method explains itself by; more are no explanation
_HERE = {  # pictures that have a section of their own, and what they show
    "curves.png": "Training loss and validation metrics over the epochs",
    "slices.png": "The metric of choice on slices of the test users and items",
    "popularity.png": "Shares of popularity groups in training and in what is recommended",
    "embedding.png": "Map of the item vectors, coloured by training interactions",
    "sensitivity.png": "Validation metric against each varied hyper-parameter",
    "validation.png": "Validation metric of every run over its epochs",
}
_SHOWN = {  # keys of a run's summary that have a place on the page
    "name", "data", "protocol", "seed", "split_hash", "test", "valid", "slices", "beyond", "split",
    "explain", "epochs", "best_epoch", "seconds_per_epoch", "seconds_per_evaluation",
    "compile_seconds", "forecast_memory_bytes", "peak_memory_bytes", "model_bytes", "parameters",
    "test_evaluations", "versions", "device", "mesh", "data_notes", "config", "exposure",
}  # fmt: skip
# --- while a run ends ---


@contextlib.contextmanager
def spared(what: str, again: str = "") -> Iterator[None]:
    """Makes an error of its body one line of warning on standard error.

    Pictures come after the results. Whoever has trained for hours wants those, and an exit status
    that says that they are there; ``again`` is the command that shows the error in full.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        hint = f"; to see why: {again}" if again else ""
        print(f"warning: {what} failed ({reason}); the results stand{hint}", file=sys.stderr)


def attach(write: Callable[[Path], Path], workdir: str | Path) -> None:
    """Writes a page at the end of what has its results on disk; never fails."""
    with spared(f"{Path(workdir) / NAME}", f"python -m mmrec_jax.page {workdir}"):
        write(Path(workdir))


def look(
    run: Any, data: Dataset, ctx: Context, variables: PyTree, hyper: Mapping, workdir: Path
) -> dict[str, Any]:
    """Draws ``embedding.png`` and asks the method to explain itself, as far as it can; never fails.

    The map is drawn where ``represent`` has vectors "item" [I, D]. A method may define
    ``explain(rep, ctx)``, which names small arrays that tell what it has learned, such as the
    weights of modalities; they are kept under ``explain``.

    Args:
      run: the fixed part of the run (``run.Run``).
      data: whose training interactions colour the map.
      ctx: the method's context.
      variables: linen variables.
      hyper: hyper-parameters that vary.
      workdir: where the map goes.
    """
    facts, vectors, told = {}, None, {}
    with spared(f"a look into {run.config.model.name}"):
        vectors, told = _inspect(run, variables, dict(hyper), ctx)
    with spared("what the method explains"):
        if told:
            facts["explain"] = {name: _small(name, value) for name, value in told.items()}
    path = Path(workdir) / "embedding.png"
    with spared(f"{path}"):
        if vectors is not None:
            count = data.train.item_counts(data.spec.num_items)
            plots.embedding(vectors, count, path)
    return facts


def exposure(data: Dataset, users: np.ndarray, lists: np.ndarray) -> dict[str, dict[str, float]]:
    """How much of what is there, trained on, wanted and recommended each popularity group makes up.

    The groups are those of :func:`mmrec_jax.slices.popularity`.

    Args:
      data: the data set.
      users: int [Q], who is recommended to.
      lists: int [Q, K], the best items of each; -1 where there is none.

    Returns:
      Shares by group, for ``items``, ``training``, ``test`` and ``recommended``.
    """
    trained = data.train.item_counts(data.spec.num_items)
    group = slices.popularity(trained)
    seen = {
        "items": np.arange(data.spec.num_items),
        "test": slices.targets(data.test, users)[1],
        "recommended": lists[lists >= 0],
    }
    width = len(slices.POPULARITY)
    found = {name: np.bincount(group[item], minlength=width) for name, item in seen.items()}
    found["training"] = np.bincount(group, trained, minlength=width)
    share = lambda count: (count / max(count.sum(), 1)).tolist()
    return {
        name: dict(zip(slices.POPULARITY, share(found[name]), strict=True))
        for name in ("items", "training", "test", "recommended")
    }


def _inspect(run, variables, hyper, ctx) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """The item vectors [I, D] of the representation, if it has any, and what ``explain`` tells."""
    import jax

    def inside(variables: PyTree, hyper: dict, ctx: Context) -> tuple[Array | None, dict]:
        model = run.model(hyper, ctx)
        rep = model.apply(variables, ctx, method="represent")
        told = {}
        if hasattr(run.method, "explain"):
            told = model.apply(variables, rep, ctx, method="explain")
        item = rep.get("item") if isinstance(rep, Mapping) else None
        rows, columns = (*getattr(item, "shape", ()), 0, 0)[:2]
        is_map = getattr(item, "ndim", 0) == 2 and rows == run.fields["spec"].num_items
        return (item if is_map and columns >= 2 else None), told

    vectors, told = hosts.whole(jax.jit(inside)(variables, hyper, ctx))
    vectors = None if vectors is None else vectors.astype(np.float32)
    if vectors is not None and not np.isfinite(vectors).all():
        raise ValueError("item vectors are not finite")
    return vectors, told


def _small(name: str, value: np.ndarray) -> Any:
    """An explaining array for the summary."""
    if value.size > _EXPLAINED or value.ndim > 2:
        raise ValueError(f"explain: {name} is {list(value.shape)}; at most {_EXPLAINED} numbers")
    return store.plain(value)


# --- pages ---


def run(workdir: str | Path) -> Path:
    """Writes the page of a finished run, and the pictures that it lacks.

    Raises:
      UserError: there is no finished run.
    """
    workdir = Path(workdir)
    summary = _read(workdir / "summary.json")
    config = summary.get("config", {})
    metric = _leaf(config, "eval.metric") or "recall@20"
    _draw_run(workdir, summary, metric)
    sections = [
        ("results", "Results", _results(summary, metric)),
        ("curves", "Curves", _own(workdir, "curves.png") if _log(workdir) else ""),
        ("slices", "Slices", _slices(workdir, summary.get("slices"), metric)),
        ("beyond", "Beyond accuracy", _beyond(summary.get("beyond"))),
        ("popularity", "Popularity bias", _popularity(workdir, summary)),
        ("map", "Map of the items", _own(workdir, "embedding.png")),
        ("explain", "What the method learned", _explain(summary.get("explain"))),
        ("split", "Split", _split(summary)),
        ("cost", "Time and memory", _cost(workdir, summary)),
        ("further", "Further facts", _further(workdir, summary, _SHOWN)),
        ("configuration", "Configuration", _configuration(config)),
        ("environment", "Environment", _environment(summary)),
    ]
    facts = {key: summary.get(key) for key in ("data", "protocol")}
    facts |= {"split": _hash(summary.get("split_hash")), "seed": summary.get("seed")}
    lead = {
        f"{split} {metric}": summary[split].get(metric)
        for split in ("test", "valid")
        if summary.get(split)
    }
    above = markup.Html("")
    if (workdir.absolute().parent / "sweep.json").exists():
        above = markup.Html(f'<p class="soft"><a href="../{NAME}">the sweep of this run</a></p>')
    name = str(summary.get("name", "run"))
    return _save(workdir, markup.document(name, lead, facts, sections, above))


def sweep(workdir: str | Path) -> Path:
    """Writes the page of a finished sweep, and those of its members that are older than their run.

    Raises:
      UserError: there is no finished sweep.
    """
    workdir = Path(workdir)
    summary, plan = _read(workdir / "summary.json"), _read(workdir / "sweep.json")
    rows = _rows(workdir / "results.csv", [*plan.get("space", {}), "seed"])
    for row in rows:
        with spared(f"{workdir / row['run'] / NAME}"):
            _renew(workdir / row["run"])
    metric, winner = summary["metric"], summary["winner"]
    _draw_sweep(workdir, plan, rows, metric, winner)
    sections = [
        ("winner", "Winner", _winner(summary, metric)),
        ("settings", "Settings", _settings(plan, rows, metric)),
        ("sensitivity", "Sensitivity", _own(workdir, "sensitivity.png")),
        ("validation", "Validation curves", _own(workdir, "validation.png")),
        ("runs", "Runs", _members(workdir, plan, rows, metric, winner["members"])),
        ("search", "Search", _search(summary, plan)),
        ("further", "Further plots", _strays(workdir)),
        ("configuration", "Configuration", _configuration(plan.get("config", {}))),
        ("environment", "Environment", _environment(summary)),
    ]
    facts = {key: summary.get(key) for key in ("data", "protocol")}
    facts |= {"split": _hash(summary.get("split_hash")), "runs": summary.get("runs")}
    facts["test evaluations"] = summary.get("test_evaluations")
    lead = {
        f"{split} {metric}": _mean(winner[split].get(metric))
        for split in ("test", "valid")
        if split in winner
    }
    title = f"Sweep of {summary.get('name', 'a method')}"
    return _save(workdir, markup.document(title, lead, facts, sections))


def _renew(workdir: Path) -> None:
    """Writes the page of a member, if it has ended and the page is older than that."""
    done, page = workdir / "summary.json", workdir / NAME
    if done.exists() and not (page.exists() and page.stat().st_mtime > done.stat().st_mtime):
        run(workdir)


def _draw_run(workdir: Path, summary: Mapping, metric: str) -> None:
    if _log(workdir) and not (workdir / "curves.png").exists():
        report.curves(workdir, metric)
    if summary.get("slices"):
        plots.slices(summary["slices"], metric, workdir / "slices.png")
    if summary.get("exposure"):
        plots.exposure(summary["exposure"], workdir / "popularity.png")


def _draw_sweep(workdir, plan, rows, metric, winner) -> None:
    space = {key: values for key, values in plan.get("space", {}).items() if key != "seed"}
    reached = [{**row["values"], metric: row.get(f"valid/{metric}")} for row in rows]
    plots.sensitivity(space, reached, metric, winner["values"], workdir / "sensitivity.png")
    records = {row["run"]: _log(workdir / row["run"]) for row in rows}
    plots.validation(records, metric, winner["members"], workdir / "validation.png")


# --- sections of a run ---


def _results(summary: Mapping, metric: str) -> str:
    """Test and validation metrics, the metric of choice marked."""
    parts = [
        _metrics(title, summary[split], metric)
        for split, title in (("test", "Test"), ("valid", "Validation"))
        if summary.get(split)
    ]
    note = f"Chosen by {metric} on validation."
    if not summary.get("test"):
        note += " Not evaluated on test."
    elif summary.get("test_evaluations"):
        note += f" Evaluated on test {_times(summary['test_evaluations'])}."
    return f'<div class="pair">{"".join(parts)}</div><p class="soft">{markup.escaped(note)}</p>'


def _metrics(title: str, metrics: Mapping[str, Any], metric: str, show: Callable | None = None):
    """A table with a row per metric and a column per K, or a plain one where there is no K."""
    show = show or report.number
    cut = {tuple(name.rsplit("@", 1)): value for name, value in metrics.items() if "@" in name}
    whole = [(name, show(value)) for name, value in metrics.items() if "@" not in name]
    cuts = sorted({k for _, k in cut}, key=lambda k: (len(k), k))
    rows = [
        [name, *(show(cut[name, k]) if (name, k) in cut else "" for k in cuts)]
        for name in dict.fromkeys(name for name, _ in cut)
    ]
    name, _, k = metric.rpartition("@")
    marks = {(name, 1 + cuts.index(k))} if k in cuts else {(metric, 1)}
    blocks = []
    if rows:
        blocks.append(markup.table(["metric", *(f"@{k}" for k in cuts)], rows, title, marks))
    if whole:
        blocks.append(markup.table(["metric", "value"], whole, title, marks))
    return f"<div>{''.join(blocks)}</div>"


def _slices(workdir: Path, families: Any, metric: str) -> str:
    """The plot, and a table per family of the metrics at the K of ``metric``."""
    if not families:
        return ""
    cut = metric.partition("@")[1:]
    tables = []
    for family, parts in families.items():
        names = list(dict.fromkeys(name for row in parts.values() for name in row))
        names = [n for n in names if n.partition("@")[1:] in (cut, ("", ""))]
        rows = [[part, *(row.get(name) for name in names)] for part, row in parts.items()]
        marks = {(part, 1 + names.index(metric)) for part in parts} if metric in names else set()
        tables.append(markup.table(["slice", *names], rows, family, marks))
    return f'{_own(workdir, "slices.png")}<div class="pair">{"".join(tables)}</div>'


def _beyond(beyond: Any) -> str:
    """Single values in one table, and each named group of values in one of its own."""
    if not beyond:
        return ""
    whole = {name: value for name, value in beyond.items() if not isinstance(value, Mapping)}
    blocks = [markup.pairs(whole, "Of the test lists")]
    for name, group in beyond.items():
        if isinstance(group, Mapping) and group:
            blocks.append(_group(name, group))
    return f'<div class="pair">{"".join(blocks)}</div>'


def _group(name: str, group: Mapping[str, Any]) -> str:
    """Values by name, or by name and column."""
    if not all(isinstance(row, Mapping) for row in group.values()):
        return markup.pairs(group, name)
    columns = list(dict.fromkeys(key for row in group.values() for key in row))
    rows = [
        [key, *(markup.shown(row.get(column)) for column in columns)] for key, row in group.items()
    ]
    return markup.table(["", *columns], rows, name)


def _popularity(workdir: Path, summary: Mapping) -> str:
    """Which items there are, are trained on, are wanted, and are recommended, by popularity."""
    shares = summary.get("exposure")
    if not shares:
        return ""
    cut = markup.shown((summary.get("beyond") or {}).get("k"))
    note = (
        "Head, mid and tail are the 20 % most, 60 % next and 20 % least popular of the items in "
        f"training; the others are cold. Recommended are the first {cut} of each test list."
    )
    table = _group("Shares", {name: dict(parts) for name, parts in shares.items()})
    return f'{_own(workdir, "popularity.png")}<p class="soft">{markup.escaped(note)}</p>{table}'


def _explain(told: Any) -> str:
    """Numbers as bars; tables where an array has two axes."""
    if not told:
        return ""
    blocks = []
    for name, value in told.items():
        values = value if isinstance(value, list) else [value]
        if values and isinstance(values[0], list):
            head = ["", *map(str, range(len(values[0])))]
            rows = [[str(i), *map(markup.shown, row)] for i, row in enumerate(values)]
        else:
            largest = max((abs(v) for v in values if plots.finite(v)), default=0) or 1
            head = ["", "value", ""]
            rows = [[str(i), markup.shown(v), _bar(v, largest)] for i, v in enumerate(values)]
        blocks.append(markup.table(head, rows, name))
    return f'<div class="pair">{"".join(blocks)}</div>'


def _bar(value: Any, largest: float) -> markup.Html:
    share = 8 * abs(value) / largest if plots.finite(value) else 0
    return markup.Html(f'<span class="bar" style="width:{share:.2f}rem"></span>')


def _split(summary: Mapping) -> str:
    """The passport of the split, its warnings first, and what the data set says of itself."""
    passport = dict(summary.get("split") or {})
    warnings = passport.pop("warnings", None) or passport.pop("warning", None) or []
    warnings = [warnings] if isinstance(warnings, str) else warnings
    blocks = [f'<p class="warn" role="note">{markup.escaped(line)}</p>' for line in warnings]
    if not passport:
        passport = {"split_hash": summary.get("split_hash")}
    parts = {name: passport.pop(name) for name in ("train", "valid", "test") if name in passport}
    tables = _group("Parts", parts) if parts else "", markup.pairs(passport, "Split")
    blocks.append(f'<div class="pair">{"".join(tables)}</div>')
    notes = summary.get("data_notes")
    if notes:
        blocks.append(
            markup.folded("What the data set says of itself", markup.pairs(notes, "Data set"))
        )
    return "".join(blocks)


def _cost(workdir: Path, summary: Mapping) -> str:
    log = _log(workdir)
    spent = lambda key: sum(r.get(key) or 0 for r in log)
    times = {
        "epochs": summary.get("epochs"),
        "best epoch": summary.get("best_epoch"),
        "an epoch": _seconds(summary.get("seconds_per_epoch")),
        "an evaluation": _seconds(summary.get("seconds_per_evaluation")),
        "compiling the epoch": _seconds(summary.get("compile_seconds")),
        "all epochs": _seconds(spent("seconds")) if log else None,
        "all evaluations": _seconds(spent("evaluation_seconds")) if log else None,
    }
    sizes = {
        "forecast for an epoch": _bytes(summary.get("forecast_memory_bytes")),
        "peak": _bytes(summary.get("peak_memory_bytes")),
        "the model": _bytes(summary.get("model_bytes")),
        "parameters": summary.get("parameters"),
    }
    tables = markup.pairs(times, "Time"), markup.pairs(sizes, "Memory")
    return f'<div class="pair">{"".join(tables)}</div>'


def _further(workdir: Path, summary: Mapping, known: Iterable[str]) -> str:
    """What a task or method adds to the summary, and pictures it leaves in the workdir."""
    rest = {key: value for key, value in summary.items() if key not in known}
    blocks = [markup.pairs(value, key) for key, value in rest.items() if isinstance(value, Mapping)]
    single = {key: value for key, value in rest.items() if not isinstance(value, Mapping)}
    blocks.append(markup.pairs(single, "Facts"))
    return "".join(blocks) + _strays(workdir)


def _strays(workdir: Path) -> str:
    """Every PNG of the workdir that has no section of its own."""
    found = [path.name for path in sorted(workdir.glob("*.png")) if path.name not in _HERE]
    return "".join(markup.figure(workdir / name, name, name) for name in found if name[0] != ".")


def _configuration(config: Mapping) -> str:
    """What differs from the defaults, and all of it folded."""
    mine, base = dict(report.leaves(config)), _defaults()
    whole = markup.folded(
        "The whole configuration", markup.table(["key", "value"], mine.items(), "All keys")
    )
    if base is None:
        return whole
    rows = [[key, value, base.get(key)] for key, value in mine.items() if base.get(key) != value]
    title = "Keys that differ from configs/base.py, or are the method's own"
    return markup.table(["key", "value", "default"], rows, title) + whole


def _defaults() -> dict[str, str] | None:
    """The values of ``configs/base.py``, which a checkout has and an installed package lacks."""
    path = Path(__file__).parent.parent / "configs" / "base.py"
    if not path.exists():
        return None
    return dict(report.leaves(json.loads(runpy.run_path(str(path))["get_config"]().to_json())))


def _environment(summary: Mapping) -> str:
    facts = {
        f"{part} {key}": value
        for part in ("device", "mesh")
        for key, value in (summary.get(part) or {}).items()
    }
    return markup.pairs({**facts, **(summary.get("versions") or {})}, "What computed this")


# --- sections of a sweep ---


def _winner(summary: Mapping, metric: str) -> str:
    """The chosen values, and its metrics over seeds."""
    winner = summary["winner"]
    spread = ", mean ± sample deviation over seeds" if len(winner["members"]) > 1 else ""
    parts = [
        _metrics(title + spread, winner[split], metric, _mean)
        for split, title in (("test", "Test"), ("valid", "Validation"))
        if split in winner
    ]
    links = ", ".join(
        f'<a href="{markup.escaped(m)}/{NAME}">{markup.escaped(m)}</a>' for m in winner["members"]
    )
    note = (
        f"The setting with the best mean {metric} on validation. The whole sweep evaluated on test "
        f"{_times(summary.get('test_evaluations'))}, after this choice."
    )
    return (
        f"<p>{markup.escaped(note)} Its runs: {links}.</p>"
        + markup.table(["key", "value"], _as_given(winner["values"]).items(), "Chosen values")
        + "".join(parts)
    )


def _settings(plan: Mapping, rows: Sequence[Mapping], metric: str) -> str:
    """A row per setting, best validated first, averaged over its seeds."""
    keys = [key for key in plan.get("space", {}) if key != "seed"]
    groups: dict[str, list[Mapping]] = {}
    for row in rows:
        groups.setdefault(row["setting"], []).append(row)
    splits = [s for s in ("valid", "test") if any(r.get(f"{s}/{metric}") is not None for r in rows)]
    table = []
    for number, mine in groups.items():
        values = _as_given(mine[0]["values"])
        cells = [number, *(values[key] for key in keys), len(mine)]
        cells.append(report.spread([row.get("epochs") for row in mine], 0))
        for split in splits:
            reached = [row.get(f"{split}/{metric}") for row in mine]
            lost = any(row["status"] == "diverged" for row in mine)
            cells.append("diverged" if lost and split == "valid" else report.spread(reached, 4))
        table.append(cells)
    head = ["setting", *keys, "runs", "epochs", *(f"{split} {metric}" for split in splits)]
    best = str(table[0][0]) if table else ""
    marks = {(best, 3 + len(keys))}
    return markup.table(
        head, table, "Mean ± sample deviation over seeds; the chosen one first", marks
    )


def _members(workdir, plan, rows, metric, chosen) -> str:
    """A row per run, with a link to its own page."""
    keys = [*(key for key in plan.get("space", {}) if key != "seed"), "seed"]
    table = []
    for row in sorted(rows, key=lambda row: row["run"]):
        name = row["run"]
        link = f'<a href="{markup.escaped(name)}/{NAME}">{markup.escaped(name)}</a>'
        cells = [markup.Html(link if (workdir / name / NAME).exists() else markup.escaped(name))]
        values = _as_given(row["values"])
        cells += [values[key] for key in keys]
        cells += ["chosen" if name in chosen else row["status"]]
        cells += [row.get("epochs"), row.get("best_epoch")]
        cells += [report.number(row.get(f"{split}/{metric}")) for split in ("valid", "test")]
        table.append(cells)
    head = ["run", *keys, "status", "epochs", "best epoch", f"valid {metric}", f"test {metric}"]
    every = markup.table(head, table, "All runs")
    return every if len(table) <= 40 else markup.folded(f"{len(table)} runs", every)


def _search(summary: Mapping, plan: Mapping) -> str:
    space = {
        key: values if isinstance(values, str) else ", ".join(map(str, values))
        for key, values in plan.get("space", {}).items()
    }
    budget = {**plan.get("search", {}), **plan.get("budget", {})}
    rounds = budget.pop("rounds", [])
    budget["rounds"] = "; ".join(
        f"{part['settings']} settings to epoch {part['until_epoch']}" for part in rounds
    )
    budget |= {"epochs trained": summary.get("epochs"), "mode": summary.get("mode")}
    budget |= {"time of the last session": _seconds(summary.get("seconds"))}
    timed = (summary.get("seconds_per_epoch_by_mode") or {}).items()
    budget |= {f"an epoch of all, {mode}": _seconds(value) for mode, value in timed}
    tables = markup.pairs(space, "Space"), markup.pairs(budget, "Budget")
    return f'<div class="pair">{"".join(tables)}</div>'


def _rows(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of ``results.csv``, numbers as such, with the varied ``values`` apart."""
    if not path.exists():
        raise UserError(f"{path} does not exist; the sweep has not ended: start it again")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    read = []
    for row in rows:
        entry: dict[str, Any] = {
            name: text if name in ("run", "setting", "status") else _value(text)
            for name, text in row.items()
        }
        read.append(entry | {"values": {key: entry.get(key) for key in keys}})
    return read


def _as_given(values: Mapping[str, Any]) -> dict[str, str]:
    """Values of keys as the configuration has them, which four places could change."""
    return {key: str(value) for key, value in values.items()}


def _value(text: str) -> Any:
    """A cell of a table as the number it was."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text or None


# --- numbers ---


def _own(workdir: Path, name: str) -> str:
    """One of the package's own pictures, if it is there."""
    return markup.figure(workdir / name, _HERE[name], "", "own")


def _mean(entry: Mapping | None) -> str:
    """``{"mean": …, "sd": …}`` as text."""
    if not entry:
        return "–"
    sd = "" if entry.get("sd") is None else f" ± {entry['sd']:.4f}"
    return report.number(entry.get("mean")) + sd


def _seconds(value: float | None) -> str | None:
    if value is None:
        return None
    return report.clock(value) if value >= 120 else f"{value:.3g} s"


def _bytes(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"


def _times(count: int | None) -> str:
    return {None: "an unknown number of times", 0: "never", 1: "once"}.get(count, f"{count} times")


def _hash(value: str | None) -> str | None:
    return value[:12] if value else None


# --- files ---


def _save(workdir: Path, text: str) -> Path:
    with store.replacing(workdir / NAME) as part:
        part.write_text(text, encoding="utf-8")
    return workdir / NAME


def _read(path: Path) -> dict[str, Any]:
    try:
        return store.read_json(path, "remove it, and start the command of the run again")
    except OSError as error:
        raise UserError(f"{path.parent} holds nothing finished to show: {error}") from error


def _log(workdir: Path) -> list[dict[str, Any]]:
    return logs.read(workdir)


def _leaf(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the pages of runs and sweeps anew; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mmrec_jax.page", description=main.__doc__)
    parser.add_argument("workdirs", nargs="+", help="of finished runs or sweeps")
    try:
        for name in parser.parse_args(argv).workdirs:
            print((sweep if (Path(name) / "sweep.json").exists() else run)(name))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
