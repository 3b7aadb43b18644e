"""Sweeps: many runs of one configuration that share data, compiled programs and one choice.

A *setting* is a choice of values from the space; a *member* is a setting with a seed, and ends
with the files of a lone run. Members whose values differ only in traced numbers form a *group*
with one set of compiled programs. The better setting is the one with the better mean, over its
seeds, of the validation metric. What trains and chooses is given data without a test part; the
test part is read after the choice.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmrec_jax import (
    evaluate,
    limits,
    memory,
    mesh,
    optimize,
    page,
    report,
    side_by_side,
    space,
    store,
    train,
)
from mmrec_jax import run as runs
from mmrec_jax.checkpoint import Checkpoints
from mmrec_jax.group import Group, Member, form
from mmrec_jax.ops import across
from mmrec_jax.streamed import Streamed
from mmrec_jax.types import Dataset, PyTree, UserError

MODES = ("auto", "loop", "vmap", "map", "devices")
_MEMORY_SHARE = 0.8  # of a device that members side by side may fill


def measure_modes(
    group: Group, members: Sequence[Member], programs: Mapping[str, side_by_side.SideBySide]
) -> dict[str, float]:
    """Seconds that one epoch of all members takes in each mode, on the device at hand."""
    shared = (group.ctx, group.arrays)
    keys, _ = side_by_side.stacked(group, members)
    mine = group.hyper(members[0])
    state = group.programs.init(keys[0], mine, *shared)
    alone = group.programs.epoch(state, mine, *shared)
    seconds = {"loop": len(members) * _seconds(lambda s: alone(s, mine, *shared)[0], state)}
    for mode, side in programs.items():
        own, hyper = side.stack(group, members)
        states = side.init(own, hyper, *side.shared)
        steering = (hyper, side.own(jnp.ones(side.size, bool)))
        step = lambda s, side=side, steering=steering: side.epoch(s, steering, *side.shared)[0]
        seconds[mode] = _seconds(step, states)
    return seconds


def _seconds(step: Callable, state: PyTree) -> float:
    """What a call takes once it is warm."""
    state = jax.block_until_ready(step(state))
    began = time.perf_counter()
    jax.block_until_ready(step(state))
    return time.perf_counter() - began


class Sweep:
    """The state of a sweep.

    Attributes:
      members: all runs, by setting.
      mode: how members of a group are run.
      measured: seconds that an epoch of a group took in each mode, where that was asked for.
    """

    def __init__(self, members: list[Member], keys: Sequence[str], options: Any):
        self.members, self.mode, self.measured = members, options.mode, {}
        self._keys, self._options = list(keys), options
        self._vault, self._group, self._board = runs.Vault(), None, report.Board(members)

    def begin(self) -> None:
        """Makes the first group, which brings to light most mistakes, and writes nothing."""
        for member in self.members:  # as far as files that are there are sound
            if (member.workdir / "config.json").exists():
                store.read_config(member.workdir)
            if member.ended:
                member.reached()
        next(self._groups(self.members))
        train.warn(self._vault.load(self.members[0].config))

    def prove(self) -> None:
        """Finds out, before anything is written, whether a run of the first group fits in memory.

        Of members side by side there are as many at once as fit.
        """
        group, mine = next(self._groups(self.members))
        if group.arrays is not None and self._mode(group, mine) == "loop":
            group.programs.prove(group.ctx, group.arrays, group.valid, group.hyper(mine[0]))

    def train(self, members: Sequence[Member], until: int) -> None:
        """Trains members to epoch ``until``, and writes the summaries of those that have ended."""
        self._board.until = until
        for group, mine in self._groups([m for m in members if not m.ended]):
            mode = self._mode(group, mine)
            for member in mine:
                member.open()
            if mode == "loop":
                for member in mine:
                    self._train_alone(group, member, until)
                    self._finish(group, [member], until)
                continue
            for part, programs in self._parts(group, mine, mode):
                side_by_side.fit(group, part, programs, until, self._board)
                self._finish(group, part, until)

    def end(self, members: Sequence[Member]) -> None:
        """Writes the summaries of members that are not trained any further."""
        for group, mine in self._groups([m for m in members if not m.ended]):
            self._finish(group, mine, until=0)

    def test(self, members: Sequence[Member]) -> None:
        """Measures members on the test part, each of them once; the choice has been made."""
        todo = [m for m in members if not m.diverged and "test" not in m.summary]
        for group, mine in self._groups(todo):
            data = self._vault.reveal(mine[0].config)
            if len(data.test):
                measure = evaluate.Evaluator(group.run, data, "test", group.run.config)
                for member in mine:
                    self._summarise(group, member, data, test=measure)

    def _groups(self, members: list[Member]) -> Iterator[tuple[Group, list[Member]]]:
        """Groups with their members, in order; the programs of one are kept at a time."""
        while members:
            if self._group is None or not self._group.takes(members[0]):
                self._group = None  # frees its memory
                data = self._vault.load(members[0].config)
                if not len(data.valid):
                    raise UserError(f"{data.name} has no validation split to choose by")
                if isinstance(data.train, Streamed):
                    raise UserError("data.budget streams lone runs; a sweep needs data.budget=0")
                self._group = form(members[0], data, self._keys)
                self._keys = list(self._group.traced)  # what failed once is not tried again
            group = self._group
            yield group, [member for member in members if group.takes(member)]
            members = [member for member in members if not group.takes(member)]

    def _mode(self, group: Group, members: Sequence[Member]) -> str:
        """How to run a group; ``auto`` is decided by the first group that has a choice."""
        if len(members) == 1 or group.arrays is None:
            return "loop"
        if self.mode == "auto" and (jax.default_backend() == "cpu" or across.mesh()):
            self.mode = "loop"  # measured: on a CPU the caches are too small for side by side
        if self.mode == "auto":
            self.measured = measure_modes(group, *self._largest(group, members))
            self.mode = min(self.measured, key=self.measured.__getitem__)
        return self.mode

    def _largest(self, group, members) -> tuple[list[Member], dict[str, side_by_side.SideBySide]]:
        """The first part of a group, with its programs in each mode that runs it at once."""
        part, vmapped = next(self._parts(group, members, "vmap"))
        others = ["map", "devices"] if jax.local_device_count() > 1 else ["map"]
        return part, {"vmap": vmapped, **{m: self._programs(group, part, m) for m in others}}

    def _parts(
        self, group, members, mode
    ) -> Iterator[tuple[list[Member], side_by_side.SideBySide]]:
        """Cuts a group into equal parts that the memory holds, with their programs."""
        most = self._options.max_members or len(members)
        while True:
            size = -(-len(members) // -(-len(members) // most))
            programs = self._programs(group, members[:size], mode)
            fits = programs.memory_bytes <= _MEMORY_SHARE * memory.available()
            if fits or size == 1 or self._options.max_members:
                break
            most = max(1, size // 2)
        for begin in range(0, len(members), size):
            yield list(members[begin : begin + size]), programs

    def _programs(
        self, group: Group, members: Sequence[Member], mode: str
    ) -> side_by_side.SideBySide:
        known = group.together
        if (mode, len(members)) not in known:
            known[mode, len(members)] = side_by_side.SideBySide(group, members, mode)
        return known[mode, len(members)]

    def _train_alone(self, group: Group, member: Member, until: int) -> None:
        if group.arrays is None:
            member.facts = {"epochs": 0, "best_epoch": None}
            return
        with contextlib.closing(Checkpoints(member.workdir)) as checkpoints:
            try:
                _, member.facts = train.fit(
                    group.run_of(member),
                    group.programs,
                    group.ctx,
                    group.arrays,
                    group.valid,
                    checkpoints,
                    member.workdir,
                    hyper=group.hyper(member),
                    until=until,
                    bar=self._board.line(member),
                )
            except train.Diverged as error:
                member.give_up(error)

    def _finish(self, group: Group, members: Sequence[Member], until: int) -> None:
        """Writes the summaries of members, as far as they do not go on after epoch ``until``."""
        for member in members:
            if member.diverged:
                continue
            if not until or until > member.facts["epochs"] or until == member.config.train.epochs:
                self._summarise(group, member, self._vault.load(member.config))

    def _summarise(self, group: Group, member: Member, data: Dataset, **test) -> None:
        """Measures the best variables of a member and writes what it has to show."""
        best, evaluators = {}, {"valid": group.valid, **test}
        if group.arrays is not None:
            with contextlib.closing(Checkpoints(member.workdir)) as checkpoints:
                best = checkpoints.restore_best(group.variables())
        facts, old = member.facts, member.summary
        if old:
            facts = {key: value for key, value in old.items() if key not in ("valid", "test")}
        train.summarise(
            group.run_of(member),
            data,
            group.ctx,
            best,
            facts,
            evaluators,
            member.workdir,
            hyper=group.hyper(member),
        )
        if not old:
            self._board.show(f"{member.workdir.name} ended")


@mesh.as_configured
def sweep(config: ConfigDict, wanted: Mapping[str, Any], workdir: str | Path) -> dict[str, Any]:
    """Runs every setting with every seed, chooses by validation, then tests what was chosen.

    A sweep that was killed goes on where it was: members that have ended are not run again.

    Args:
      config: what all members have in common; its section ``sweep`` says how to search.
      wanted: values by dotted key (see :mod:`mmrec_jax.space`); seeds by the key ``seed``.
      workdir: where the members' working directories and the results are written.

    Returns:
      The summary, as in ``summary.json``.

    Raises:
      UserError: faulty input, a ``workdir`` of another sweep, or nothing left to choose from.
    """
    began, workdir, options = time.monotonic(), Path(workdir), _checked(config.sweep)
    if across.mesh() and options.mode not in ("auto", "loop"):
        raise UserError(
            f"sweep.mode is {options.mode!r}, in which a run has one device; set mesh.data and "
            "mesh.model to 1, or sweep.mode to loop"
        )
    wanted = space.check(wanted, config)
    settings = space.settings(wanted, config, options.trials, options.seed)
    seeds = wanted.get("seed", (config.seed,))
    members = _members(config, settings, seeds, workdir)
    for member in members:
        limits.check(member.config)
        optimize.build(member.config.optim, 0.0, 0.0, 1, 1)
    rungs = _rungs(config, len(settings))
    plan = _plan(config, wanted, settings, seeds, rungs)
    _check_free(workdir, plan)
    state = Sweep(members, [key for key in wanted if _may_be_traced(key, config)], options)
    state.begin()
    if not (workdir / "sweep.json").exists():
        state.prove()
    with store.alone(workdir):
        _check_free(workdir, plan)  # again: it may have been someone else's until now
        store.write_json(workdir / "sweep.json", plan)
        best = _search(state, rungs, workdir)
        state.test(members if options.test == "all" else best.members)
        summary = _summary(state, best, plan, time.monotonic() - began)
        write_table(workdir / "results.csv", members)
        with store.replacing(workdir / "results.md") as part:
            part.write_text(table(members) + "\n", encoding="utf-8")
        store.write_json(workdir / "summary.json", summary)
        page.attach(page.sweep, workdir)
    return summary


def _search(state: Sweep, rungs: Sequence[tuple[int, int]], workdir: Path) -> Choice:
    """Trains, dropping the worse settings at each rung, and returns the best setting."""
    going, before = state.members, 0
    for until, count in rungs:
        kept = {choice.setting for choice in ranking(going, before)[:count]}
        state.end([member for member in going if member.setting not in kept])
        going, before = [member for member in going if member.setting in kept], until
        state.train(going, until)
    best = ranking(going)[0]
    if best.mean == -math.inf:
        raise UserError(f"{workdir}: every setting has a run that diverged; try smaller optim.lr")
    return best


def _checked(options: Any) -> Any:
    """The section ``sweep`` of a configuration.

    Raises:
      UserError: a value that means nothing.
    """
    for key, known in (("mode", MODES), ("test", ("winner", "all"))):
        if options[key] not in known:
            raise UserError(
                f"sweep.{key} is {options[key]!r}; it must be one of {', '.join(known)}"
            )
    if options.halving < 0 or options.halving == 1:
        raise UserError(f"sweep.halving is {options.halving}; it must be 2 or more, or 0 for none")
    for key, least in (("min_epochs", 1), ("trials", 0), ("max_members", 0)):
        if options[key] < least:
            raise UserError(f"sweep.{key} is {options[key]}; it must be at least {least}")
    return options


def _may_be_traced(key: str, config: ConfigDict) -> bool:
    """Whether to try: the compiled programs take numbers of these sections, and the seed's key."""
    if not config.train.epochs:
        return False
    number = isinstance(dict(space.leaves(config))[key], float)
    return key == "seed" or (number and key.startswith(("model.", "optim.")))


