"""Runs that are stopped, damaged, out of disk, or two in one place."""

import errno
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import made
import numpy as np
import pytest

from configs.graph import lightgcn
from mmrec_jax import evaluate, logs, signals, store, sweep, train
from mmrec_jax import run as runs
from mmrec_jax.checkpoint import Checkpoints
from mmrec_jax.types import UserError

ROOT = Path(__file__).parent.parent
EPOCHS = 6
unretrieved = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

_spec = importlib.util.spec_from_file_location("faults", ROOT / "benchmarks" / "faults.py")
assert _spec is not None and _spec.loader is not None
faults = importlib.util.module_from_spec(_spec)
sys.modules["faults"] = faults  # where dataclasses look
_spec.loader.exec_module(faults)


def tiny():
    changes = {"model.dim": 8, "train.epochs": EPOCHS, "checkpoint.every": 2}
    return made.config(lightgcn, None, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    train.train(tiny(), workdir)
    return workdir


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints/latest").glob("[0-9]*"))


def full(path):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


# --- signals ---


@pytest.mark.parametrize("number,status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_after_the_epoch_and_the_run_goes_on(
    tmp_path, monkeypatch, whole, number, status
):
    def write(log, record):
        original(log, record)
        if record["epoch"] == 3:
            os.kill(os.getpid(), number)

    original = logs.Log.write
    before = [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(logs.Log, "write", write)
        with pytest.raises(signals.Stopped) as stopped, signals.watched():
            train.train(tiny(), tmp_path)
    line = f"stopped by {number.name} after epoch 3; the same command goes on"
    assert (str(stopped.value), stopped.value.status) == (line, status)
    assert saved(tmp_path) == [2, 3] and len(logs.read(tmp_path)) == 3
    assert [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT)] == before
    with signals.watched():
        train.train(tiny(), tmp_path)
    assert faults.differences(tmp_path, whole) == []


def test_a_sweep_side_by_side_saves_all_members(tmp_path, monkeypatch):
    def write(log, record):
        original(log, record)
        if record["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    original = logs.Log.write
    config = tiny()
    config.train.epochs, config.sweep.mode = 2, "vmap"
    monkeypatch.setattr(logs.Log, "write", write)
    # The first member's log asks to stop, the second's comes after: by then it kills.
    monkeypatch.setattr(signals, "_stop", lambda number, _: setattr(signals, "_asked", number))
    monkeypatch.setattr(signals, "_asked", None)
    with pytest.raises(signals.Stopped), signals.watched():
        signal.signal(signal.SIGTERM, lambda *_: setattr(signals, "_asked", signal.SIGTERM))
        sweep.sweep(config, {"seed": (0, 1)}, tmp_path)
    assert [saved(tmp_path / name) for name in ("000", "001")] == [[1], [1]]


def test_outside_of_training_a_signal_ends_at_once():
    with pytest.raises(signals.Stopped, match="stopped by SIGTERM; the same command goes on"):
        with signals.watched():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)


def test_a_signal_where_nothing_can_be_raised_is_not_lost(capsys):
    class Deleted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)  # the interpreter calls the handler here

    before = sys.unraisablehook
    with pytest.raises(signals.Stopped), signals.watched():
        Deleted()
        time.sleep(5)
    assert "Exception ignored" not in capsys.readouterr().err
    assert sys.unraisablehook is before and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_the_launcher_ends_with_one_line_and_the_status_of_the_signal(tmp_path):
    flags = ["--config=configs/graph/lightgcn.py:debug", "--config.train.epochs=100000"]
    process = subprocess.Popen(
        [sys.executable, "launch.py", *flags, "--config.eval.patience=0", f"--workdir={tmp_path}"],
        cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    (line,) = [line for line in err.splitlines() if line.startswith("stopped")]
    assert "Traceback" not in err
    last = len(logs.read(tmp_path))
    assert line == f"stopped by SIGTERM after epoch {last}; the same command goes on"
    assert saved(tmp_path)[-1] == last and faults.leftovers(tmp_path) == []


# --- one workdir, several processes ---


def test_a_second_run_in_a_workdir_is_refused(copy):
    before = faults.snapshot(copy)
    with store.alone(copy), pytest.raises(UserError, match="in use by another process; wait"):
        train.train(tiny(), copy)
    with store.alone(copy), pytest.raises(UserError, match="in use by another process; wait"):
        with store.alone(copy):
            pass
    assert faults.snapshot(copy) == before


def test_a_second_sweep_in_a_workdir_is_refused(tmp_path):
    with store.alone(tmp_path), pytest.raises(UserError, match="in use by another process"):
        sweep.sweep(tiny(), {"seed": (0, 1)}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [store.LOCK]


def test_a_lock_goes_with_its_process_and_half_written_files_go_next(tmp_path):
    code = f"import time\nfrom mmrec_jax import store\nwith store.alone({str(tmp_path)!r}):\n"
    code += " print('held', flush=True)\n time.sleep(60)\n"
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    (tmp_path / ".summary.json.7.part").write_text("{")
    with pytest.raises(UserError, match="in use"), store.alone(tmp_path):
        pass
    assert (tmp_path / ".summary.json.7.part").exists()
    holder.kill()
    holder.communicate()
    with store.alone(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [store.LOCK]


# --- full disks ---


def test_a_write_without_room_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.json"
    store.write_json(path, {"a": 1})
    for error in (full(None), full(str(path.with_name(f".x.json.{os.getpid()}.part")))):
        with pytest.raises(OSError) as raised, store.replacing(path) as part:
            part.write_text("half")
            raise error
        assert store.trouble(raised.value) == (
            f"{path}: No space left on device; make room and start the same command again, "
            "what is finished is kept"
        )
    with pytest.raises(OSError) as raised, store.replacing(path) as part:
        part.write_text("half")
        raise full("another")  # which the body may have read
    assert raised.value.filename == "another"
    assert store.read_json(path, "") == {"a": 1} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "number,words",
    [(errno.EROFS, "Read-only file system; change"), (errno.EACCES, "Permission denied; change")],
)
def test_what_may_not_be_written_says_what_to_change(number, words):
    told = store.trouble(OSError(number, "x", "run/config.json"))
    assert told.startswith(f"run/config.json: {words}") and "--workdir" in told


def test_a_full_disk_stops_the_log_in_one_error_and_no_thread_waits(tmp_path, monkeypatch):
    from tensorboardX.record_writer import RecordWriter

    def refuse(*_):
        raise full(None)

    log = logs.Log(tmp_path)
    log.write({"epoch": 1, "loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", refuse)
        with pytest.raises(OSError) as raised:
            log.write({"epoch": 2, **{f"valid/{n}": 1.0 for n in range(50)}})
    assert raised.value.filename == str(tmp_path / "events")
    log.close()


@unretrieved
def test_a_run_without_room_for_its_checkpoint_goes_on_when_there_is(tmp_path, whole, monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    save = Checkpoints.save

    def without_room(checkpoints, state, best, progress):
        checkpoints._latest.wait_until_finished()
        limit(1000 if int(state.epoch) == 4 else before[0])
        try:
            save(checkpoints, state, best, progress)
        finally:
            limit(before[0])

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", without_room)
        with pytest.raises(OSError) as raised:
            train.train(tiny(), tmp_path)
    told = store.trouble(raised.value)
    assert told.startswith(f"{tmp_path / 'checkpoints'}: ") and "make room" in told
    assert saved(tmp_path)[-1] == 2
    train.train(tiny(), tmp_path)
    assert faults.differences(tmp_path, whole) == []


def test_who_closes_waits_for_the_state_though_the_best_could_not_be_saved(tmp_path, monkeypatch):
    def fail():
        raise ValueError("RESOURCE_EXHAUSTED: ... No space left on device [os_error_code='28']")

    done = []
    checkpoints = Checkpoints(tmp_path)
    for manager, wait in ((checkpoints._best, fail), (checkpoints._latest, lambda: done.append(1))):
        monkeypatch.setattr(manager, "wait_until_finished", wait)
    with pytest.raises(OSError) as raised:
        checkpoints.close()
    assert raised.value.errno == errno.ENOSPC and done
    assert raised.value.filename == str(tmp_path / "checkpoints")


# --- damage ---


@pytest.mark.parametrize("how", [faults.flip, faults.cut])
@pytest.mark.parametrize("name", ["config.json", "summary.json", "metrics.jsonl"])
def test_a_damaged_file_is_named_with_what_to_do_and_nothing_changes(copy, name, how):
    rng = random.Random(0)
    for _ in range(3):
        how(copy / name, rng)  # never twice the same bit
    before = faults.snapshot(copy)
    with pytest.raises(UserError) as raised:
        train.train(tiny(), copy)
    assert str(copy / name) in str(raised.value) and "damaged" in str(raised.value)
    assert "remove" in str(raised.value) and "again" in str(raised.value)
    assert faults.snapshot(copy) == before


def test_a_removed_summary_and_a_removed_configuration_are_written_anew(copy, whole):
    for name in ("summary.json", "config.json"):
        (copy / name).unlink()
    train.train(tiny(), copy)
    assert faults.differences(copy, whole) == []
    assert (copy / "config.json").read_bytes() == (whole / "config.json").read_bytes()


def test_no_changed_bit_of_json_passes(tmp_path):
    path = tmp_path / "x.json"
    store.write_json(path, {"name": "a", "values": [1, 2.5], "deep": {"b": None}})
    sound, text = store.read_json(path, ""), path.read_bytes()
    for place in range(len(text)):
        for bit in range(8):
            path.write_bytes(text[:place] + bytes([text[place] ^ 1 << bit]) + text[place + 1 :])
            try:
                read = store.read_json(path, "mend it")
            except UserError as error:
                assert str(error).startswith(f"{path}: damaged, ") and "; mend it" in str(error)
                continue
            unsealed = {key: value for key, value in read.items() if key in sound}
            assert unsealed == sound  # white space, or the name of the seal


def test_a_file_edited_by_hand_is_taken_without_its_seal(tmp_path):
    path = tmp_path / "x.json"
    store.write_json(path, {"a": 1})
    content = json.loads(path.read_text()) | {"a": 2}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="if you have edited it, remove its crc32"):
        store.read_json(path, "")
    del content["crc32"]
    path.write_text(json.dumps(content))
    assert store.read_json(path, "") == {"a": 2}


def test_no_changed_bit_of_results_by_user_passes(tmp_path):
    path, rng = tmp_path / "per_user_test.parquet", random.Random(0)
    users = np.array([f"user {n}" for n in range(50)])
    store.per_query(path, {"recall@20": np.arange(50, dtype=np.float32)}, "user", users)
    sound, content = store.read_per_query(path), path.read_bytes()
    refused = 0
    for _ in range(300):
        faults.flip(path, rng)
        try:
            assert store.read_per_query(path).equals(sound)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
        path.write_bytes(content)
    assert refused > 100


def test_a_log_that_lacks_epochs_is_not_gone_on_with(copy):
    log = copy / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(UserError, match="metrics.jsonl: damaged, it lacks some of the 6 epochs"):
        train.train(tiny(), copy)


def test_damage_after_the_epoch_to_go_on_from_does_not_matter(tmp_path):
    log = logs.Log(tmp_path)
    for epoch in (1, 2, 3):
        log.write({"epoch": epoch, "loss": 1.0})
    log.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('"epoch": 3', '"epoch": 4'))
    with pytest.raises(UserError, match="line 3: damaged, its checksum differs"):
        logs.read(tmp_path)
    logs.Log(tmp_path).rewind(2)
    assert [record["epoch"] for record in logs.read(tmp_path)] == [1, 2]


@unretrieved
def test_changed_progress_of_a_checkpoint_is_noticed(copy, whole, caplog):
    newest = copy / "checkpoints/latest" / str(saved(copy)[-1]) / "meta/metadata"
    text = newest.read_text()
    assert '"stale": ' in text
    newest.write_text(text.replace('"stale": ', '"stale": 1'))
    train.train(tiny(), copy)
    assert "cannot be used (its checksum differs" in caplog.text
    assert faults.differences(copy, whole) == []


def test_reading_a_run_changes_nothing_in_it(copy):
    half = copy / "checkpoints/latest/9.orbax-checkpoint-tmp"
    half.mkdir()  # as if a run were saving
    before = faults.snapshot(copy)
    evaluate.evaluate(copy, "valid")
    assert half.exists() and faults.snapshot(copy) == before


# --- the harness itself ---


def test_the_table_counts_what_was_tried():
    case = faults.Case
    cases = [
        case("kill", "SIGKILL in epoch 3", "same", 2, "during epoch, half a checkpoint on disk"),
        case("kill", "SIGKILL in a sweep, save 1", "FAILED", 0, "during save; differs: x"),
        case("damage", "config.json cut", "error", note="error: config.json"),
        case("full", "full", "skipped", note="mounting is not permitted here"),
    ]
    rows = faults.markdown(cases).splitlines()
    assert rows[2] == "| SIGKILL | 2 | 1 | 0 | 1 | 1.0, 2 |"
    assert rows[4] == "| flipped and missing bytes | 1 | 0 | 1 | 0 |  |"
    assert rows[5] == "| a full disk | 0: mounting is not permitted here | | | | |"
    assert faults.brief(cases).startswith("3 faults tried, 2 survived: ")
    assert "1 came during epoch, 1 came during save" in faults.details(cases)


def test_differences_are_seen(copy, whole):
    assert faults.differences(copy, whole) == []
    summary = store.read_summary(copy)
    store.write_json(copy / "summary.json", summary | {"best_epoch": -1})
    (copy / ".summary.json.7.part").touch()
    found = faults.differences(copy, whole)
    assert found == ["summary.json:best_epoch", "left over: .summary.json.7.part"]
    best = [np.asarray(leaf) for leaf in jax.tree.leaves(runs.load(whole)[3])]
    assert best and faults._same_parameters(copy, whole)


@pytest.mark.slow
def test_the_harness_finds_nothing(tmp_path):
    command = [sys.executable, "benchmarks/faults.py", "--kills=5", "--stops=3"]
    command += ["--only=kill,stop,two,full,read-only", f"--json={tmp_path / 'faults.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(store.read_json(tmp_path / "faults.json", "")["cases"]) >= 10
