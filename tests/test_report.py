"""Tables of scores: means, intervals and differences checked by hand, and input that is rejected."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from scipy import stats

from cepnb.cli import main
from cepnb.densities.metrics import interquartile_mean, stratified_interval
from cepnb.errors import CepnbError
from cepnb.experiments.published_scores import MEANS, QGPO, SUITES, published_name, suite_of
from cepnb.experiments.report import report
from cepnb.experiments.scores import ablations, load_scores, rows_of, summed_up, write_scores
from cepnb.notebook.plots import png
from cepnb.notebook.score_plots import ablation_figure, score_figure, sweep_figure, task_figure
from cepnb.qgpo.settings import qgpo_settings
from cepnb.storage.files import write_json

CASES = (
    ("behaviour", 0.0),
    ("best_of_k", None),
    ("cep", 1.0),
    ("cep", 3.0),
    ("mse", 1.0),
    ("mse", 3.0),
)
SETTINGS = json.loads(json.dumps(asdict(qgpo_settings("ci", episodes=50, headline_scale=3.0))))


def metrics(seed: int, scores: tuple[float, ...], **changes: object) -> dict:
    records = [
        {
            "method": method,
            "scale": scale,
            "episodes": 50,
            "return_mean": 1.0,
            "return_se": 0.5,
            "normalised": score,
            "normalised_se": 2.0,
        }
        for (method, scale), score in zip(CASES, scores)
    ]
    gains = [{"method": method, "scale": scale, "gain": 0.25} for method, scale in CASES[2:]]
    return {
        "dataset": "local/maze2d-umaze",
        "environment": "maze2d-umaze",
        "rows": 10,
        "profile": "ci",
        "seed": seed,
        "settings": SETTINGS,
        "threads": 2,
        "seconds": {"critic": 100.0 + seed, "evaluation": 0.5},
        "gains": gains,
        "q_mean": 3.0,
        "beta_times_q_spread": 0.5,
        "versions": {"python": "3.11.7", "torch": "2.13"},
        "scores": records,
    } | changes


def write(path: Path, *args: object, **changes: object) -> Path:
    path.mkdir(parents=True)
    (path / "metrics.json").write_text(json.dumps(metrics(*args, **changes)))
    return path


THREE = (
    (-10.0, 70.0, 1.0, 80.0, 5.0, 60.0),
    (-10.0, 72.0, 2.0, 90.0, 5.0, 62.0),
    (-10.0, 74.0, 6.0, 100.0, 5.0, 88.0),
)
WELL = metrics(0, THREE[0])


def csv_with(**cells: str) -> str:
    """A scores.csv with one row, some of its cells changed."""
    row = {
        "seed": "0",
        "normalised": "1.5",
        "episodes": "50",
        "seconds": "2",
        "threads": "1",
        "rows": "10",
        "dataset": "local/maze2d-umaze",
        "environment": "maze2d-umaze",
        "profile": "ci",
        "option": "base",
        "method": "cep",
        "scale": "3.0",
    } | cells
    return f"{','.join(row)}\n{','.join(row.values())}\n"


def test_means_intervals_and_differences_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folders = [write(tmp_path / str(seed), seed, scores) for seed, scores in enumerate(THREE)]
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    sections = dict(part.split("\n", 1) for part in printed.split("### ")[1:])
    assert list(sections) == [
        "At the headline scale",
        "Differences seed by seed",
        "The whole grid of scales",
        "Runs",
        "Published scores",
    ]
    head, grid = (
        sections[name].strip().splitlines()
        for name in ("At the headline scale", "The whole grid of scales")
    )
    assert head[2] == "| task | method | scale s | seeds | mean | 95 % interval | each seed |"
    assert (
        head[4]
        == "| local/maze2d-umaze | behaviour |  | 3 | -10.0 | -10.0 to -10.0 | -10.0, -10.0, -10.0 |"
    )
    # 90 ± t(0.975; 2) 10/√3 with t = 4.3027 from tables
    assert (
        head[6] == "| local/maze2d-umaze | cep | 3 | 3 | 90.0 | 65.2 to 114.8 | 80.0, 90.0, 100.0 |"
    )
    assert [line.split(" | ")[1:3] for line in head[4:]] == [
        ["behaviour", ""],
        ["best_of_k", ""],
        ["cep", "3"],
        ["mse", "3"],
    ]
    # 3 ± 4.3027 √7/√3 at another scale
    assert (
        len(grid) == 8
        and grid[4] == "| local/maze2d-umaze | cep | 1 | 3 | 3.0 | -3.6 to 9.6 | 1.0, 2.0, 6.0 |"
    )
    # differences 20, 28, 12: 20 ± 4.3027 · 8/√3
    assert (
        "| local/maze2d-umaze | cep − mse | 3 | 20.0 | 0.1 to 39.9 | 20.0, 28.0, 12.0 |"
        in sections["Differences seed by seed"]
    )
    assert (
        "| local/maze2d-umaze | cep − behaviour | 3 | 100.0 | 75.2 to 124.8 |"
        in sections["Differences seed by seed"]
    )
    assert "| local/maze2d-umaze | ci | 10 | 0, 1, 2 | 50 | 100 to 102 | 2 |" in sections["Runs"]
    assert "No score of QGPO" in sections["Published scores"]
    assert main(["report", *map(str, folders)]) == 0 and capsys.readouterr().out == printed
    assert main(["report", str(folders[0] / "metrics.json")]) == 0
    assert (
        "| local/maze2d-umaze | cep | 3 | 1 | 80.0 | 80.0 |" in capsys.readouterr().out
    )  # one seed: no interval


def test_csv_stores_all_that_the_report_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Two options and two tasks, with text that CSV must quote."""
    rows = [
        row
        for option in ("base", "8")
        for dataset in ("local/maze2d-umaze", 'a, "b".hdf5')
        for seed, scores in enumerate(THREE)
        for row in rows_of(metrics(seed, scores, dataset=dataset), option)
    ]
    write_scores(tmp_path / "scores.csv", rows)
    assert load_scores([tmp_path]) == rows == load_scores([tmp_path / "scores.csv"])
    assert (
        rows[3]["gain"] == 0.25
        and rows[0]["gain"] is None
        and rows[0]["seconds"] == 100.5
        and rows[0]["beta"] == 60.0
    )
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == report(rows)
    assert '| a, "b".hdf5 in maze2d-umaze | 8 | cep | 3 | 3 | 90.0 | 65.2 to 114.8 |' in report(
        rows
    )


