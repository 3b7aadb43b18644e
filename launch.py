"""Trains, evaluates and recommends: ``python launch.py --config=configs/... --workdir=...``."""

import os
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/multimodal/freedom.py", "What to run; see configs/base.py.", lock_config=True
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "recommend", "prepare"], "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where a run lives; default runs/METHOD-DATA-SEED.")
_SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "What --mode=eval measures.")
_USERS = flags.DEFINE_list("users", None, "Your own user ids for --mode=recommend; default all.")
_K = flags.DEFINE_integer("k", 10, "Items per user for --mode=recommend.")
_SEEN = flags.DEFINE_bool("seen", False, "Whether to recommend items that the user has already.")
_OUTPUT = flags.DEFINE_string("output", None, "Where to write recommendations: .csv or .json.")


def main(argv):
    """Calls the library function that the mode names; mistakes of the user exit with status 2."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags begin with --")
    from mmrec_jax.types import UserError  # after the flags are checked: JAX takes a second to load

    try:
        _run(_MODE.value)
    except (UserError, OSError) as error:
        fail(error)


def _run(mode):
    from mmrec_jax import evaluate, report, train
    from mmrec_jax.types import UserError

    config, workdir = _CONFIG.value, _WORKDIR.value
    if mode in ("eval", "recommend") and workdir is None:
        raise UserError(f"--mode={mode} needs --workdir, the directory of a run")
    if mode == "train":
        workdir = workdir or default_workdir(config)
        summary = train.train(config, workdir)
        print(f"{report.table(summary)}\n\nresults in {workdir}")
    elif mode == "eval":
        print(report.table({_SPLIT.value: evaluate.evaluate(workdir, _SPLIT.value)}))
    elif mode == "recommend":
        from mmrec_jax import recommend

        frame = recommend.recommend(workdir, _USERS.value, _K.value, _SEEN.value)
        recommend.write(frame, _OUTPUT.value)
    else:
        from mmrec_jax import data
        from mmrec_jax.data import prepared

        loaded = data.load(**config.data)
        name = re.sub(r"[^a-z0-9_]+", "_", loaded.name.lower())  # what TFDS takes for a name
        print(prepared.write(loaded, workdir or "prepared", name))


def default_workdir(config):
    """``runs/METHOD-DATA-SEED``."""
    source = os.path.basename(str(config.data.source).rstrip("/")).split(".")[0]
    return os.path.join("runs", f"{config.model.name.split('.')[-1]}-{source}-{config.seed}")


def parse_flags(argv):
    """Absl's parser, with a faulty configuration as one line instead of a traceback."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, TypeError, ValueError, OSError) as error:
        fail(error)


def fail(error):
    """Prints the one line of ``error`` that says what is wrong, and exits with status 2."""
    lines = [line.strip() for line in str(error).replace("\\n", "\n").splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):  # of an error in a configuration file
        lines = [lines[-1].partition(": ")[2]]
    text = " ".join(lines).replace("\\'", "'")
    if text[0] == text[-1] == "'":  # ml_collections quotes the whole message
        text = text[1:-1]
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it writes
    app.run(main, flags_parser=parse_flags)
