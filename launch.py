"""Trains, evaluates and recommends: ``python launch.py --config=configs/... --workdir=...``."""

import contextlib
import ctypes
import os
import re
import runpy
import sys
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_DEFAULT = os.path.join(os.path.dirname(__file__), "configs/multimodal/freedom.py")
_CONFIG = config_flags.DEFINE_config_file(
    "config", _DEFAULT, "What to run; see configs/base.py.", lock_config=True
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
_AGAINST = flags.DEFINE_string("against", None, "Of --mode=compare: the run to compare all with.")
_METRICS = flags.DEFINE_list("metrics", [], "Of --mode=compare; default what runs were chosen by.")
_FORGET = flags.DEFINE_string("forget", None, "Table of users, items or both to unlearn.")
_KNOCKOUT = flags.DEFINE_string("knockout", "", "For --mode=eval, such as 'image:shuffle'.")
_KNOCKOUTS = flags.DEFINE_string("knockouts", "", "Rows of --mode=ablate, parted by ';'.")
_RETRAIN = flags.DEFINE_bool("retrain", False, "Whether --mode=ablate also trains anew.")
_PREFERENCES = flags.DEFINE_string("preferences", "", "Table of users and items for --mode=leak.")
_SEEDS = flags.DEFINE_list("seeds", [], "Seeds of --mode=leak; default config.seed.")
flags.register_validator("seeds", lambda given: all(map(str.isdigit, given)), "whole numbers only")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first of several processes, or auto on a cluster."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many there are, see docs/devices.md.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
_TRIALS = flags.DEFINE_integer("trials", 0, "Settings of each of --mode=baselines; default equal.")
_TEXT = flags.DEFINE_string("text", None, "Texts for --mode=encode: TABLE or TABLE:COLUMN,COLUMN.")
_IMAGES = flags.DEFINE_string("images", None, "Images for --mode=encode: a folder of ITEM.jpg.")
_ENCODER = flags.DEFINE_string(
    "encoder", "tfidf", "tfidf, tfidf:WIDTH, words, words:WIDTH, or the folder of a model."
)


def main(argv):
    """Calls the library function that the mode names; mistakes of the user exit with status 2."""
    if len(argv) > 1 and _MODE.value != "compare":
        fail(f"unexpected argument {argv[1]!r}; flags begin with --")
    share_heaps()
    from mmrec_jax import hosts, signals, store  # after the flags: JAX takes a second to load
    from mmrec_jax.types import UserError

    try:
        hosts.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        told = contextlib.nullcontext() if hosts.first() else contextlib.redirect_stdout(None)
        with signals.watched(), told:
            _run(_MODE.value, argv[1:])
    except UserError as error:
        fail(error)
    except OSError as error:
        fail(store.trouble(error))
    except signals.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)
    except Exception as error:
        if not hosts.several():
            raise
        traceback.print_exc()
        fail(f"{error} (if another process has ended: start all again, which goes on from there)")


def _run(mode, named):
    from mmrec_jax import evaluate, hosts, report, train
    from mmrec_jax.types import UserError

    if hosts.several() and mode not in ("train", "eval", "recommend"):
        raise UserError(f"--mode={mode} runs in one process; give no --coordinator")
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

        recommend.check_output(_OUTPUT.value)  # before the work is done
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
        told = compare.compare(named, _METRICS.value, output, against=_AGAINST.value)
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
        name = name if name[:1].isalpha() else f"data_{name}"
        print(prepared.write(loaded, workdir or "prepared", name, by_user=bool(config.data.budget)))


def share_heaps():
    """Has the compiler's threads share heaps: glibc lets each keep what it once needed, 100 MB."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-8, max(2, (os.cpu_count() or 2) // 2))  # -8: M_ARENA_MAX


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


_IS_CONFIG = re.compile("--?config=").match


def parse_flags(argv):
    """Absl's parser, with a faulty configuration as one line instead of a traceback."""
    for path in (word.partition("=")[2].partition(":")[0] for word in argv if _IS_CONFIG(word)):
        if not os.path.isfile(path):
            fail(f"--config={path}: there is no such file; name one of those below configs/")
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow the runs that --mode=compare takes
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, TypeError, ValueError, OSError) as error:
        odd = isinstance(error, AttributeError) and str(error).startswith(("'", '"'))
        fail(f"the configuration has no key {error}" if odd else error)
    except Exception as error:  # whatever a configuration, which is Python, has in it
        fail(f"{type(error).__name__} in the configuration: {error}; mend it")


def tell_unraisable(told):
    """Prints what nothing could catch, less TensorStore's writes that outlive a failed one."""
    if "Event loop is closed" not in str(told.exc_value):
        sys.__unraisablehook__(told)


def fail(error):
    """Prints the one line of ``error`` that says what is wrong, and exits with status 2."""
    lines = [line.strip() for line in str(error).replace("\\n", "\n").splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):  # of an error in a configuration file
        lines = [lines[-1].partition(": ")[2]]
    text = " ".join(lines).replace("\\'", "'")
    if text[0] == text[-1] == "'":  # ml_collections quotes the whole message
        text = text[1:-1]
    print(f"error: {text}", file=sys.stderr)
    hosts = sys.modules.get("mmrec_jax.hosts")  # not there yet where a flag is mistyped
    if hosts and hosts.several():  # an orderly exit would wait for the others
        sys.stderr.flush()
        os._exit(2)
    sys.exit(2)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    # Orbax tells of every file it writes and of errors at length, which we say in a line.
    logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    sys.unraisablehook = tell_unraisable
    app.run(main, flags_parser=parse_flags)
