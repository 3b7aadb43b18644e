"""Runs in the eyes of a person: progress, curves and tables.

``python -m mmrec_jax.report RUN RUN ...`` prints a table of finished runs. Libraries that only
one function needs are imported there, so that importing this module costs next to nothing.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec_jax import hosts, logs, store
from mmrec_jax.types import UserError

if TYPE_CHECKING:
    from mmrec_jax.group import Member

PACKAGES = ("mmrec_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Progress:
    """Epoch, loss, validation metric and remaining time, on standard error.

    A bar where that is a terminal, else a plain line every ``interval`` seconds at most.
    """

    def __init__(self, total: int, start: int = 0, interval: float = 10.0):
        from tqdm import tqdm

        self._total, self._interval = total, interval
        self._began = time.monotonic()
        self._times: collections.deque[float] = collections.deque(maxlen=21)  # ends of epochs
        self._next = 0.0
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="epoch",
            dynamic_ncols=True,
            bar_format="epoch {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}",
            disable=None if hosts.first() else True,  # where standard error is not a terminal
        )

    def update(self, epoch: int, loss: float, metric: str, value: float | None, stop: int) -> None:
        """Shows the state after an epoch.

        Args:
          epoch: epochs done.
          loss: of the epoch.
          metric: name of the validation metric.
          value: its latest value, or None where there is none yet.
          stop: the epoch at which the run ends if the metric does not improve any more.
        """
        now = time.monotonic()
        self._times.append(now)
        gaps = len(self._times) - 1
        # The first epoch holds the compilation, so it counts only while there is no other.
        pace = (now - self._times[0]) / gaps if gaps else now - self._began
        stop = min(stop, self._total)
        parts = [f"loss {loss:.4f}"]
        parts += [] if value is None else [f"{metric} {value:.4f}"]
        parts += [f"ETA {remaining(pace, epoch, stop, self._total)}"]
        if not hosts.first():
            return
        if not self._bar.disable:
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
            self._bar.update(epoch - self._bar.n)
        elif now >= self._next or epoch >= stop:
            self._next = now + self._interval
            print(f"epoch {epoch}/{self._total}, {', '.join(parts)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


class Board:
    """Progress of a whole sweep on standard error: a line every ``interval`` seconds at most."""

    def __init__(self, members: Sequence[Member], interval: float = 10.0):
        self._members, self._interval = members, interval
        self._epochs: dict[int, int] = {}  # by member, reached in this session
        self._trained, self._began, self._next = 0, time.monotonic(), 0.0
        self.until = 0

    def update(self, member: Member, epoch: int, loss: float, value: float | None) -> None:
        """Takes note of an epoch of a member."""
        self._trained += 1
        self._epochs[id(member)] = epoch
        shown = "" if value is None else f", {member.config.eval.metric} {value:.4f}"
        self.show(f"{member.workdir.name} epoch {epoch}, loss {loss:.4f}{shown}")

    def show(self, what: str) -> None:
        """Prints a line if it is time."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._interval
            ended = sum(member.ended for member in self._members)
            line = f"sweep: {ended}/{len(self._members)} runs ended, {what}{self._eta(now)}"
            print(line, file=sys.stderr, flush=True)

    def _eta(self, now: float) -> str:
        """The time left if those that train stop when, on average, the others did."""
        if not self._trained:
            return ""
        ended = [self._epochs[id(m)] for m in self._members if m.ended and id(m) in self._epochs]
        each = statistics.fmean(ended) if ended else self.until
        left = sum(
            max(each - self._epochs.get(id(member), 0), 0)
            for member in self._members
            if not member.ended
        )
        return f", ETA {clock((now - self._began) / self._trained * left)}"

    def line(self, member: Member) -> Line:
        """What a lone run shows its progress on."""
        return Line(self, member)


@dataclasses.dataclass
class Line:
    """A member's line on the board, in the shape of :class:`Progress`."""

    board: Board
    member: Member

    def update(self, epoch: int, loss: float, metric: str, value: float | None, stop: int) -> None:
        del metric, stop
        self.board.update(self.member, epoch, loss, value)

    def close(self) -> None:
        pass