def _members(config, settings, seeds, workdir) -> list[Member]:
    members = []
    digits = max(3, len(str(len(settings) * len(seeds) - 1)))
    for number, setting in enumerate(settings):
        for seed in seeds:
            values = {**setting, "seed": seed}
            own = config.copy_and_resolve_references()
            own.update_from_flattened_dict(values)
            with own.unlocked():
                del own.sweep  # so that a member's files are those of a lone run
            members.append(Member(number, values, own, workdir / f"{len(members):0{digits}d}"))
    return members


def _rungs(config: ConfigDict, settings: int) -> list[tuple[int, int]]:
    """(until which epoch, how many settings are trained) of each round of successive halving."""
    epochs, eta, every = config.train.epochs, config.sweep.halving, config.eval.every
    rungs, until = [], -(-config.sweep.min_epochs // every) * every
    while eta and until < epochs and settings > 1:
        rungs.append((until, settings))
        until, settings = until * eta, -(-settings // eta)
    return [*rungs, (epochs, settings)]


def _plan(config, wanted, settings, seeds, rungs) -> dict[str, Any]:
    """All that was decided before the first epoch: the content of ``sweep.json``."""
    full = json.loads(config.to_json())
    options, _ = full.pop("sweep"), full.pop("mesh", None)
    starts = [0, *(until for until, _ in rungs)]
    most = sum(
        (until - start) * count * len(seeds)
        for start, (until, count) in zip(starts, rungs, strict=False)
    )
    search = {key: options[key] for key in ("trials", "seed", "halving", "min_epochs")}
    return store.plain(
        {
            "space": space.plain(wanted),
            "search": search,
            "budget": {
                "settings": len(settings),
                "seeds": len(seeds),
                "rounds": [{"until_epoch": e, "settings": count} for e, count in rungs],
                "epochs_at_most": most,
            },
            "settings": settings,
            "seeds": seeds,
            "config": full,
        }
    )


def _check_free(workdir: Path, plan: dict[str, Any]) -> None:
    """Raises UserError if ``workdir`` holds something else than the beginning of this sweep."""
    path = workdir / "sweep.json"
    if not path.exists():
        if (workdir / "config.json").exists():
            raise UserError(f"{workdir} holds a run; name another --workdir for the sweep")
        return
    theirs = store.read_json(path, "remove it, and start the same command again")
    if theirs != plan:
        parts = [key for key in plan if plan[key] != theirs.get(key)]
        raise UserError(
            f"{workdir} holds a sweep of another {' and '.join(parts)}; name another --workdir"
        )


@dataclasses.dataclass(frozen=True)
class Choice:
    """A setting and how it has validated.

    Attributes:
      setting: its number.
      members: its runs, one per seed.
      mean: of the best validation value of each; minus infinity if one diverged.
    """

    setting: int
    members: list[Member]
    mean: float


def ranking(members: Sequence[Member], until: float = math.inf) -> list[Choice]:
    """Settings by their mean validation over seeds, best first; nothing after ``until`` counts."""
    by_setting = collections.defaultdict(list)
    for member in members:
        by_setting[member.setting].append(member)
    choices = [
        Choice(setting, mine, statistics.fmean(member.reached(until) for member in mine))
        for setting, mine in by_setting.items()
    ]
    return sorted(choices, key=lambda choice: -choice.mean)


def _summary(state: Sweep, best: Choice, plan: dict, seconds: float) -> dict[str, Any]:
    """What is known at the end; ``seconds`` are of this session."""
    summaries = [member.summary for member in state.members]
    own = [member.summary for member in best.members]
    first = own[0]
    return {
        **{key: first[key] for key in ("name", "data", "protocol", "split_hash", "split")},
        "metric": best.members[0].config.eval.metric,
        "winner": {
            "values": {k: v for k, v in best.members[0].values.items() if k != "seed"},
            "members": [member.workdir.name for member in best.members],
            **{split: _spread(own, split) for split in ("valid", "test") if split in first},
        },
        "test_evaluations": sum(summary.get("test_evaluations", 0) for summary in summaries),
        "runs": len(summaries),
        "diverged": [member.workdir.name for member in state.members if member.diverged],
        "epochs": sum(summary.get("epochs", 0) for summary in summaries),
        "seconds": seconds,
        "mode": state.mode,
        "seconds_per_epoch_by_mode": state.measured,
        **{key: plan[key] for key in ("space", "search", "budget")},
        **report.environment(),
    }


def _spread(summaries: Sequence[Mapping], split: str) -> dict[str, dict[str, float | None]]:
    """Mean and sample standard deviation of each metric over runs."""
    names = summaries[0][split]
    values = {name: [summary[split][name] for summary in summaries] for name in names}
    return {
        name: {
            "mean": statistics.fmean(numbers),
            "sd": statistics.stdev(numbers) if len(numbers) > 1 else None,
        }
        for name, numbers in values.items()
        if None not in numbers
    }


def write_table(path: Path, members: Sequence[Member]) -> None:
    """Writes a row per run as CSV, the best validated setting first."""
    rows = []
    for choice in ranking(members):
        for member in choice.members:
            summary = member.summary
            row = {"run": member.workdir.name, "setting": member.setting, **member.values}
            row["status"] = "diverged" if member.diverged else "ended"
            row |= {key: summary.get(key) for key in ("epochs", "best_epoch")}
            for split in ("valid", "test"):
                row |= {f"{split}/{name}": v for name, v in summary.get(split, {}).items()}
            rows.append(row)
    columns = dict.fromkeys(name for row in rows for name in row)
    with store.replacing(path) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)


def table(members: Sequence[Member]) -> str:
    """A Markdown table with a row per setting, best validated first: means ± deviations."""
    metric = members[0].config.eval.metric
    keys = [key for key in members[0].values if key != "seed"]
    tested = any("test" in member.summary for member in members)
    splits = ["valid", "test"] if tested else ["valid"]
    header = [*keys, "runs", "epochs", *(f"{split} {metric}" for split in splits)]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for choice in ranking(members):
        summaries = [member.summary for member in choice.members]
        cells = [str(choice.members[0].values[key]) for key in keys]
        cells += [str(len(summaries)), report.spread([s.get("epochs") for s in summaries], 0)]
        for split in splits:
            cells.append(report.spread([s.get(split, {}).get(metric) for s in summaries], 4))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
