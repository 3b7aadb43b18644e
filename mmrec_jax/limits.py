"""What the numbers of a configuration may be, looked at before anything is read or written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmrec_jax.types import UserError

# The least that a number may be; the fields of a method, which are many, go by their names.
LEAST = {
    "seed": 0,
    "train.epochs": 0,
    "train.batch_size": 1,
    "eval.every": 1,
    "eval.patience": 0,
    "eval.block": 1,
    "eval.users": 0,
    "checkpoint.every": 1,
    "optim.lr": 0,
    "optim.weight_decay": 0,
    "optim.clip_norm": 0,
    "optim.warmup_steps": 0,
    "optim.decay_rate": 0,
    "table.hidden": 0,
    "table.hash_rows": 0,
    "table.hash_width": 1,
    "table.codebooks": 1,
    "table.codebook_size": 1,
    "table.token_dim": 1,
    "table.cross_layers": 0,
    "unlearn.alpha": 0,
    "unlearn.epochs": 1,
    "unlearn.lr": 0,
}
MOST = {"seed": 2**63 - 1, "unlearn.alpha": 1}
PRECISIONS = ("float32", "bfloat16")


def check(config: Mapping[str, Any]) -> None:
    """Raises a UserError for the first number that means nothing, and for an unknown precision.

    What is no number is passed over: a sweep puts other things in the place of some.
    """
    for key, value in _numbers(config):
        least = LEAST.get(key, _of_method(key, value))
        most = MOST.get(key, math.inf)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key} is {value}; give a finite number")
        if not least <= value <= most:
            limit = f"at least {least}" if value < least else f"at most {most}"
            raise UserError(f"{key} is {value}; it must be {limit}")
    precision = config["train"].get("precision", PRECISIONS[0])
    if precision not in PRECISIONS:
        raise UserError(
            f"train.precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}"
        )


def _of_method(key: str, value: float) -> float:
    """The least of a hyper-parameter: widths have one column, and no count is negative."""
    if not key.startswith("model.") or isinstance(value, float):
        return -math.inf
    return 1 if key.split(".")[-1] in ("dim", "hidden") or key.endswith("_dim") else 0


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by dotted key, but those of ``data`` and ``sweep``, which have their own checks."""
    for key, value in tree.items():
        if isinstance(value, Mapping) or hasattr(value, "items"):
            if prefix or key not in ("data", "sweep"):
                yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + key, value