def remaining(pace: float, epoch: int, stop: int, total: int) -> str:
    """The time to the earliest possible end and, where that differs, to the last epoch."""
    ends = dict.fromkeys(clock(pace * max(end - epoch, 0)) for end in (stop, total))
    return " to ".join(ends)


def clock(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def environment() -> dict[str, Any]:
    """Versions of what computed a result, and the devices it ran on."""
    import importlib.metadata
    import platform

    import jax

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # used from a checkout, not installed
            versions[name] = "unknown"
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
    }


def curves(workdir: str | os.PathLike, metric: str = "recall@20") -> Path:
    """Plots ``metrics.jsonl`` to ``curves.png``: loss, and validation at the K of ``metric``."""
    from matplotlib.figure import Figure

    records, path = logs.read(workdir), Path(workdir) / "curves.png"
    kind = metric.partition("@")[1:]  # such as ("@", "20"); empty strings where there is no cut
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(xlabel="epoch", ylabel="loss")
    right.set(xlabel="epoch", ylabel=f"validation, {''.join(kind) or metric}")
    draw(left, records, ["loss"])
    names = dict.fromkeys(name for record in records for name in record)
    draw(
        right,
        records,
        [n for n in names if n.startswith("valid/") and n.partition("@")[1:] == kind],
    )
    scored = [record for record in records if record.get(f"valid/{metric}") is not None]
    if scored:
        best = max(scored, key=lambda record: record[f"valid/{metric}"])["epoch"]
        right.axvline(best, color="grey", linestyle=":", label=f"best, epoch {best}")
        right.legend()
    with store.replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)
    return path


