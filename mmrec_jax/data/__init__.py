"""Data sets: ``load`` reads one by name or path, ``from_frames`` takes one from memory."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrec_jax.data import build, files, frames, readers, side, synthetic
from mmrec_jax.data import codes as coding
from mmrec_jax.data import fields as fielded
from mmrec_jax.data import forget as forgetting
from mmrec_jax.data import knockout as knockouts
from mmrec_jax.data import leak as leaks
from mmrec_jax.data import passport as passports
from mmrec_jax.types import Dataset, UserError


def load(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    features: Sequence[str] = (),
    item_graphs: Sequence[str] = (),
    split: str = "auto",
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    split_seed: int = 0,
    k_core: int = 0,
    max_len: int = 50,
    knobs: Mapping[str, float] | None = None,
    codes: str = "",
    collisions: str = "error",
    forget: str = "",
    leak: str = "",
    knockout: str = "",
    knockout_seed: int = 0,
    impute: str = "zero",
    impressions: bool = False,
    fields: Sequence[str] = (),
    numeric: Sequence[str] = (),
    buckets: int = 10,
    click_rating: float = 0.0,
    conversion_rating: float = 0.0,
    budget: int = 0,
) -> Dataset:
    """Reads, checks and splits a data set; the options are the keys of ``config.data``.

    LightGCN's layout publishes no validation part: a share of each user's training interactions
    becomes one, ``ratios[1] / (ratios[0] + ratios[1])``. With ``ratios=(1, 0, 0)`` training is left
    whole and validation empty, as a published number of a fixed number of epochs needs.

    Args:
      source: ``synthetic``; a file or folder (see :func:`mmrec_jax.data.readers.read`); a folder
        of prepared data; or the name of a TFDS set.
      columns: column names of a plain table by role: user, item, time, rating, label, click,
        conversion.
      features: feature files; empty takes those beside the interactions.
      item_graphs: ``.npz`` files of ready-made item graphs.
      split: label, ratio, leave_one_out, time, item_cold, user_cold or auto (see
        :func:`mmrec_jax.data.splits.assign`).
      ratios: shares of train, valid and test.
      split_seed: seed of random splits.
      k_core: fewest interactions of every user and item; 0 keeps all.
      max_len: longest history a sequence method reads.
      knobs: of the synthetic set, see :func:`mmrec_jax.data.synthetic.make`.
      codes, collisions: semantic codes, see :func:`mmrec_jax.data.codes.attach`; "" for none.
      forget: a table of users, items and pairs to load the data without, see
        :func:`mmrec_jax.data.forget.without`; "" for none.
      leak: preferences to give to training on purpose, see :func:`mmrec_jax.data.leak.given`.
      knockout, knockout_seed: what of the features to take away, and the seed of what is drawn,
        see :mod:`mmrec_jax.data.knockout`; "" for nothing.
      impute: what stands in for missing feature rows, see :func:`mmrec_jax.data.knockout.impute`.
      impressions: rows are impressions, some of them clicked, and carry fields; see
        :func:`mmrec_jax.data.fields.build`, which also explains what follows.
      fields: columns to take as fields; empty takes all that have no other role.
      numeric: fields of numbers.
      buckets: ranges that numbers are cut into.
      click_rating: ratings from here on are clicks; 0 reads clicks from their column.
      conversion_rating: likewise for conversions.
      budget: training interactions of a prepared set that are held at once; of more the rest is
        left on disk, see :mod:`mmrec_jax.streamed`. 0 reads all.

    Raises:
      UserError: anything amiss, in one line that names file, row and remedy.
    """
    if not source:
        raise UserError("config.data.source is empty; give a path or a name, such as 'synthetic'")
    _check_sizes(
        split_seed=split_seed,
        k_core=k_core,
        max_len=max_len,
        knockout_seed=knockout_seed,
        budget=budget,
    )
    rules = dict(
        split=split, ratios=tuple(ratios), split_seed=split_seed, k_core=k_core, max_len=max_len
    )
    beside = dict(features=tuple(features), item_graphs=tuple(item_graphs))
    taken = dict(fields=tuple(fields), numeric=tuple(numeric)) if impressions else None
    labels = dict(buckets=buckets, click_rating=click_rating, conversion_rating=conversion_rating)
    builder = functools.partial(_builder(taken, labels), **rules)
    coded = functools.partial(
        _finished,
        name=codes,
        collisions=collisions,
        forget=forget,
        leak=leak,
        knockout=knockout,
        knockout_seed=knockout_seed,
        impute=impute,
    )
    if source == "synthetic":
        make = synthetic.impressions if impressions else synthetic.make
        return coded(builder(make(**synthetic.check_knobs(knobs or {}))))
    path = Path(source).expanduser()
    if path.exists() and not _is_prepared(path):
        folder = path if path.is_dir() else path.parent
        return coded(builder(readers.read(path, columns, **beside, fields=taken)), folder=folder)
    if not path.exists():
        _check_name(source)
    return coded(_prepared(source, beside, rules, builder, taken, budget))


KEYS = frozenset(inspect.signature(load).parameters)  # of ``config.data``


def _finished(
    data: Dataset,
    name: str,
    collisions: str,
    forget: str = "",
    leak: str = "",
    knockout: str = "",
    knockout_seed: int = 0,
    impute: str = "zero",
    folder: Path | None = None,
) -> Dataset:
    """``data`` as its options want it; each works on what those before it left."""
    data = forgetting.without(data, forget) if forget else data
    data = leaks.given(data, leak) if leak else data
    data = knockouts.knock_out(data, knockout, knockout_seed) if knockout else data
    data = knockouts.impute(data, impute)
    data = coding.attach(data, name, collisions, folder) if name else data
    return dataclasses.replace(data, notes={**data.notes, "passport": passports.of(data)})


def _builder(taken: Mapping[str, Any] | None, labels: Mapping[str, Any]) -> Callable[..., Dataset]:
    """What makes a data set of a table: of interactions, or with ``taken`` of impressions."""
    return build.build if taken is None else functools.partial(fielded.build, **taken, **labels)


def from_frames(interactions: Any, features: Mapping[str, Any] | None = None, **options) -> Dataset:
    """A data set from memory.

    Args:
      interactions: a DataFrame, or arrays by column name, with one entry per interaction.
      features: by modality, a DataFrame (item ids in a column of a usual name, else its index),
        a vector by item id, or a matrix whose row i describes item i.
      **options: ``name``, ``titles`` (title by item id), ``columns``, and the options of
        :func:`load` about the split, codes, impressions, and what is taken away or put in.

    Raises:
      UserError: anything amiss, in one line.
    """
    pop = lambda *names: {key: options.pop(key) for key in names if key in options}
    _check_sizes(**{key: options[key] for key in _LEAST if key in options})
    given, impressions = pop("name", "titles", "columns"), options.pop("impressions", False)
    taken = {"fields": (), "numeric": ()} | pop("fields", "numeric") if impressions else None
    builder = _builder(taken, pop("buckets", "click_rating", "conversion_rating"))
    codes, collisions = options.pop("codes", ""), options.pop("collisions", "error")
    rest = pop("forget", "leak", "knockout", "knockout_seed", "impute")
    table = frames.table(interactions, features or {}, **given, fields=taken)
    return _finished(builder(table, **options), codes, collisions, **rest)


_LEAST = {"split_seed": 0, "k_core": 0, "max_len": 1, "knockout_seed": 0, "budget": 0}


def _check_sizes(**given: int) -> None:
    """Raises a UserError for a whole number that means nothing."""
    for name, value in given.items():
        if not isinstance(value, int | np.integer) or value < _LEAST[name]:
            raise UserError(
                f"config.data.{name} is {value}; give a whole number of at least {_LEAST[name]}"
            )


def _is_prepared(path: Path) -> bool:
    """Whether a folder holds data written by a TFDS builder."""
    return path.is_dir() and next(path.rglob("dataset_info.json"), None) is not None


def _check_name(source: str) -> None:
    """Raises a UserError for what is no name of a data set but a path or a slip of the pen."""
    path = Path(source)
    if difflib.get_close_matches(source, ["synthetic"], cutoff=0.7):
        raise UserError(f"config.data.source is '{source}'; did you mean 'synthetic'?")
    if path.suffix or path.is_absolute() or source.startswith((".", "~")):
        files.find(source)
    if len(path.parts) > 1 and path.parent.is_dir():
        files.find(source)


def _prepared(
    source: str,
    beside: Mapping[str, tuple],
    rules: Mapping[str, Any],
    builder: Callable[..., Dataset],
    taken: Mapping[str, tuple] | None,
    budget: int,
) -> Dataset:
    """A prepared or TFDS set; the former has its split and side information already."""
    prepared = importlib.import_module("mmrec_jax.data.prepared")  # TFDS is slow to import
    if source.split("/")[0] == "movielens":
        table = prepared.movielens(source)
        features = side.features(Path(), beside["features"]) if beside["features"] else {}
        graphs = side.item_graphs(Path(), beside["item_graphs"])
        table = dataclasses.replace(table, features=features, item_graphs=graphs)
        return builder(table)
    named = [key for key, value in {**beside, **(taken or {})}.items() if value]
    named += ["k_core"] * bool(rules["k_core"])
    named += ["split"] * (rules["split"] not in ("auto", "label"))
    if named:
        raise UserError(
            f"{source}: config.data.{named[0]} cannot change a prepared data set; "
            "leave it out, or prepare the data again with it"
        )
    data = prepared.read(source, budget)
    return dataclasses.replace(data, spec=dataclasses.replace(data.spec, max_len=rules["max_len"]))


__all__ = ["KEYS", "from_frames", "load"]
