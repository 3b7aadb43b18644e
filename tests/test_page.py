"""The report: its structure, its harmlessness, its hooks into runs, and how a browser takes it."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import jax.numpy as jnp
import made
import numpy as np
import pytest
from matplotlib import image

from configs.baseline import mf as mf_config
from configs.baseline import popularity as popularity_config
from mmrec_jax import page, plots, report, store, sweep, train
from mmrec_jax.models.baseline import mf
from mmrec_jax.types import Dataset, Interactions, Spec, UserError

ROOT = Path(__file__).parent.parent
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None
)
EVIL = "<script>alert('$x_{$')</script>&\""  # no formula either


class Page(HTMLParser):
    """What tests look at: elements with their attributes, and the text that is shown."""

    def __init__(self, path):
        super().__init__()
        self.found, self.shown, self.open = [], [], []
        self.source = Path(path).read_text()
        self.feed(self.source)
        self.text = " ".join(self.shown)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.shown.append(data.strip())

    def all(self, tag, attribute=None):
        """Elements of a name, or one attribute of each."""
        mine = [attrs for name, attrs in self.found if name == tag]
        return mine if attribute is None else [attrs.get(attribute) for attrs in mine]

    def pictures(self):
        """The pixels of every picture, by what it shows."""
        return {
            alt: image.imread(io.BytesIO(base64.b64decode(src.partition("base64,")[2])))
            for alt, src in zip(self.all("img", "alt"), self.all("img", "src"), strict=True)
        }


def assert_alone(found):
    """The page loads nothing, runs nothing, and says what its pictures and tables are."""
    assert not {tag for tag, _ in found.found} & {"script", "link", "iframe", "object", "base"}
    for tag, attrs in found.found:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        for name in ("src", "srcset", "data", "poster"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, name)
        assert not re.match(r"(\w+:)?//|javascript:|data:", attrs.get("href", "")), attrs
    assert "url(" not in found.source and "@import" not in found.source
    (policy,) = [a["content"] for a in found.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")
    assert all(found.all("img", "alt"))
    for pixels in found.pictures().values():
        assert pixels.ndim == 3 and pixels.std() > 0.01
    assert len(found.all("caption")) == len(found.all("table"))
    assert all(scope in ("col", "row") for scope in found.all("th", "scope"))
    inside = [link[1:] for link in found.all("a", "href") if link.startswith("#")]
    assert inside == found.all("section", "id") and len(inside) > 3


def tiny(method=mf_config, **changes):
    learns = method.get_config().train.epochs
    few = {"train.epochs": 2, "model.dim": 4} if learns else {}
    return made.config(method, **{**few, **changes})


def write(workdir, **more):
    """A finished run, of which only the least is known."""
    workdir.mkdir(exist_ok=True)
    summary = {"name": "graph.lightgcn", "data": "baby", "protocol": "mmrec", "seed": 0}
    summary |= {"valid": {"recall@20": 0.25}, "config": {"eval": {"metric": "recall@20"}}}
    store.write_json(workdir / "summary.json", summary | more)
    return workdir


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("launched")
    flags = ["--config=configs/multimodal/freedom.py:debug", f"--workdir={workdir}"]
    done = subprocess.run(
        [sys.executable, "launch.py", *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return workdir, done


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("swept")
    config = tiny(**{"train.epochs": 3})
    space = {"optim.lr": (0.3, 0.02, 1e38), "model.reg_weight": (1e-2,), "seed": (0, 1)}
    return workdir, sweep.sweep(config, space, workdir)


# --- a run ---


def test_a_launched_run_leaves_a_page_that_shows_all_and_needs_nothing(launched):
    workdir, done = launched
    assert "failed" not in done.stderr
    found, summary = (
        Page(workdir / "report.html"),
        json.loads((workdir / "summary.json").read_text()),
    )
    assert_alone(found)
    assert found.all("section", "id") == [
        "results", "curves", "slices", "beyond", "popularity", "map", "split", "cost",
        "configuration", "environment",
    ]  # fmt: skip
    assert set(found.pictures()) == {
        page._HERE[name] for name in ("curves.png", "slices.png", "popularity.png", "embedding.png")
    }
    for name in ("curves.png", "slices.png", "popularity.png", "embedding.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG"), name
    for value in (
        summary["test"]["ndcg@10"],
        summary["valid"]["recall@50"],
        summary["slices"]["popularity"]["head"]["recall@20"],
        summary["slices"]["image_features"]["missing"]["ndcg@20"],
        summary["beyond"]["gini"],
        summary["beyond"]["fairness"]["jain"]["corrected"],
        summary["exposure"]["recommended"]["tail"],
    ):
        assert f" {value:.4f} " in found.text
    for word in ("multimodal.freedom", "synthetic", "mmrec", summary["split_hash"][:12]):
        assert word in found.text
    for line in summary["split"]["warnings"]:
        assert line in found.text
    assert "Evaluated on test once." in found.text
    assert "@media (prefers-color-scheme:dark)" in found.source and "@media print" in found.source


def test_the_page_is_made_again_from_files_within_three_seconds(launched):
    workdir, _ = launched
    before = (workdir / "report.html").read_text()
    (workdir / "report.html").unlink()
    began = time.process_time()  # other work on the machine does not count
    page.run(workdir)
    assert time.process_time() - began < 3
    assert (workdir / "report.html").read_text() == before


def test_keys_that_differ_from_the_defaults_come_first(tmp_path):
    config = mf_config.get_config("debug")
    config.optim.lr = 0.125
    found = Page(page.run(write(tmp_path, config=json.loads(config.to_json()))))
    first, _, whole = found.text.partition("The whole configuration")
    changed = first.partition("Keys that differ")[2]
    assert "optim.lr 0.125 0.001" in changed and "train.epochs 3 1000" in changed
    assert "model.dim 64 –" in changed and "optim.warmup_steps" not in changed
    assert "optim.warmup_steps" in whole


def test_a_run_of_which_little_is_known_has_a_short_page(tmp_path):
    found = Page(page.run(write(tmp_path)))
    assert_alone(found)
    assert found.all("section", "id")[0] == "results" and "slices" not in found.text
    assert "Not evaluated on test." in found.text and "0.2500" in found.text


def test_where_no_run_has_ended_one_line_says_so(tmp_path, capsys):
    with pytest.raises(UserError, match="nothing finished"):
        page.run(tmp_path)
    assert page.main([str(tmp_path)]) == 2
    assert "nothing finished" in capsys.readouterr().err
    assert page.main([str(write(tmp_path / "run"))]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'report.html'}\n"


def test_what_a_task_leaves_is_shown(tmp_path):
    workdir = write(tmp_path, codes={"use": [3, 4], "collisions": {"rate": 0.125}}, oddity=7)
    figure, (axis,) = plots.grid(1, 2, 2)
    axis.plot([0, 1])
    plots.save(figure, workdir / "codes.png")
    (workdir / "broken.png").write_bytes(b"no picture" * 9)
    found = Page(page.run(workdir))
    assert_alone(found)
    assert set(found.pictures()) == {"codes.png"}
    assert "use 3, 4 collisions.rate 0.1250" in found.text and "oddity 7" in found.text


def test_nothing_that_a_user_wrote_becomes_markup(tmp_path):
    rows = {EVIL: {"users": 1, "targets": 2, "recall@20": 0.5}, "日本": {"recall@20": 0.1}}
    shares = {EVIL: {EVIL: 0.5, "b": 0.5}}
    workdir = write(
        tmp_path,
        name=EVIL,
        data=EVIL,
        protocol=EVIL,
        split_hash=EVIL,
        test={"recall@20": 0.1, EVIL: 0.2, f"{EVIL}@5": 0.3},
        slices={EVIL: rows},
        exposure=shares,
        beyond={EVIL: 0.5, "of": {EVIL: {EVIL: 1}}},
        explain={EVIL: [0.5, 0.5]},
        split={"warnings": [EVIL], EVIL: EVIL},
        data_notes={EVIL: [EVIL]},
        further={EVIL: EVIL},
        versions={EVIL: EVIL},
        device={EVIL: EVIL},
        config={"eval": {"metric": "recall@20"}, "data": {"source": EVIL, EVIL: EVIL}},
    )
    figure, _ = plots.grid(1, 2, 2)
    plots.save(figure, workdir / "a<img src=x onerror=y>.png")
    found = Page(page.run(workdir))
    assert_alone(found)
    assert EVIL in found.text and "a<img src=x onerror=y>.png" in found.all("img", "alt")
    assert found.source.count("<title>") == 1 and EVIL not in found.source


# --- what a run does for its page ---


class Telling(mf.Model):
    def explain(self, rep, ctx):
        return {"weights": jnp.array([0.75, 0.25]), "norm": jnp.abs(rep["item"]).max()}


def test_a_method_may_explain_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(mf, "Model", Telling)
    summary = train.train(tiny(), tmp_path)
    assert summary["explain"]["weights"] == [0.75, 0.25] and summary["explain"]["norm"] > 0
    kept = json.loads((tmp_path / "summary.json").read_text())["explain"]
    assert kept == summary["explain"]
    found = Page(tmp_path / "report.html")
    assert (
        "explain" in found.all("section", "id") and "weights value 0 0.7500 1 0.2500" in found.text
    )
    widths = [s["style"] for s in found.all("span") if s.get("class") == "bar"]
    assert widths == ["width:8.00rem", "width:8.00rem", "width:2.67rem"]  # norm, weights


def test_an_explanation_that_is_too_large_is_left_out_with_a_warning(tmp_path, monkeypatch, capsys):
    class Verbose(mf.Model):
        def explain(self, rep, ctx):
            return {"everything": rep["item"]}

    monkeypatch.setattr(mf, "Model", Verbose)
    summary = train.train(tiny(), tmp_path)
    assert "explain" not in summary and "everything is [40, 4]" in capsys.readouterr().err
    assert (tmp_path / "embedding.png").exists()


def test_neither_page_nor_look_can_fail_a_run(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no\nfonts")

    monkeypatch.setattr(page, "run", broken)
    monkeypatch.setattr(plots, "embedding", broken)
    summary = train.train(tiny(), tmp_path)
    assert summary["test"] and (tmp_path / "summary.json").exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert lines == [
        f"warning: {tmp_path}/embedding.png failed (RuntimeError: no fonts); the results stand",
        f"warning: {tmp_path}/report.html failed (RuntimeError: no fonts); the results stand; "
        f"to see why: python -m mmrec_jax.page {tmp_path}",
    ]


def test_an_interruption_is_none_of_these_errors(tmp_path):
    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        page.attach(interrupted, tmp_path)


def test_a_method_without_item_vectors_has_no_map(tmp_path):
    train.train(tiny(popularity_config), tmp_path)
    found = Page(tmp_path / "report.html")
    assert_alone(found)
    assert not {"map", "curves"} & set(found.all("section", "id"))
    assert not (tmp_path / "embedding.png").exists()


def test_exposure_by_hand():
    # Items by training count 3, 2, 1, 1, 1, 0: one in the head, three in mid, one tail, one cold.
    item = np.array([0, 0, 0, 1, 1, 2, 3, 4], np.int32)
    seen = Interactions(np.arange(8, dtype=np.int32) % 2, item)
    wanted = Interactions(np.array([0, 1, 1], np.int32), np.array([5, 0, 4], np.int32))
    ids = np.arange(6)
    data = Dataset("x", Spec(2, 6), seen, wanted, wanted, user_ids=ids[:2], item_ids=ids)
    found = page.exposure(data, np.array([0, 1]), np.array([[0, 1], [0, -1]]))
    parts = lambda *shares: dict(zip(("head", "mid", "tail", "cold"), shares, strict=True))
    assert found["items"] == pytest.approx(parts(1 / 6, 3 / 6, 1 / 6, 1 / 6))
    assert found["training"] == pytest.approx(parts(3 / 8, 4 / 8, 1 / 8, 0))
    assert found["test"] == pytest.approx(parts(1 / 3, 0, 1 / 3, 1 / 3))
    assert found["recommended"] == pytest.approx(parts(2 / 3, 1 / 3, 0, 0))


# --- plots ---


def test_components_of_points_on_a_line():
    x = np.array([[0, 0, 1], [3, 4, 1], [6, 8, 1], [9, 12, 1]], float)  # steps of 5, along (3, 4)
    place, share = plots.components(x)
    np.testing.assert_allclose(place, [[-7.5, 0], [-2.5, 0], [2.5, 0], [7.5, 0]], atol=1e-9)
    np.testing.assert_allclose(share, [1, 0], atol=1e-9)
    assert np.isfinite(plots.components(np.ones((3, 2)))[1]).all()  # no variance at all


def test_a_map_takes_a_sample_of_many_items():
    place, names, index = plots.layout(np.random.default_rng(1).normal(size=(5000, 3)))
    assert place.shape == (4000, 2) and (np.diff(index) > 0).all() and index.max() < 5000
    assert names[0].startswith("principal component 1 (3")


@pytest.mark.parametrize(
    "module, name", [("umap", "UMAP"), ("sklearn/manifold", "TSNE")], ids=["umap", "sklearn"]
)
def test_a_map_is_by_neighbours_where_a_library_for_that_is_installed(
    tmp_path, monkeypatch, module, name
):
    folder = tmp_path / module
    folder.mkdir(parents=True)
    (tmp_path / Path(module).parts[0] / "__init__.py").touch()
    (folder / "__init__.py").write_text(
        f"class {name}:\n"
        "    def __init__(self, **options): assert options['random_state'] == 0\n"
        "    def fit_transform(self, x): return 2 * x[:, :2]\n"
    )
    for known in ("umap", "sklearn"):
        monkeypatch.delitem(sys.modules, known, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    x = np.random.default_rng(0).normal(size=(1500, 3))
    place, names, index = plots.layout(x)
    assert len(index) == 500 and names[1] == {"UMAP": "UMAP 2", "TSNE": "t-SNE 2"}[name]
    np.testing.assert_array_equal(place, 2 * x[index, :2])
    for loaded in [m for m in sys.modules if m.split(".")[0] in ("umap", "sklearn")]:
        monkeypatch.delitem(sys.modules, loaded)


def test_which_axes_are_logarithmic():
    assert plots.logarithmic("log(0.001,0.1)") and plots.logarithmic([0.1, 0.01])
    assert not plots.logarithmic("uniform(0.1,0.9)") and not plots.logarithmic([1, 2, 3])
    assert not plots.logarithmic([0.0, 0.1, 1.0]) and not plots.logarithmic(["a", "b"])
    assert not plots.logarithmic([True, False]) and not plots.logarithmic([0.5])


def test_a_sensitivity_plot_has_an_axis_per_key(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure) or path)
    rows = [
        {"lr": lr, "kind": kind, "m": value}
        for lr, kind, value in [
            (0.1, EVIL, 0.5), (0.1, "b", 0.3), (0.01, EVIL, 0.2), (0.01, "b", None)
        ]
    ]  # fmt: skip
    space = {"lr": [0.1, 0.01], "kind": [EVIL, "b"]}
    plots.sensitivity(space, rows, "m", {"lr": 0.1, "kind": EVIL}, tmp_path / "x.png")
    lr, kind = figures[0].axes
    assert (lr.get_xscale(), kind.get_xscale()) == ("log", "linear")
    np.testing.assert_allclose(lr.lines[0].get_data(), [[0.01, 0.1], [0.2, 0.4]])  # means
    np.testing.assert_allclose(kind.lines[0].get_data(), [[0, 1], [0.35, 0.3]])
    assert lr.lines[1].get_xdata()[0] == 0.1 and kind.lines[1].get_xdata()[0] == 0  # the chosen
    named = lambda axis: [tick.get_text() for tick in axis.get_xticklabels()]
    assert named(kind) == [EVIL[:13] + "…", "b"] and named(lr) == ["0.01", "0.1"]
    plots.sensitivity({"lr": "log(0.01,0.1)"}, rows, "m", {}, tmp_path / "x.png")
    assert figures[1].axes[0].get_xscale() == "log" and "0.01" not in named(figures[1].axes[0])
    plots.sensitivity({"lr": "uniform(0.01,0.1)"}, rows, "m", {}, tmp_path / "x.png")
    assert figures[2].axes[0].get_xscale() == "linear"
    assert plots.sensitivity(space, rows[3:], "m", {}, tmp_path / "x.png") is None


def test_the_winner_is_drawn_thick_and_on_top(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure) or path)
    log = lambda *values: [{"epoch": i + 1, "valid/m": v} for i, v in enumerate(values)]
    logs = {"000": log(0.1, 0.2), "001": log(0.3, None, 0.4), "002": log(0.2), "003": []}
    plots.validation(logs, "m", ["001"], tmp_path / "x.png")
    (axis,) = figures[0].axes
    assert len(axis.lines) == 3
    np.testing.assert_allclose(axis.lines[-1].get_data(), [[1, 3], [0.3, 0.4]])
    assert axis.lines[-1].get_linewidth() > 2 > axis.lines[0].get_linewidth()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["other runs", "chosen"]
    assert plots.validation({"003": []}, "m", [], tmp_path / "x.png") is None


# --- a sweep ---


def test_a_sweep_has_a_page_that_links_those_of_its_members(swept):
    workdir, summary = swept
    found = Page(workdir / "report.html")
    assert_alone(found)
    assert found.all("section", "id") == [
        "winner", "settings", "sensitivity", "validation", "runs", "search", "configuration",
        "environment",
    ]  # fmt: skip
    assert set(found.pictures()) == {page._HERE[f"{n}.png"] for n in ("sensitivity", "validation")}
    assert (workdir / "sensitivity.png").exists() and (workdir / "validation.png").exists()
    links = {link for link in found.all("a", "href") if not link.startswith("#")}
    ended = {f"{n:03d}" for n in range(6)} - set(summary["diverged"])
    assert len(ended) == 4 and links == {f"{name}/report.html" for name in ended}
    for name in ended:
        member = Page(workdir / name / "report.html")
        assert_alone(member)
        assert "../report.html" in member.all("a", "href")
    winner = summary["winner"]["test"]["ndcg@20"]
    assert f"{winner['mean']:.4f} ± {winner['sd']:.4f}" in found.text
    assert "evaluated on test 2 times" in found.text and found.text.count("diverged") == 3


def test_settings_are_averaged_over_seeds_and_the_chosen_one_comes_first(swept):
    workdir, summary = swept
    found = Page(workdir / "report.html")
    values = summary["winner"]["values"]
    table = found.text.partition("the chosen one first")[2]
    row = re.search(r"test recall@20 (\d+) (\S+) (\S+) 2 ", table)
    assert (float(row[2]), float(row[3])) == (values["optim.lr"], values["model.reg_weight"])
    reached = [
        json.loads((workdir / name / "summary.json").read_text())["valid"]["recall@20"]
        for name in summary["winner"]["members"]
    ]
    assert f" {report.spread(reached, 4)} " in table.partition("Sensitivity")[0]


def test_a_member_without_a_page_gets_one_and_others_keep_theirs(swept):
    workdir, _ = swept
    (workdir / "000" / "report.html").unlink()
    before = (workdir / "001" / "report.html").stat().st_mtime_ns
    page.main([str(workdir)])
    assert (workdir / "000" / "report.html").exists()
    assert (workdir / "001" / "report.html").stat().st_mtime_ns == before


def test_an_unfinished_sweep_has_no_page(swept, tmp_path):
    shutil.copy(swept[0] / "sweep.json", tmp_path)
    with pytest.raises(UserError, match="nothing finished"):
        page.sweep(tmp_path)


# --- a browser ---


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")
@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_chromium_opens_the_page(request, tmp_path, kind):
    workdir, _ = request.getfixturevalue({"run": "launched", "sweep": "swept"}[kind])
    target = (workdir / "report.html").as_uri()
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1200",
    ]  # fmt: skip
    browse = lambda *more: subprocess.run(
        [BROWSER, *flags, *more, target], capture_output=True, text=True, timeout=120
    )
    (tmp_path / "dom.html").write_text(browse("--dump-dom").stdout)
    dom, written = Page(tmp_path / "dom.html"), Page(workdir / "report.html")
    assert_alone(dom)
    names = lambda found: [tag for tag, _ in found.found]
    assert names(dom) == names(written)  # nothing was repaired, moved or dropped
    assert dom.text.split() == written.text.split()

    logged = browse("--enable-logging=stderr", f"--screenshot={tmp_path / 'shot.png'}").stderr
    assert "Content Security Policy" not in logged
    light = image.imread(tmp_path / "shot.png")[..., :3]
    browse("--blink-settings=preferredColorScheme=0", f"--screenshot={tmp_path / 'dark.png'}")
    dark = image.imread(tmp_path / "dark.png")[..., :3]
    assert light.shape == dark.shape == (1200, 1000, 3)
    assert light[-1, 0].min() > 0.9 and dark[-1, 0].max() < 0.2
    for shot, ground in ((light, light[-1, 0]), (dark, dark[-1, 0])):
        drawn = np.abs(shot - ground).max(-1) > 0.3
        assert 0.01 < drawn.mean() < 0.9  # text and lines, neither blank nor black
