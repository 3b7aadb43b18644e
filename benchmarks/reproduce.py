"""Repeats results on real data: tunes on validation, three seeds, one table.

    python -m benchmarks.reproduce baby --data=DIR --into=docs/reproduction.md
    python -m benchmarks.reproduce published --into=docs/reproduction.md

The second command trains nothing: it sets what is published beside what finished runs reached.

``--data`` is the folder that holds ``baby/``, ``lastfm2k/`` and so on. For each method a sweep
tries every setting of its grid, or at most ``TRIALS`` drawn from it, with seed 0; the setting that
validates best runs with the other seeds. Finished runs are not repeated, and one that was cut off
goes on, so the command may be killed and called again, or called for some methods (``--only``).
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from absl import logging

from mmrec_jax import compare, report, space, store, sweep
from mmrec_jax import run as runs
from mmrec_jax.types import UserError

TRIALS = 7  # settings per method where a section tunes the grids of the papers

# of the section "tables": few epochs, and no setting is tuned
TABLES = {
    "data.features": (("all-MiniLM-L6-v2.npy", "vggish.npy"),),
    "train.epochs": (60,),
    "eval.every": (5,),
    "table.codebooks": (4,),
    "table.codebook_size": (64,),
}

# section: data below --data, metrics of the table, (label, configuration, grid) by row, and
# whatever else of the summaries the table shows;
# a grid of None is the whole search space of the configuration's own ``sweep``.
SECTIONS = {
    "baby": (
        "baby",
        ("recall@20", "ndcg@20"),
        [
            ("popularity", "baseline.popularity", {}),
            ("itemknn", "baseline.itemknn", None),
            ("ease", "baseline.ease", None),
            ("mf", "baseline.mf", {"model.reg_weight": (1.0, 0.1, 1e-2, 1e-3)}),
            (
                "lightgcn",
                "graph.lightgcn:baby",
                {"model.layers": (2, 3), "model.reg_weight": (1e-3, 1e-4)},
            ),
            ("freedom", "multimodal.freedom:baby", {"model.dropout": (0.8, 0.9)}),
        ],
    ),
    # MMRec's settings as given, to compare with MMRec's own runs
    "lastfm2k": (
        "lastfm2k",
        ("recall@20", "ndcg@20"),
        [
            (name, f"{family}.{name}:lastfm2k", {})
            for family, name in (
                ("baseline", "ease"),
                ("baseline", "mf"),
                ("graph", "lightgcn"),
                ("multimodal", "vbpr"),
                ("multimodal", "bm3"),
                ("multimodal", "freedom"),
            )
        ]
        # where the validation curve is noisy, patience decides: the same runs, stopped later
        + [
            (f"{name}-patient", f"multimodal.{name}:lastfm2k", {"eval.patience": (50,)})
            for name in ("vbpr", "freedom")
        ],
    ),
    "lastfm2k-tuned": (
        "lastfm2k",
        ("recall@20", "ndcg@20"),
        [
            ("itemknn", "baseline.itemknn", None),
            ("itemknn-content", "baseline.itemknn:content", {"model.k": (5, 10, 20, 50, 100)}),
            ("ease", "baseline.ease", None),
            ("mf", "baseline.mf:lastfm2k", None),
            ("lightgcn", "graph.lightgcn:lastfm2k", None),
            ("vbpr", "multimodal.vbpr:lastfm2k", None),
            ("bm3", "multimodal.bm3:lastfm2k", None),
            ("freedom", "multimodal.freedom:lastfm2k", None),
            ("ials", "baseline.ials", None),
            ("ensemble", "baseline.ensemble:lastfm2k", None),
        ]
        + [
            (name, f"{family}.{name}:lastfm2k", None)
            for family, names in (
                ("graph", ("layergcn", "ngcf", "simgcl", "dccf", "alpharec")),
                ("multimodal", ("lattice", "mgcn", "mambarec", "cm3", "lirdrec", "alignrec")),
                ("multimodal", ("mmhcl", "rearm", "dgvae")),
            )
            for name in names
        ],
    ),
    # MMRec's settings for Baby, and its grid of MF
    "clothing": (
        "clothing",
        ("recall@20", "ndcg@20"),
        [
            ("mf", "baseline.mf", {"model.reg_weight": (1.0, 0.1, 1e-2)}),
            ("lightgcn", "graph.lightgcn:baby", {}),
        ],
    ),
    # the paper's model, regulariser and split, with larger batches and steps: 60 epochs, not 1000
    "gowalla": (
        "gowalla",
        ("recall@20", "ndcg@20"),
        [
            (
                "lightgcn",
                "graph.lightgcn:gowalla",
                {
                    "train.epochs": (60,),
                    "train.batch_size": (8192,),
                    "optim.lr": (5e-3,),
                },
            ),
        ],
    ),
    "beauty": (
        "beauty/sequences.txt",
        ("hit@10", "ndcg@10"),
        [
            ("sasrec", "sequence.sasrec:beauty", {}),
            # Some published numbers let items come up again that the user had before.
            ("sasrec-unmasked", "sequence.sasrec:beauty", {"eval.protocol": ("none",)}),
        ],
    ),
    "tables": (
        "lastfm2k",
        ("recall@20", "ndcg@20"),
        [
            (
                f"{name}-{item}",
                config,
                {**TABLES, "table.item": (item,), "table.user": (user,), **more},
            )
            for name, config, more in (
                ("mf", "baseline.mf:lastfm2k", {}),
                ("lightgcn", "graph.lightgcn:lastfm2k", {}),
                ("vbpr", "multimodal.vbpr:lastfm2k", {}),
                ("bm3", "multimodal.bm3:lastfm2k", {}),
                ("freedom", "multimodal.freedom:lastfm2k", {}),
                (
                    "sasrec",
                    "sequence.sasrec",
                    {
                        "table.user": ("id",),  # it has no table of users
                        "data.split": ("label",),
                        "eval.protocol": ("mmrec",),
                        "eval.metric": ("recall@20",),
                    },
                ),
            )
            for item, user in (("id", "id"), ("hashed", "hashed"), ("motor", "id"))
        ],
        ("parameters", "model_bytes"),
    ),
}

# section: the row that all others of it are tested against
AGAINST = {"lastfm2k-tuned": "lightgcn"}

MMREC = "MMRec itself, these files"
SCI_REP = "[Sci. Rep. 2025](https://doi.org/10.1038/s41598-025-95872-4)"
ESASREC = "[eSASRec](https://arxiv.org/abs/2508.06450), sampled softmax"
LIGHTGCN = "[its paper](https://arxiv.org/abs/2002.02126), 1000 epochs"

# section, row, source, and what that says in the order of the section's metrics
PUBLISHED = [
    ("baby", "mf", "MMRec's table", 0.0575, 0.0249),
    ("baby", "lightgcn", "MMRec's table", 0.0754, 0.0328),
    ("baby", "lightgcn", MMREC, 0.0748, 0.0325),
    ("baby", "freedom", "MMRec's table, with feature losses", 0.0992, 0.0424),
    ("baby", "freedom", f"{MMREC}, without", 0.0978, 0.0420),
    ("clothing", "mf", SCI_REP, 0.0191, 0.0088),
    ("clothing", "lightgcn", SCI_REP, 0.0470, 0.0215),
    ("lastfm2k", "mf", f"{MMREC}, two seeds", 0.3952, 0.2730),
    ("lastfm2k", "lightgcn", f"{MMREC}, two seeds", 0.4132, 0.2873),
    ("lastfm2k", "vbpr", f"{MMREC}, two seeds", 0.2907, 0.1930),
    ("lastfm2k", "bm3", f"{MMREC}, two seeds", 0.3234, 0.2212),
    ("lastfm2k", "freedom", f"{MMREC}, two seeds", 0.4108, 0.2819),
    ("lastfm2k-tuned", "mgcn", f"{MMREC}, one seed", 0.4311, 0.3024),
    ("beauty", "sasrec", ESASREC, 0.0921, 0.0531),
    ("beauty", "sasrec", "[TIGER](https://arxiv.org/abs/2305.05065), binary loss", 0.0605, 0.0318),
    ("beauty", "sasrec-unmasked", "RecBole's users, full softmax", 0.0830, 0.0416),
    ("gowalla", "lightgcn", LIGHTGCN, 0.1830, 0.1554),
]


def main() -> None:
    """Runs a section and prints its table, or puts it into a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=[*SECTIONS, "published"])
    parser.add_argument("--data", default="data", help="folder with the data sets")
    parser.add_argument("--runs", default="runs", help="folder for the runs")
    parser.add_argument("--only", help="rows of the section, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="runs of the chosen setting")
    parser.add_argument("--into", help="Markdown file with a region of the section's name")
    given = parser.parse_args()
    table = published(Path(given.runs)) if given.section == "published" else section(given)
    if given.into:
        report.insert(given.into, table, given.section)
    else:
        print(table)


def section(given: argparse.Namespace) -> str:
    """The table of a section, whose runs are made where they are not there."""
    source, metrics, rows, *facts = SECTIONS[given.section]
    folder = Path(given.runs) / given.section
    chosen, only = [], given.only.split(",") if given.only else [row[0] for row in rows]
    if unknown := set(only) - {row[0] for row in rows}:
        raise SystemExit(f"--only: {min(unknown)} is none of {', '.join(row[0] for row in rows)}")
    for label, config, grid in rows:
        if label in only:
            print(folder / label, flush=True)
            setting, best = tuned(
                folder / label, config, f"{given.data}/{source}", grid, given.seeds
            )
            entry = {"chosen": best, "config": config, "setting": setting}
            store.write_json(folder / f"{label}.json", entry)
            chosen += best
    table = report.results(chosen, metrics, *facts)
    reference = folder / f"{AGAINST.get(given.section)}.json"
    if len(only) == 1 or not reference.exists():
        return table
    against = json.loads(reference.read_text())["chosen"][0]
    return f"{table}\n\n{differences(chosen, metrics[0], against, folder / 'compare')}"


def differences(runs: list[Path], metric: str, against: str, output: Path) -> str:
    """How far all others are from the runs of one row, and whether that could be chance."""
    tests = compare.compare(runs, [metric], output, against=against)["metrics"][metric]
    first = tests["over_users"][0]["first"]
    lines = [f"| against {first} | {metric} | 95 % interval over users | p (Holm) | over seeds |"]
    lines.append("|---|---:|---:|---:|---:|")
    for users, seeds in zip(tests["over_users"], tests["over_seeds"], strict=True):
        cells = [users["second"], f"{users['difference']:+.4f}"]
        cells += [f"[{users['low']:+.4f}, {users['high']:+.4f}]", f"{users['p_holm']:.4f}"]
        cells.append("-" if seeds["p"] is None else f"{seeds['p_holm']:.4f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def published(runs: Path) -> str:
    """What papers say beside what the runs chosen by their sections reached."""
    header = (
        "data | method | published by | published | ours | runs | configuration | split | minutes"
    )
    lines = [f"| {header} |", "|---" * 3 + "|---:" * 3 + "|---|---|---:|"]
    devices = set()
    for name, label, source, *values in PUBLISHED:
        path = runs / name / f"{label}.json"
        if not path.exists():
            continue
        entry, metrics = json.loads(path.read_text()), SECTIONS[name][1]
        found = [json.loads((Path(run) / "summary.json").read_text()) for run in entry["chosen"]]
        ours = [report.spread([run["test"][metric] for run in found], 4) for metric in metrics]
        minutes = [run["epochs"] * run["seconds_per_epoch"] / 60 for run in found]
        cells = [name, label, source, " / ".join(f"{value:.4f}" for value in values)]
        cells += [" / ".join(ours), str(len(found)), f"`{entry['config']}`"]
        setting = [f"{key.rpartition('.')[2]}={value}" for key, value in entry["setting"].items()]
        cells += [", ".join(setting) or "given", f"`{found[0]['split_hash'][:8]}`"]
        lines.append("| " + " | ".join([*cells, report.spread(minutes, 0)]) + " |")
        devices.add(found[0]["device"]["kind"])
    return "\n".join([*lines, "", f"Minutes of training a run, on: {', '.join(sorted(devices))}."])


def tuned(
    folder: Path, name: str, source: str, grid: dict[str, tuple] | None, count: int
) -> tuple[dict[str, Any], list[Path]]:
    """The setting that validates best with the first seed, and its runs, one per seed.

    Args:
      folder: where the runs are, those of the search and those of the other seeds.
      name: the configuration, ``family.method:variant``.
      source: its data.
      grid: values by dotted key, of which a lone one is no choice; None for the method's own.
      count: of the seeds; closed forms have one.
    """
    module, _, variant = name.partition(":")
    module = importlib.import_module(f"configs.{module}")
    config = module.get_config(variant or None)
    grid = module.sweep() if grid is None else grid
    given = {key: values[0] for key, values in grid.items() if len(values) == 1}
    config.update_from_flattened_dict({**given, "data.source": source, "sweep.trials": TRIALS})
    choices = {key: values for key, values in grid.items() if len(values) > 1}
    setting, best = swept(config, choices, folder / "search") if choices else ({}, [])
    config.update_from_flattened_dict(setting)
    others = folder / "seeds" / (best[0].name if best else "given")  # of this setting alone
    for seed in range(len(best), count if config.train.epochs else 1):
        best += swept(config, {"seed": (seed,)}, others / str(seed))[1]
    return {**given, **setting}, best


def swept(config, wanted: dict[str, tuple], workdir: Path) -> tuple[dict[str, Any], list[Path]]:
    """The winning setting of a sweep and its runs; one that has ended is not repeated.

    Raises:
      UserError: if one that has ended searched another space.
    """
    ended = (workdir / "summary.json").exists()
    summary = store.read_summary(workdir) if ended else sweep.sweep(config, wanted, workdir)
    if summary["space"] != space.plain(wanted):
        raise UserError(
            f"{workdir} holds a sweep of another space; remove it, or name other --runs"
        )
    winner = summary["winner"]
    return runs.tuples(winner["values"]), [workdir / name for name in winner["members"]]


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it writes
    main()
