"""Search spaces: what a sweep varies, read from a flag or a configuration file, and its settings.

A space is ``{dotted configuration key: values}``. Values are a tuple, or a :class:`Range` that a
random search draws from.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import math
import random
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mmrec_jax.types import UserError

_RANGE = re.compile(r"(log|uniform)\(([^,]+),([^,]+)\)")
_EXAMPLE = "such as --sweep='optim.lr=1e-3,1e-4;seed=0,1,2'"
_FIXED = {
    "sweep": "steers the sweep itself",
    "mesh": "says on which devices the whole sweep runs",
    "eval.metric": "is what runs are compared by",
    "eval.protocol": "changes what validation values mean",
}
_SPLIT = (
    "source", "columns", "split", "ratios", "split_seed", "k_core", "knobs",
    "impressions", "click_rating", "conversion_rating",
)  # fmt: skip
_FIXED |= {
    f"data.{key}": "changes the split, so that validation values cannot be compared"
    for key in _SPLIT
}


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``, even on a logarithmic scale if ``log``."""

    low: float
    high: float
    log: bool

    def __str__(self) -> str:
        return f"{'log' if self.log else 'uniform'}({self.low:g},{self.high:g})"

    def draw(self, rng: random.Random, whole: bool) -> float | int:
        """One number, of four significant digits so that it can be read; an int if ``whole``."""
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = rng.uniform(*ends)
        value = math.exp(value) if self.log else value
        return round(value) if whole else float(f"{value:.4g}")


Space = dict[str, tuple | Range]


def parse(text: str, config: ConfigDict, own: Mapping[str, Any] | None = None) -> Space:
    """The space that a flag describes.

    Args:
      text: ``KEY=VALUES`` parted by semicolons. Values are parted by commas, or are a range,
        ``log(1e-4,1e-2)`` or ``uniform(0,0.5)``. The word ``file`` stands for ``own``.
      config: what the keys are looked up in.
      own: the space of the configuration's file.

    Raises:
      UserError: what is wrong with it.
    """
    found: dict[str, Any] = {}
    for piece in filter(None, map(str.strip, text.split(";"))):
        key, equals, values = map(str.strip, piece.partition("="))
        if piece == "file":
            if not own:
                raise UserError(
                    f"--sweep: the configuration's file has no sweep() of its own; give a space, "
                    f"{_EXAMPLE}"
                )
            found |= own
        elif not equals:
            raise UserError(f"--sweep: {piece!r} is no KEY=VALUES, {_EXAMPLE}")
        else:
            found[key] = values
    return check(found, config)


def check(space: Mapping[str, Any], config: ConfigDict) -> Space:
    """The space with every value as its key wants it; text is read as in a flag.

    Raises:
      UserError: nothing to vary, an unknown key, one that may not vary, or values that do not fit.
    """
    if not space:
        raise UserError(f"nothing to sweep over: give a space, {_EXAMPLE}")
    return {key: _values(key, given, config) for key, given in space.items()}


def _values(key: str, given: Any, config: ConfigDict) -> tuple | Range:
    old = _lookup(key, config)
    given = _read(key, given, old) if isinstance(given, str) else given
    if isinstance(given, Range):
        if isinstance(old, bool) or not isinstance(old, (int, float)) or key == "seed":
            raise UserError(f"sweep of {key}: {given} is a range, but this takes a list of values")
        if not (given.log <= (given.low > 0) and given.low < given.high < math.inf):
            raise UserError(
                f"sweep of {key}: {given} is empty, or logarithmic from 0 or below; mend its ends"
            )
        return given
    values = tuple(_fit(key, value, config) for value in given)
    if not values:
        raise UserError(f"sweep of {key}: there are no values; write some, parted by commas")
    if len(set(map(repr, values))) < len(values):
        raise UserError(f"sweep of {key}: {', '.join(map(str, values))} has a value twice")
    return values


def _lookup(key: str, config: ConfigDict) -> Any:
    """The value that the configuration has for a key that may vary."""
    for fixed, reason in _FIXED.items():
        if key == fixed or key.startswith(fixed + "."):
            raise UserError(f"sweep of {key}: it cannot vary, for it {reason}")
    known = dict(leaves(config))
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        tail = [name for name in known if name.endswith(f".{key}")]
        meant = f"; did you mean {(close or tail)[0]}?" if close or tail else ""
        raise UserError(f"sweep of {key}: the configuration has no such key{meant}")
    return known[key]


def leaves(config: ConfigDict, prefix: str = "") -> list[tuple[str, Any]]:
    """Every value of a configuration with its dotted key."""
    found = []
    for key, value in config.items():
        nested = isinstance(value, ConfigDict)
        found += leaves(value, f"{prefix}{key}.") if nested else [(prefix + key, value)]
    return found


def _read(key: str, text: str, old: Any) -> tuple | Range:
    """Values from text, strings unquoted where the configuration has a string."""
    if found := _RANGE.fullmatch(text.replace(" ", "")):
        try:
            return Range(float(found[2]), float(found[3]), found[1] == "log")
        except ValueError as error:
            raise UserError(f"sweep of {key}: {text} is no range of numbers") from error
    if isinstance(old, str):
        return tuple(part.strip().strip("'\"") for part in text.split(",") if part.strip())
    try:
        return ast.literal_eval(f"({text},)") if text else ()
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"sweep of {key}: cannot read {text!r}; write values like {old!r}, parted by commas"
        ) from error


def _fit(key: str, value: Any, config: ConfigDict) -> Any:
    """A value as the configuration takes it: an int where it has a float becomes one."""
    probe = config.copy_and_resolve_references()
    try:
        if value is None or isinstance(value, bool) != isinstance(_get(config, key), bool):
            raise TypeError
        probe.update_from_flattened_dict({key: value})
    except (TypeError, ValueError) as error:
        kind = type(_get(config, key)).__name__
        raise UserError(f"sweep of {key}: {value!r} is no {kind}") from error
    return _get(probe, key)


def _get(config: ConfigDict, key: str) -> Any:
    return dict(leaves(config))[key]


def settings(space: Space, config: ConfigDict, trials: int, seed: int) -> list[dict[str, Any]]:
    """The settings to try, without their seeds: the whole grid, or ``trials`` drawn at random.

    Raises:
      UserError: a range without a number of trials.
    """
    axes = {key: values for key, values in space.items() if key != "seed"}
    ranges = [key for key, values in axes.items() if isinstance(values, Range)]
    if ranges and trials < 1:
        raise UserError(
            f"sweep of {ranges[0]}: from a range, say how many to draw with "
            "--config.sweep.trials=20"
        )
    rng = random.Random(seed)
    if not ranges:
        grid = [
            dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
        ]
        return rng.sample(grid, trials) if 0 < trials < len(grid) else grid
    whole = {key: isinstance(_get(config, key), int) for key in ranges}
    drawn: dict[str, dict] = {}
    for _ in range(100 * trials):  # of few whole numbers, fewer settings than trials may exist
        setting = {
            key: values.draw(rng, whole[key]) if isinstance(values, Range) else rng.choice(values)
            for key, values in axes.items()
        }
        drawn.setdefault(repr(setting), setting)
        if len(drawn) == trials:
            break
    return list(drawn.values())


def plain(space: Space) -> dict[str, Any]:
    """The space as JSON has it: lists, and ranges as in the flag."""
    return {
        key: str(values) if isinstance(values, Range) else list(values)
        for key, values in space.items()
    }
