"""Repeats the README's results on real data: tunes on validation, three seeds, one table.

    python -m benchmarks.reproduce baby --data=DIR --into=README.md

``--data`` is the folder that holds ``baby/``, ``lastfm2k/`` and so on. Each method tries every
setting of its grid, or at most ``TRIALS`` drawn from it, with seed 0; the setting that validates
best runs with the other seeds. Finished runs are not repeated, and one that was cut off goes on,
so the command may be killed and called again, or called once per method side by side (``--only``).
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import random
from pathlib import Path

from absl import logging

from mmrec_jax import report, train

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


def main() -> None:
    """Runs a section and prints its table, or puts it into a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--data", required=True, help="folder with the data sets")
    parser.add_argument("--runs", default="runs", help="folder for the runs")
    parser.add_argument("--only", help="one row of the section")
    parser.add_argument("--seeds", type=int, default=3, help="runs of the chosen setting")
    parser.add_argument("--into", help="Markdown file with a region of the section's name")
    given = parser.parse_args()
    source, metrics, rows, *facts = SECTIONS[given.section]
    folder = Path(given.runs) / given.section
    chosen = []
    for label, config, grid in rows:
        if given.only in (None, label):
            make = lambda setting, seed, config=config: configuration(
                config, f"{given.data}/{source}", setting, seed
            )
            chosen += best_setting(folder / label, make, space(config, grid), given.seeds)
    table = report.results(chosen, metrics, *facts)
    if given.into:
        report.insert(given.into, table, given.section)
    else:
        print(table)


def configuration(name: str, source: str, setting: dict, seed: int):
    """The configuration ``family.method:variant`` on ``source``, with a setting and a seed."""
    module, _, variant = name.partition(":")
    config = importlib.import_module(f"configs.{module}").get_config(variant or None)
    config.update_from_flattened_dict({**setting, "data.source": source, "seed": seed})
    return config


def space(config: str, grid: dict | None) -> list[dict]:
    """All settings of a grid, or ``TRIALS`` of them, always the same ones."""
    if grid is None:
        grid = importlib.import_module(f"configs.{config.partition(':')[0]}").sweep()
    settings = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    if len(settings) > TRIALS:
        settings = random.Random(0).sample(settings, TRIALS)
    return settings


def best_setting(folder: Path, make, settings: list[dict], count: int) -> list[Path]:
    """The directories, one per seed, of the setting that validates best with the first seed."""
    workdirs = {}
    for setting in settings:
        words = [f"{key.rpartition('.')[2]}={_word(value)}" for key, value in setting.items()]
        workdirs[folder / ("_".join(words) or "given")] = setting
    if len(workdirs) > 1:
        values = {path: validated(path / "0", make(workdirs[path], 0)) for path in workdirs}
        best = max(values, key=values.__getitem__)
    else:
        (best,) = workdirs
    config = make(workdirs[best], 0)
    seeds = range(count if config.train.epochs else 1)  # closed forms have no seed
    for seed in seeds:
        finish(best / str(seed), make(workdirs[best], seed))
    return [best / str(seed) for seed in seeds]


def _word(value) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def validated(workdir: Path, config) -> float:
    """The validation metric of a run, which is made if it is not there."""
    return finish(workdir, config)["valid"][config.eval.metric]


def finish(workdir: Path, config) -> dict:
    """The summary of a run, which is made if it is not there."""
    path = workdir / "summary.json"
    if not path.exists():
        print(workdir, flush=True)
        train.train(config, workdir)
    return json.loads(path.read_text())


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it writes
    main()
