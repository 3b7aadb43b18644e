"""The optimiser: optax by name, with a learning rate that may be a traced value."""

from __future__ import annotations

import optax

from mmrec_jax.types import Array, UserError

_SCALERS = {
    "adam": optax.scale_by_adam,
    "adamw": optax.scale_by_adam,
    "sgd": optax.identity,
    "adagrad": optax.scale_by_rss,
    "rmsprop": optax.scale_by_rms,
}


def build(
    config, lr: float | Array, weight_decay: float | Array, steps_per_epoch: int, epochs: int
):
    """The optax transformation that ``config`` (the ``optim`` section) describes.

    Args:
      config: reads name, clip_norm, schedule, warmup_steps, decay_rate.
      lr, weight_decay: numbers or traced scalars, so that a sweep can map over them.
      steps_per_epoch, epochs: what a schedule over the whole run needs.

    Raises:
      UserError: if the name of the optimiser or of the schedule is unknown.
    """
    if config.name not in _SCALERS:
        raise UserError(f"optim.name is {config.name!r}; it must be one of {', '.join(_SCALERS)}")
    decoupled = config.name == "adamw"
    decays = not isinstance(weight_decay, (int, float)) or weight_decay != 0
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.identity() if decoupled or not decays else decay,
        _SCALERS[config.name](),
        decay if decoupled else optax.identity(),
        optax.scale_by_schedule(schedule(config, steps_per_epoch, epochs)),
        optax.scale(-lr),
    )


def schedule(config, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """The factor, at most 1, by which each step's learning rate is multiplied."""
    steps = max(steps_per_epoch * epochs - config.warmup_steps, 1)
    factors = {
        "constant": lambda: optax.constant_schedule(1.0),
        "cosine": lambda: optax.cosine_decay_schedule(1.0, steps),
        "linear": lambda: optax.linear_schedule(1.0, 0.0, steps),
        "exponential": lambda: optax.exponential_decay(
            1.0, 50 * steps_per_epoch, config.decay_rate
        ),
    }
    if config.schedule not in factors:
        known = ", ".join(factors)
        raise UserError(f"optim.schedule is {config.schedule!r}; it must be one of {known}")
    after = factors[config.schedule]()
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, 1.0, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])