def test_the_report_names_what_could_not_be_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Seed 1 has no score of CEP and seed 2 none at all, in runs and in the CSV of a sweep."""
    faults = [
        "cep at s = 1: actions that are not finite",
        "cep at s = 3: actions that are not finite",
    ]
    partly = metrics(1, THREE[1], faults=faults)
    partly["scores"] = [record for record in partly["scores"] if record["method"] != "cep"]
    runs = [
        metrics(0, THREE[0]),
        partly,
        metrics(2, (), faults=["behaviour, cep at s = 1: hopper: step 3 failed"]),
    ]
    write_scores(tmp_path / "csv" / "scores.csv", [row for run in runs for row in rows_of(run)])
    for seed, run in enumerate(runs):
        write_json(tmp_path / "runs" / str(seed) / "metrics.json", run)
    for name in ("csv", "runs"):
        assert main(["report", str(tmp_path / name)]) == 0
        printed = capsys.readouterr().out
        part = printed.split("### Left out")[1].split("###")[0].strip().splitlines()
        assert part[2:] == [
            "| task | seed | left out |",
            "|---|---|---|",
            f"| local/maze2d-umaze | 1 | {'; '.join(faults)} |",
            "| local/maze2d-umaze | 2 | behaviour, cep at s = 1: hopper: step 3 failed |",
        ]
        assert (
            "| cep | 3 | 1 | 80.0 |  | 80.0 |" in printed
            and "| behaviour |  | 2 | -10.0 |" in printed
        )
        assert "| local/maze2d-umaze | ci | 10 | 0, 1, 2 | 50 |" in printed
    assert main(["report", str(tmp_path / "runs" / "2")]) == 2
    assert capsys.readouterr().err == (
        f"cepnb: error: {tmp_path}/runs/2/metrics.json: no score (behaviour, cep at "
        "s = 1: hopper: step 3 failed); name finished runs with scores\n"
    )


def test_all_tasks_together(tmp_path: Path) -> None:
    """The interquartile mean of 2 × 3 scores drops one at each end; only one task has seed 3."""
    other = (
        (0.0, 0.0, 0.0, -50.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 10.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 20.0, 0.0, 0.0),
    )
    rows = [row for seed, scores in enumerate(THREE) for row in rows_of(metrics(seed, scores))]
    rows += [
        row
        for seed, scores in enumerate((*other, other[0]))
        for row in rows_of(
            metrics(seed, scores, dataset="local/maze2d-large", environment="maze2d-large")
        )
    ]
    line = next(line for line in report(rows).splitlines() if line.startswith("| cep | 2 |"))
    # the scores are −50, 10, 20, 80, 90, 100
    low, high = stratified_interval(
        np.array([[80.0, -50.0], [90.0, 10.0], [100.0, 20.0]]), np.random.default_rng(0)
    )
    assert line == f"| cep | 2 | 3 | 50.0 | {low:.1f} to {high:.1f} |"
    assert "All tasks together" not in report(rows[:18])


def test_interquartile_mean_is_scipys_trimmed_mean() -> None:
    random = np.random.default_rng(0)
    for runs, tasks in ((1, 1), (3, 2), (5, 4), (7, 3)):
        scores = 100 * random.standard_cauchy((4, runs, tasks))
        np.testing.assert_allclose(
            interquartile_mean(scores), [stats.trim_mean(one, 0.25, axis=None) for one in scores]
        )


def test_stratified_interval_against_all_resamples() -> None:
    """Two tasks of three runs have 27 × 27 equally likely resamples; compare with their quantiles."""
    scores = np.array([[10.0, -5.0], [13.0, 40.0], [31.0, 47.0]])
    values = Counter()
    for first in itertools.product(scores[:, 0], repeat=3):
        for second in itertools.product(scores[:, 1], repeat=3):
            values[round(stats.trim_mean([*first, *second], 0.25), 9)] += 1 / 27**2
    low, high = stratified_interval(scores, np.random.default_rng(0), draws=200_000)
    for found, quantile in ((low, 0.025), (high, 0.975)):
        below, up_to = (
            sum(p for value, p in values.items() if value < found + shift)
            for shift in (-1e-6, 1e-6)
        )
        assert (
            below - 0.002 <= quantile <= up_to + 0.002
        )  # 0.002 is 5 standard errors of a share of 200,000 draws
    assert all(map(math.isnan, stratified_interval(scores[:1], np.random.default_rng(0))))


def test_published_scores_are_separate_and_labelled() -> None:
    rows = [
        row
        for seed, scores in enumerate(THREE)
        for row in rows_of(
            metrics(seed, scores, dataset="minari/D4RL/hopper/medium-v0", environment="hopper")
        )
    ]
    before, apart = report(rows).split("### Published scores")
    assert "98.0" not in before and "**Other data:**" in apart
    assert (
        "| minari/D4RL/hopper/medium-v0 in hopper | 90.0 (65.2 to 114.8) | 98.0 on hopper-medium | "
        "Lu et al. 2023, arXiv:2304.12824 |"
    ) in apart
    assert "| locomotion | IQL | 77.0 |" in apart and "AntMaze" not in apart


def test_published_numbers_agree_with_their_means() -> None:
    *means, _ = MEANS["QGPO"]
    for suite, mean in zip(SUITES, means, strict=True):
        own = [score for name, score in QGPO.items() if suite_of(name) == suite]
        assert np.mean(own) == pytest.approx(mean, abs=0.05)
    assert published_name("d4rl/antmaze-large-play-v0") == "antmaze-large-play"
    assert published_name("local/hopper-medium-replay") == "hopper-medium-replay"
    assert [
        published_name(name)
        for name in ("hopper-medium", "local/maze2d-umaze", "d4rl/hopper-expert-v2")
    ] == [None] * 3


def test_the_figure_of_a_sweep() -> None:
    rows = [
        row
        for option in ("base", "sharper")
        for dataset in ("local/maze2d-umaze", "local/maze2d-umaze-noisy")
        for seed, scores in enumerate(THREE)
        for row in rows_of(metrics(seed, scores, dataset=dataset), option)
    ]
    axes = sweep_figure(summed_up(rows)).axes
    assert [panel.get_title() for panel in axes] == ["at the headline scale", "base", "sharper"] * 2
    (cep,) = [drawn for drawn in axes[1].containers if drawn.get_label() == "CEP"]
    line, _, (bars,) = cep
    assert line.get_xdata().tolist() == [1.0, 3.0] and line.get_ydata().tolist() == [3.0, 90.0]
    assert bars.get_segments()[1][:, 1] == pytest.approx([65.16, 114.84], abs=0.01)
    assert len(sweep_figure(summed_up(rows[:6])).axes) == 1  # one option, one seed


def drawn_bars(axes: Axes) -> list[np.ndarray]:
    """The error bars that show: those with two finite ends."""
    bars = [bar for made in axes.containers for bar in made[2][0].get_segments()]
    return [bar for bar in bars if len(bar) and np.isfinite(bar).all()]


def test_one_seed_has_no_error_bar() -> None:
    """A bar of length 0 would claim that seeds agree."""
    lines = summed_up(rows_of(metrics(0, THREE[0]), "base"))
    assert all(np.isnan(line.mean[1]) for line in lines)
    for made in (sweep_figure(lines), task_figure(lines)):
        (axes,) = made.axes
        assert axes.containers and not drawn_bars(axes) and not axes.texts
        assert not any(isinstance(patch, Rectangle) for patch in axes.patches)  # no band
        png(made)


def test_scores_that_are_not_finite_are_named_in_the_figure() -> None:
    record = {"method": "cep", "scale": 1.0, "normalised": 5.0, "normalised_se": 1.0}
    wrong = record | {"scale": 3.0, "normalised": float("nan")}
    without_scale = wrong | {"method": "behaviour", "scale": None}
    made = score_figure([record, wrong, without_scale])
    assert [text.get_text() for text in made.axes[0].texts] == ["2 of 3 scores are not finite"]
    assert len(drawn_bars(made.axes[0])) == 1
    png(made)


def test_the_figure_of_a_wide_sweep_wraps_its_rows() -> None:
    rows = [
        row
        for option in ("base", *(f"K_{K}" for K in range(2, 9)))
        for row in rows_of(metrics(0, THREE[0]), option)
    ]
    rows += [row for row in rows_of(metrics(0, THREE[0]), "exact") if row["scale"] != 3.0]
    made = sweep_figure(summed_up(rows))
    assert [panel.get_title() for panel in made.axes] == [
        "at the headline scale",
        "base",
        *(f"K_{K}" for K in range(2, 9)),
    ]
    spans = [panel.get_subplotspec() for panel in made.axes]
    assert [(s.rowspan.start, s.colspan.start, len(s.colspan)) for s in spans] == [
        (0, 0, 3),
        (0, 3, 1),
        *((1, column, 1) for column in range(4)),
        *((2, column, 1) for column in range(3)),
    ]
    assert [text.get_text() for text in made.legends[0].get_texts()] == [
        "behaviour μ",
        "best of K by Q",
        "CEP",
        "MSE",
    ]


def test_the_figure_of_tasks_is_of_the_headline_scale() -> None:
    rows = [
        row
        for dataset in ("local/maze2d-umaze", "local/maze2d-umaze-noisy")
        for seed, scores in enumerate(THREE)
        for row in rows_of(metrics(seed, scores, dataset=dataset))
    ]
    (axes,) = task_figure(summed_up(rows)).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "local/maze2d-umaze",
        "local/maze2d-umaze-noisy",
    ]
    headline = next(line for line in summed_up(rows) if line.method == "cep" and line.headline)
    (cep,) = [drawn for drawn in axes.containers if drawn.get_label() == "CEP"]
    assert cep[0].get_ydata().tolist() == [headline.mean[0]] * 2
    assert np.diff(cep[0].get_xdata()).tolist() == pytest.approx([1.0])


def test_the_figure_of_ablations_has_a_panel_for_each_setting() -> None:
    changed = {
        "K_16": {"K": 16, "energy_K": 16},
        "base": {},
        "beta_5": {"beta": 5.0},
        "labels": {"labels": "self_normalised"},
        "beta_40": {"beta": 40.0},
        "longer": {"episodes": 60},
    }
    rows = [
        row
        for place, (option, changes) in enumerate(changed.items())
        for seed, scores in enumerate(THREE)
        for row in rows_of(
            metrics(
                seed,
                tuple(score + place * (1 + seed) for score in scores),
                settings=SETTINGS | changes,
            ),
            option,
        )
    ]
    assert ablations(rows) == {
        "K": [(4, "base"), (16, "K_16")],
        "beta": [(5.0, "beta_5"), (40.0, "beta_40"), (60.0, "base")],
        "labels": [("posterior", "base"), ("self_normalised", "labels")],
    }
    axes = ablation_figure(rows).axes
    assert [panel.get_title() for panel in axes] == [
        "K",
        "beta",
        "labels",
        "local/maze2d-umaze, base",
    ]
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["5", "40", "60"]
    narrow = ablation_figure(rows, columns=2).axes
    assert (
        [panel.get_subplotspec().num1 for panel in narrow] == [0, 1, 2, 3]
        and narrow[2].get_ylabel()
        and not narrow[1].get_ylabel()
    )
    exact, headline = axes[1].containers
    assert [exact.get_label(), headline.get_label()] == ["CEP, s = 1", "CEP, s = 3"]
    # differences of 1, 2, 3 and of 3, 6, 9: 2 ± 4.3027/√3 and 6 ± 3 · 4.3027/√3
    assert headline[0].get_ydata().tolist() == exact[0].get_ydata().tolist() == [2.0, 6.0, 0.0]
    bounds = [segment[:, 1].tolist() for segment in headline[2][0].get_segments()]
    assert np.ravel(bounds) == pytest.approx(
        [2 - 2.484, 2 + 2.484, 6 - 7.452, 6 + 7.452, 0, 0], abs=1e-3
    )
    # CEP at the headline scale under beta_5 less base: 1, 2, 3
    assert (
        "| local/maze2d-umaze | beta_5 | 3 | 2.0 | -0.5 to 4.5 | 1.0, 2.0, 3.0 |"
        in report(rows).split("### Options minus base")[1]
    )
    with pytest.raises(CepnbError, match="options K_16: none is named base; rename one"):
        ablations([row for row in rows if row["option"] == "K_16"])


def test_the_figure_of_ablations_compares_options_within_a_task() -> None:
    """Two tasks with different settings, the second with a single option."""
    changed = {
        "local/maze2d-umaze": {"base": {}, "beta_5": {"beta": 5.0}},
        "local/maze2d-umaze-noisy": {"base": {"beta": 3.0, "beta_q": 1.0}},
    }
    rows = [
        row
        for dataset, options in changed.items()
        for option, changes in options.items()
        for row in rows_of(
            metrics(0, THREE[0], dataset=dataset, settings=SETTINGS | changes), option
        )
    ]
    axes = ablation_figure(rows).axes
    assert [panel.get_title() for panel in axes] == [
        "beta",
        "local/maze2d-umaze, base",
        "local/maze2d-umaze-noisy, base",
    ]
    assert [len(panel.containers) for panel in axes] == [2, 2, 2]
    assert (
        axes[2].get_subplotspec().rowspan.start == 1
        and axes[2].get_subplotspec().colspan.start == 0
    )  # a task starts a new row


@pytest.mark.parametrize(
    "changes, seed, complaint",
    [
        (
            {"settings": SETTINGS | {"beta": 3.0}},
            1,
            "b/metrics.json: beta is 3.0, but 60.0 in {}/a/metrics.json; report runs",
        ),
        (
            {"profile": "laptop"},
            1,
            "b/metrics.json: profile is laptop, but ci in {}/a/metrics.json; report runs",
        ),
        (
            {"digest": "02"},
            1,
            "b/metrics.json: digest is 02, but 01 in {}/a/metrics.json; report runs that differ in seeds",
        ),
        (
            {"device": "cuda"},
            1,
            "b/metrics.json: device is cuda, but cpu in {}/a/metrics.json; report runs",
        ),
        ({"digest": None}, 1, None),
        ({}, 0, "b/metrics.json: seed 0 occurs twice; name each run once"),
        (
            {"scores": None},
            1,
            "b/metrics.json: ",
        ),
        ({"dataset": "local/maze2d-large"}, 0, None),
        ({"threads": 4}, 1, None),
    ],
)
def test_runs_that_differ_in_more_than_seeds_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture, changes: dict, seed: int, complaint: str | None
) -> None:
    write(tmp_path / "a", 0, THREE[0], digest="01")
    found = metrics(seed, THREE[1], digest="01") | changes
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "metrics.json").write_text(
        json.dumps({key: value for key, value in found.items() if value is not None})
    )
    status = main(["report", str(tmp_path)])
    assert status == (2 if complaint else 0)
    if complaint:
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"cepnb: error: {tmp_path}/{complaint.format(tmp_path)}")


def test_data_and_device_are_compared_where_recorded(tmp_path: Path) -> None:
    """In CSV too, even if an older run without these columns comes first."""

    def table(name: str, seed: int, without: tuple[str, ...] = (), **changes: object) -> Path:
        rows = rows_of(metrics(seed, THREE[0], **changes))
        write_scores(
            tmp_path / name / "scores.csv",
            [{key: cell for key, cell in row.items() if key not in without} for row in rows],
        )
        return tmp_path / name

    older = table("older", 0, without=("digest", "device"), device="cuda")
    one, other = (
        table("one", 1, digest="1234567890123456"),
        table("other", 2, digest="1234567890123457"),
    )
    assert {row["digest"] for row in load_scores([one])} == {"1234567890123456"}
    assert len(load_scores([older, one])) == 12 and "device" not in load_scores([older])[0]
    with pytest.raises(
        CepnbError,
        match="other/scores.csv: digest is 1234567890123457, but 1234567890123456 in .*/one/scores.csv",
    ):
        load_scores([older, one, other])
    with pytest.raises(
        CepnbError, match="gpu/scores.csv: device is cuda, but cpu in .*/one/scores.csv"
    ):
        load_scores([older, one, table("gpu", 3, device="cuda")])


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("metrics.json", "[1, 2]", "metrics.json"),
        ("metrics.json", "{", "JSON"),
        ("metrics.json", "[" * 100_000, "JSON"),
        ("metrics.json", json.dumps(metrics(0, ())), "no score"),
        *(
            ("metrics.json", json.dumps(WELL | {key: value}), key)
            for key, value in [
                ("settings", None),
                ("dataset", None),
                ("environment", 3),
                ("profile", []),
                ("rows", "ten"),
                ("rows", True),
                ("seed", "0"),
                ("seed", 0.5),
                ("threads", None),
                ("seconds", {"critic": "long"}),
                ("seconds", {"critic": math.nan}),
                ("gains", None),
                ("gains", [{}]),
                ("gains", [{"method": "cep", "scale": 1.0, "gain": "x"}]),
                ("versions", None),
                ("versions", {"torch": 2}),
                ("digest", 7),
                ("device", {}),
                ("faults", "none"),
                ("faults", [None]),
                ("q_mean", "high"),
                ("q_mean", 10**400),
                ("scores", [{}]),
                ("scores", [None]),
                *(
                    ("scores", [WELL["scores"][0] | changes])
                    for changes in [
                        {"normalised": None},
                        {"normalised": "high"},
                        {"normalised": math.inf},
                        {"scale": "x"},
                        {"scale": False},
                        {"method": 1},
                        {"episodes": None},
                        {"return_mean": "x"},
                        {"return_se": None},
                        {"normalised_se": math.nan},
                    ]
                ),
            ]
        ),
        (
            "scores.csv",
            "seed,normalised,episodes,seconds,threads,rows\n",
            "no rows; name the scores.csv of a sweep",
        ),
        ("scores.csv", "a,b\n1,2\n", "line 2: object missing required field `dataset`; name"),
        (
            "scores.csv",
            "dataset,environment,profile,option,method,scale,seed\na,b,c,d,e,1,1\n",
            "line 2: object missing required field `normalised`; name",
        ),
        ("scores.csv", "\0\xff", "cannot be read ("),
        *(
            (
                "scores.csv",
                csv_with(**{key: cell}),
                f"line 2: {key}: {problem}; name the scores.csv",
            )
            for key, cell, problem in [
                ("scale", "abc", "expected `float | null`, got `str`"),
                ("scale", "[1]", "expected `float | null`, got `array`"),
                ("normalised", "NaN", "expected `float` >= -1.7976931348623157e+308"),
                ("normalised", "-Infinity", "expected `float` >= -1.7976931348623157e+308"),
                ("seed", "x", "expected `int`, got `str`"),
                ("seed", "true", "expected `int`, got `bool`"),
                ("seconds", "long", "expected `float`, got `str`"),
                ("episodes", "1.5", "expected `int`, got `float`"),
                ("threads", "", "expected `int`, got `null`"),
                ("faults", "x", "expected `array | null`, got `str`"),
                ("rows", "[" * 1000, "expected `int`, got `str`"),
                ("normalised", "1" + "0" * 400, "number out of range"),
                ("beta", "NaN", "expected `float` >= -1.7976931348623157e+308"),
                ("headline_scale", "Infinity", "expected `float` <= 1.7976931348623157e+308"),
                ("K", "many", "expected `int`, got `str`"),
                ("K", "", "expected `int`, got `null`"),
                ("clip_actions", "3", "expected `bool`, got `int`"),
                ("gain", "NaN", "expected `float` >= -1.7976931348623157e+308"),
                ("q_mean", "Infinity", "expected `float` <= 1.7976931348623157e+308"),
                ("normalised_se", "NaN", "expected `float` >= -1.7976931348623157e+308"),
            ]
        ),
        ("scores.csv", csv_with(method=""), "line 2: object missing required field `faults`; name"),
    ],
)
def test_damaged_files(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, content: str, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content.encode("latin1"))
    assert main(["report", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    start = f"cepnb: error: {tmp_path / name}: "
    assert line.startswith(start) and complaint in line.removeprefix(start) and len(line) < 500


def test_the_csv_without_damage_loads(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for encoding in ("utf-8", "utf-8-sig"):  # with a byte-order mark, as spreadsheets write it
        (tmp_path / "scores.csv").write_text(csv_with(), encoding=encoding)
        assert main(["report", str(tmp_path)]) == 0
        assert "| local/maze2d-umaze | base | cep | 3 | 1 | 1.5 | 1.5 |" in capsys.readouterr().out
    assert load_scores([str(tmp_path)]) == load_scores([tmp_path])


def test_the_report_includes_runs_that_the_table_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A sweep that was killed or still runs, with one more option and one more seed."""
    faults = ["mse at s = 3: actions that are not finite"]
    runs = [
        ("base", metrics(0, THREE[0])),
        ("base", metrics(1, THREE[1], faults=faults)),
        ("base", metrics(2, THREE[2])),
        ("8", metrics(0, THREE[1])),
    ]
    for option, run in runs:
        write_json(tmp_path / "task" / option / f"seed{run['seed']}" / "metrics.json", run)
    all_rows = [row for option, run in runs for row in rows_of(run, option)]
    write_scores(tmp_path / "scores.csv", all_rows[:12])
    found, expected = (
        {
            (row["option"], row["seed"], row["method"], row["scale"]): {"faults": None} | row
            for row in rows
        }
        for rows in (load_scores([tmp_path]), all_rows)
    )
    assert found == expected
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| local/maze2d-umaze | base | cep | 3 | 3 | 90.0 |" in printed
    assert "| local/maze2d-umaze | 8 | cep | 3 | 1 | 90.0 |" in printed
    assert f"| local/maze2d-umaze | base | 1 | {faults[0]} |" in printed
    write_json(tmp_path / "copies" / "metrics.json", runs[0][1])  # a copy of a run in the table
    assert (
        len(load_scores([tmp_path])) == len(all_rows)
        and len(load_scores([tmp_path / "scores.csv"])) == 12
    )
    strange = tmp_path / "by hand" / "metrics.json"
    write_json(strange, metrics(7, THREE[0]))
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"cepnb: error: {strange}: neither in {tmp_path}/scores.csv nor in a folder TASK/OPTION/seedN; "
        "name it next to the table\n"
    )


def test_folders_without_scores(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"cepnb: error: {tmp_path}: no scores.csv and no metrics.json; "
        "name the folder of a sweep or of finished runs\n"
    )
    assert main(["report", str(tmp_path / "none")]) == 2
    assert f"{tmp_path / 'none'}: " in capsys.readouterr().err


@pytest.mark.parametrize("plot", [score_figure, sweep_figure, task_figure, ablation_figure])
def test_figures_need_scores(plot: Callable) -> None:
    with pytest.raises(CepnbError, match="^scores are missing; pass at least one to plot$"):
        plot([])
