"""Trains, evaluates and recommends: ``python launch.py --config=configs/... --workdir=...``."""

import os
import re
import runpy
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/multimodal/freedom.py", "What to run; see configs/base.py.", lock_config=True
)
_MODES = ["train", "sweep", "eval", "recommend", "prepare", "encode", "unlearn"]
_MODES += ["ablate", "leak", "compare", "baselines"]
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where a run lives; default runs/METHOD-DATA-SEED.")
_SWEEP = flags.DEFINE_string("sweep", "file", "Space, as in 'optim.lr=1e-3,1e-4;seed=0,1,2'.")
_SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "What --mode=eval measures.")
_USERS = flags.DEFINE_list("users", None, "Your own user ids for --mode=recommend; default all.")
_K = flags.DEFINE_integer("k", 10, "Items per user for --mode=recommend.")
_SEEN = flags.DEFINE_bool("seen", False, "Whether to recommend items that the user has already.")
_PROFILE = flags.DEFINE_bool("profile", False, "Whether training traces an epoch to profile/.")
_OUTPUT = flags.DEFINE_string("output", None, "File or folder of what is written, or new run.")
_METRICS = flags.DEFINE_list("metrics", [], "Of --mode=compare; default what runs were chosen by.")
_FORGET = flags.DEFINE_string("forget", None, "Table of users, items or both to unlearn.")
_KNOCKOUT = flags.DEFINE_string("knockout", "", "For --mode=eval, such as 'image:shuffle'.")
_KNOCKOUTS = flags.DEFINE_string("knockouts", "", "Rows of --mode=ablate, parted by ';'.")
_RETRAIN = flags.DEFINE_bool("retrain", False, "Whether --mode=ablate also trains anew.")
_PREFERENCES = flags.DEFINE_string("preferences", "", "Table of users and items for --mode=leak.")
_SEEDS = flags.DEFINE_list("seeds", [], "Seeds of --mode=leak; default config.seed.")
flags.register_validator("seeds", lambda given: all(map(str.isdigit, given)), "whole numbers only")
_TRIALS = flags.DEFINE_integer("trials", 0, "Settings of each of --mode=baselines; default equal.")
_TEXT = flags.DEFINE_string("text", None, "Texts for --mode=encode: TABLE or TABLE:COLUMN,COLUMN.")
_IMAGES = flags.DEFINE_string("images", None, "Images for --mode=encode: a folder of ITEM.jpg.")
_ENCODER = flags.DEFINE_string(
    "encoder", "tfidf", "tfidf, tfidf:WIDTH, words, words:WIDTH, or the folder of a model."
)


def main(argv):
    """Calls the library function that the mode names; mistakes of the user exit with status 2."""
    if len(argv) > 1 and _MODE.value != "compare":
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags begin with --")
    from mmrec_jax.types import UserError  # after the flags are checked: JAX takes a second to load

    try:
        _run(_MODE.value, argv[1:])
    except (UserError, OSError) as error:
        fail(error)


def _run(mode, named):
    from mmrec_jax import evaluate, report, train
    from mmrec_jax.types import UserError

    keep_compiled_programs()
    config, workdir = _CONFIG.value, _WORKDIR.value
    if mode in ("eval", "recommend", "unlearn", "ablate", "baselines") and workdir is None:
        raise UserError(f"--mode={mode} needs --workdir, the directory of a run")
    if mode == "train":
        workdir = workdir or default_workdir(config)
        summary = train.train(config, workdir, _PROFILE.value)
        print(f"{report.table(summary)}\n\nresults in {workdir}")
    elif mode == "sweep":
        from mmrec_jax import space, sweep

        own = runpy.run_path(flags.FLAGS["config"].config_filename.partition(":")[0]).get("sweep")
        wanted = space.parse(_SWEEP.value, config, own and own())
        workdir = workdir or default_workdir(config, "sweep-")
        sweep.sweep(config, wanted, workdir)
        print(f"{Path(workdir, 'results.md').read_text()}\nresults in {workdir}")
    elif mode == "eval":
        means = evaluate.evaluate(workdir, _SPLIT.value, _KNOCKOUT.value)
        print(report.table({_SPLIT.value: means}))
    elif mode == "recommend":
        from mmrec_jax import recommend

        frame = recommend.recommend(workdir, _USERS.value, _K.value, _SEEN.value)
        recommend.write(frame, _OUTPUT.value)
    elif mode == "encode":
        from mmrec_jax.data import encode

        output = _OUTPUT.value or f"features/{'image' if _IMAGES.value else 'text'}.npz"
        print(encode.write(config.data, _TEXT.value, _IMAGES.value, _ENCODER.value, output))
    elif mode == "compare":
        from mmrec_jax import compare

        if not named:
            raise UserError("--mode=compare needs the directories of runs or sweeps, as in A B")
        output = _OUTPUT.value or "compare"
        told = compare.compare(named, _METRICS.value, output)
        print(f"{compare.table(told)}\n\nresults in {output}")
        print(f"baselines with the same budget: --mode=baselines --workdir={named[0]}")
    elif mode == "ablate":
        from mmrec_jax import ablate

        told = ablate.ablate(workdir, _KNOCKOUTS.value, _RETRAIN.value, _SPLIT.value)
        print(f"{ablate.table(told)}\n\nresults in {workdir}")
    elif mode == "leak":
        from mmrec_jax import leakage

        workdir = workdir or default_workdir(config, "leak-")
        told = leakage.leakage(config, workdir, _PREFERENCES.value, [*map(int, _SEEDS.value)])
        print(f"{leakage.table(told)}\n\nresults in {workdir}")
    elif mode == "baselines":
        from mmrec_jax import baselines

        print(baselines.against(workdir, _TRIALS.value, _OUTPUT.value or ""))
    elif mode == "unlearn":
        from mmrec_jax import unlearn

        if _FORGET.value is None:
            raise UserError("--mode=unlearn needs --forget, a table of users, items or both")
        told = unlearn.unlearn(workdir, _FORGET.value, _OUTPUT.value, config.unlearn)
        print(unlearn.table(told))
    else:
        from mmrec_jax import data
        from mmrec_jax.data import prepared

        loaded = data.load(**config.data)
        name = re.sub(r"[^a-z0-9_]+", "_", loaded.name.lower())  # what TFDS takes for a name
        print(prepared.write(loaded, workdir or "prepared", name))


def keep_compiled_programs():
    """Has JAX keep compiled programs in the user's cache, unless told where to (or not to).

    The environment variable JAX_COMPILATION_CACHE_DIR names another folder;
    JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "mmrec_jax"))
        jax.config.update("jax_compilation_cache_max_size", 2 * 2**30)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def default_workdir(config, prefix=""):
    """``runs/METHOD-DATA-SEED``."""
    source = os.path.basename(str(config.data.source).rstrip("/")).split(".")[0]
    return os.path.join(
        "runs", f"{prefix}{config.model.name.split('.')[-1]}-{source}-{config.seed}"
    )


def parse_flags(argv):
    """Absl's parser, with a faulty configuration as one line instead of a traceback."""
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow the runs that --mode=compare takes
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