def draw(axes, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Adds one line per name over the epochs that have it."""
    for name in names:
        points = [(r["epoch"], r[name]) for r in records if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=name.removeprefix("valid/"))


def table(summary: Mapping[str, Any]) -> str:
    """The metrics of a summary as plain text, a column per K, and two lines on the test lists."""
    blocks = [grid(split, summary[split]) for split in ("test", "valid") if summary.get(split)]
    return "\n\n".join(blocks + ([of_lists(summary)] if summary.get("beyond") else []))


def of_lists(summary: Mapping[str, Any]) -> str:
    """Two lines of :func:`table`: recall by item popularity, and what lies beyond accuracy."""
    beyond, line = summary["beyond"], "  ".join
    cut = f"@{beyond['k']}"
    groups = summary["slices"]["popularity"]
    recall = [f"{name} {number(group['recall' + cut])}" for name, group in groups.items()]
    named = [f"{name} {number(beyond[name])}" for name in ("coverage", "gini", "aplt", "popreo")]
    return f"{'recall' + cut:<10}  {line(recall)}\n{'test' + cut:<10}  {line(named)}"


def grid(title: str, metrics: Mapping[str, float | None]) -> str:
    """One block of :func:`table`: ``{"recall@20": ...}`` or ``{"auc": ...}``, a row per metric."""
    cells = {tuple(name.split("@")): value for name, value in metrics.items() if "@" in name}
    cuts = sorted({cut for _, cut in cells}, key=int)
    lines = [f"{title:<10}" + "".join(f"{'@' + cut:>9}" for cut in cuts)]
    for name in dict.fromkeys(name for name, _ in cells):
        row = [cells.get((name, cut)) for cut in cuts]
        lines.append(f"{name:<10}" + "".join(f"{number(value):>9}" for value in row))
    whole = {name: value for name, value in metrics.items() if "@" not in name}
    lines += [f"{name:<14}{number(value):>9}" for name, value in whole.items()]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Four places, or a dash where there is no value."""
    return "-" if value is None else f"{value:.4f}"


def results(
    runs: Sequence[str | os.PathLike], metrics: Sequence[str], facts: Sequence[str] = ()
) -> str:
    """A Markdown table per data set and protocol, a row per setting, averaged over its seeds.

    Runs belong to one row when their data, protocol and resolved configuration are the same but
    for the seed. A cell is the mean, with the sample standard deviation from two runs on. ``facts``
    are further whole numbers of a summary that no seed changes, such as ``parameters`` and
    ``model_bytes``.

    Raises:
      UserError: a run has no readable ``summary.json`` or lacks one of ``metrics``.
    """
    tables: dict[tuple, dict[str, list]] = {}
    for summary, setting in map(read_run, runs):
        for name in metrics:
            if summary.get("test", {}).get(name) is None:
                raise UserError(f"{summary['path']}: test has no {name}; choose other --metrics")
        place = tuple(summary.get(key) for key in ("data", "protocol", "split_hash"))
        tables.setdefault(place, {}).setdefault(setting, []).append(summary)
    return "\n\n".join(section(place, rows, metrics, facts) for place, rows in tables.items())


def read_run(run: str | os.PathLike) -> tuple[dict[str, Any], str]:
    """The summary of a run and its resolved configuration without the seed, as text."""
    path = Path(run) / "summary.json"
    try:
        summary = store.read_summary(run)
        config = {key: value for key, value in summary["config"].items() if key != "seed"}
    except (OSError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: no finished run to read here; train to the end, or name another folder"
        ) from error
    return summary | {"path": os.fspath(path)}, json.dumps(config, sort_keys=True)


def section(
    place: tuple, rows: Mapping[str, list], metrics: Sequence[str], facts: Sequence[str] = ()
) -> str:
    """The table of one data set and protocol, under a line that names both."""
    data, protocol, split = place
    words = [fact.replace("_", " ") for fact in facts]
    header = ["method", "runs", *metrics, *words, "best epoch", "s/epoch", "s/evaluation"]
    lines = [
        f"**{data}**, protocol `{protocol}`, split `{str(split)[:8]}`",
        "",
        "| " + " | ".join(header) + " |",
        "|---" + "|---:" * (len(header) - 1) + "|",
    ]
    names = collections.Counter(runs[0]["name"] for runs in rows.values())
    for setting, runs in rows.items():
        label = runs[0]["name"]
        if names[label] > 1:
            label += f" ({distinction(setting, [s for s in rows if rows[s][0]['name'] == label])})"
        cells = [spread([run["test"][name] for run in runs], 4) for name in metrics]
        cells += [spread([runs[0].get(fact)], 0) for fact in facts]
        cells += [spread([run.get("best_epoch") for run in runs], 0)]
        cells += [
            spread([run.get(key) for run in runs], 2)
            for key in ("seconds_per_epoch", "seconds_per_evaluation")
        ]
        lines.append("| " + " | ".join([label, str(len(runs)), *cells]) + " |")
    return "\n".join(lines)


def distinction(setting: str, settings: Sequence[str]) -> str:
    """The values in ``setting`` by which it differs from the others."""
    flat = [dict(leaves(json.loads(text))) for text in settings]
    mine = dict(leaves(json.loads(setting)))
    keys = [key for key in mine if any(other.get(key) != mine[key] for other in flat)]
    return ", ".join(f"{key.removeprefix('model.')}={mine[key]}" for key in keys)


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The ends of nested mappings as (dotted name, value as text)."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def spread(values: Sequence[float | None], places: int) -> str:
    """Mean and, from two values on, sample standard deviation; a dash where one is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    mean = f"{statistics.fmean(known):.{places}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{places}f}"


def insert(path: str | os.PathLike, text: str, region: str = "results") -> None:
    """Puts ``text`` between the marks of a region of a Markdown file, in place of what is there.

    Raises:
      UserError: the marks are missing.
    """
    start, end = f"<!-- {region}:start -->", f"<!-- {region}:end -->"
    old = Path(path).read_text(encoding="utf-8")
    head, found, rest = old.partition(start)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise UserError(f"{os.fspath(path)}: expected the lines {start} and {end}; add them")
    with store.replacing(path) as part:
        part.write_text(f"{head}{start}\n{text}\n{end}{tail}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table of the runs named, or puts it into a file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mmrec_jax.report", description=results.__doc__)
    parser.add_argument("runs", nargs="+", help="working directories of finished runs")
    parser.add_argument("--metrics", default="recall@20,ndcg@20", help="separated by commas")
    parser.add_argument("--facts", default="", help="further columns, such as parameters")
    parser.add_argument("--into", help="Markdown file of which a region is replaced")
    parser.add_argument("--region", default="results", help="name of that region")
    arguments = parser.parse_args(argv)
    try:
        facts = [fact for fact in arguments.facts.split(",") if fact]
        text = results(arguments.runs, arguments.metrics.split(","), facts)
        insert(arguments.into, text, arguments.region) if arguments.into else print(text)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
