"""Methods on toy densities: metrics, networks, training, the benchmark and its command."""

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cepnb.cli import main
from cepnb.densities import benchmark
from cepnb.densities.methods import (
    LEARNED,
    Models,
    at_beta,
    guided_samples,
    score_net,
    toy_energy_net,
    train_toy_energy,
)
from cepnb.densities.metrics import (
    effective_samples,
    energy_shares,
    gradient_error,
    gradient_moments,
    interquartile_mean,
    mean_interval,
    mmd,
    stratified_interval,
    w2,
)
from cepnb.densities.mixtures import GaussianMixture
from cepnb.densities.names import METHODS, exact_text
from cepnb.densities.settings import TOY_PROFILES, toy_settings
from cepnb.densities.toys import DENSITIES, density
from cepnb.diffusion import losses
from cepnb.diffusion.guidance import dps_energy, energy_gradient
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError

SCHEDULE = VPSchedule()


def test_mmd_and_effective_samples_and_intervals() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 500, 2, generator=g)
    assert mmd(x, x) == pytest.approx(0, abs=1e-3) and 0 < mmd(x, y) < 0.06 < mmd(x, y + 0.5)
    assert effective_samples(torch.full((7,), -3.0)).item() == pytest.approx(7)
    assert effective_samples(torch.tensor([0.0, -100.0])).item() == pytest.approx(1)
    # The quantile of t with 2 degrees of freedom is 4.3027, over √3.
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.4841), abs=1e-3)
    assert math.isnan(mean_interval([5.0])[1])


def test_a_share_of_the_times_is_uniform_in_half_log_snr() -> None:
    t = SCHEDULE.draw_times(40_000, torch.Generator().manual_seed(0), early=0.5)
    assert SCHEDULE.t_min <= t.min() and t.max() <= 1
    lam = SCHEDULE.half_log_snr(t[:20_000].double())
    low, high = SCHEDULE.half_log_snr(
        torch.tensor([1.0, SCHEDULE.t_min], dtype=torch.float64)
    ).tolist()
    share = torch.histc((lam - low) / (high - low), 10, 0, 1) / 20_000
    assert (share - 0.1).abs().max() < 0.015  # 7 standard errors of counting
    assert t[20_000:].mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("make", [score_net, toy_energy_net])
def test_networks_of_the_plane_take_any_leading_axes(make) -> None:
    net = make(density("moons"), toy_settings("ci"), 0)
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    single = torch.stack([net(x[i, j], t[i]) for i in range(4) for j in range(3)])
    torch.testing.assert_close(net(x, t), single.unflatten(0, (4, 3)))


def test_an_untrained_score_is_bounded_at_the_end_of_time() -> None:
    """x̂_0 = (x − σε)/α does not multiply the error of the network by 1/α_1 = 150."""
    net = score_net(density("rings"), toy_settings("ci"), 0)
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(1.0)
    x0 = (x - SCHEDULE.sigma(t) * net(x, t)) / SCHEDULE.alpha(t)
    assert x0.abs().max() < 5


@pytest.mark.parametrize("method", LEARNED)
def test_every_learned_method_learns(method: str) -> None:
    """Under the ci profile, guided samples are closer to p_0 than unguided ones."""
    q, settings, beta = density("8gaussians"), toy_settings("ci"), 3.0
    f = train_toy_energy(method, q, beta, settings, 0, progress=False).requires_grad_(False)
    exact, _ = q.tilted(beta).sample(settings.samples, seeded(0, "exact"))
    distances = [
        w2(guided_samples(q.eps, energy_gradient(f), q, settings, seeded(0, "start"), scale), exact)
        for scale in (0.0, 1.0)
    ]
    assert distances[1] < 0.75 * distances[0]


def test_shipped_networks_match_the_settings_and_sample_well() -> None:
    assert len(benchmark.SHIPPED) == 6
    with pytest.raises(CepnbError, match="density 'mine' has no networks here; use one of"):
        benchmark.shipped("mine")
    for name in benchmark.SHIPPED:
        models = benchmark.shipped(name)
        stored = json.loads((models.run.folder / "settings.json").read_text())
        assert stored["settings"] == json.loads(json.dumps(asdict(toy_settings("laptop"))))
        assert {path.name for path in models.run.folder.iterdir()} == {
            "settings.json",
            "score.safetensors",
            "cep_beta.safetensors",
        }
        eps, gradient = models.guidance("cep_beta", 3.0)
        sets = [models.density.tilted(3.0).sample(2000, seeded(k, "shipped"))[0] for k in range(2)]
        x = guided_samples(eps, gradient, models.density, models.settings, seeded(2, "shipped"))
        unguided = guided_samples(
            eps, gradient, models.density, models.settings, seeded(2, "shipped"), scale=0.0
        )
        assert mmd(x, sets[0]) < min(4 * mmd(sets[1], sets[0]), 0.5 * mmd(unguided, sets[0]))
    with pytest.raises(CepnbError, match="^beta 25.5: cep_beta is trained up to 25; use cep_self"):
        models.guidance("cep_beta", 25.5)


def test_the_command_writes_the_files_that_are_shipped(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = [
        "toy",
        "--density",
        "moons",
        "--method",
        "cep_beta",
        "--beta",
        "3",
        "--profile",
        "ci",
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"w2", "w2_floor", "w2_ratio", "mmd_ratio", "energy_gradient_mse", "seconds"} <= set(
        found
    )
    assert (
        found["w2_ratio"] == pytest.approx(found["w2"] / found["w2_floor"]) and found["seconds"] > 0
    )
    folder = tmp_path / "moons/seed0"
    assert {"settings.json", "score.safetensors", "cep_beta.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == found  # read, not measured again
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    other = [*command, "--seed", "1"]
    assert main(other) == 0 and (tmp_path / "moons/seed1/score.safetensors").exists()


def test_exact_rows_are_exact(tmp_path: Path) -> None:
    q, models = density("moons"), Models("moons", "ci", 0, tmp_path, progress=False)
    eps, gradient = models.guidance("exact", 3.0)
    x, t = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
    torch.testing.assert_close(gradient(x, t), q.intermediate_energy_gradient(x, t, 3.0))
    torch.testing.assert_close(eps(x, t), q.eps(x, t))
    with pytest.raises(CepnbError, match="method 'cpe' is unknown; use one of exact, "):
        models.guidance("cpe", 3.0)


def test_table_of_two_seeds() -> None:
    records = [
        {"density": "moons", "beta": 1.0, "method": method, "seed": seed, "w2_ratio": value}
        for method, values in (("exact", (1.0, 1.2)), ("mse", (2.0, 2.0)))
        for seed, value in enumerate(values)
    ]
    lines = benchmark.records_table(records).splitlines()
    assert (
        lines[0] == "| density | β | exact | mse |"
        and lines[2] == "| moons | 1 | 1.10 ± 1.27 | 2.00 ± 0.00 |"
    )
    lines = benchmark.records_table([*records[:3], records[0] | {"beta": 3.0}]).splitlines()
    assert (
        lines[0] == "| density | β | exact (seeds: 1–2) | mse (seeds: 0–1) |"
        and lines[3] == "| moons | 3 | 1.00 | – |"
    )
    lines = benchmark.records_table(
        [*records[:3], records[0] | {"beta": 3.0}], intervals=False
    ).splitlines()
    assert lines[0] == "| density | β | exact | mse |" and lines[2] == "| moons | 1 | 1.10 | 2.00 |"


def test_seeds_add_up_from_the_records_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records and settings of a table are enough to add seeds; other settings raise."""
    cases = dict(methods=("exact",), names=("moons",), betas=(1.0,), progress=False)
    (first,) = benchmark.table("ci", [0], tmp_path, **cases)
    shutil.rmtree(tmp_path / "moons")
    both = benchmark.table("ci", [1], tmp_path, **cases)
    assert both[0] == first and both[1]["seed"] == 1 and not (tmp_path / "moons/seed0").exists()
    assert json.loads((tmp_path / "records.json").read_text()) == both
    monkeypatch.setitem(TOY_PROFILES, "ci", replace(toy_settings("ci"), samples=100))
    with pytest.raises(CepnbError, match="settings.json: made with samples 200, now 100"):
        benchmark.table("ci", [0], tmp_path, **cases)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--density", "moon", "--method", "mse", "--beta", "1"],
            "density 'moon' is unknown; use one of",
        ),
        (["--density", "moons", "--method", "msе", "--beta", "1"], "method 'msе' is unknown; use"),
        (
            ["--density", "moons", "--method", "mse", "--beta", "0"],
            "beta 0.0: use a finite number above 0",
        ),
        (
            ["--density", "moons", "--method", "mse", "--beta", "inf"],
            "beta inf: use a finite number above 0",
        ),
        (
            ["--density", "moons", "--method", "exact", "--beta", "1", "--scale", "-1"],
            "scale -1.0 is no guidance scale",
        ),
        (["--density", "moons", "--method", "mse"], "error: --beta: missing; name them as in"),
        (["--beta", "1"], "error: --density, --method: missing; name them as in --density moons"),
        (["--table", "--scale", "2"], "--scale cannot be combined with --table"),
        (["--table", "--beta", "26"], "beta 26: cep_beta is trained up to 25"),
        (["--table", "--density", "mixture01"], "density 'mixture01' is unknown; use one of"),
        (["--table", "--density", "rings", "--density", "rings"], "--density rings: given 2 times"),
        (["--table", "--json"], "--json cannot be combined with --table"),
        (["--table", "--profile", "big"], "profile 'big' is unknown; use one of"),
        (["--table", "--seed", "-1"], "seed -1: use an integer"),
        (
            ["--density", "moons", "--method", "mse", "--beta", "1", "--seed", "0", "--seed", "1"],
            "--seed 1: more than one seed; use --table",
        ),
        (
            ["--density", "moons", "--method", "mse", "--method", "dps", "--beta", "1"],
            "--method dps: more than one method; use --table",
        ),
        (
            ["--table", "--method", "mse", "--method", "cfg"],
            "method 'cfg' is unknown; use one of exact, exact_energy",
        ),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    profile = [] if "--profile" in arguments else ["--profile", "ci"]
    assert main(["toy", *profile, "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_cep_with_the_prior_as_normaliser_is_info_nce() -> None:
    """Averaged over classes c, Eq. 12 with labels q(c | x)/q(c) is a cross-entropy."""
    g = torch.Generator().manual_seed(0)
    f = torch.randn(5, 3, generator=g)
    posterior = torch.randn(5, 3, generator=g).softmax(1)
    prior = torch.rand(3, generator=g).softmax(0)
    ours = sum(
        prior[c] * losses.cep(f[:, c], -posterior[:, c].log(), prior[c].log()) for c in range(3)
    )
    theirs = sum(
        posterior[i, c] * cross_entropy(-f[:, c], torch.tensor(i))
        for i in range(5)
        for c in range(3)
    )
    torch.testing.assert_close(ours, theirs)


def test_one_network_for_all_beta_is_conditioned_on_it() -> None:
    net = toy_energy_net(density("moons"), toy_settings("ci"), 0, condition_dim=2)
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
    assert not torch.allclose(at_beta(net, 1.0)(x, t), at_beta(net, 10.0)(x, t))
    assert set(METHODS) >= set(LEARNED)


def test_the_optimum_of_mse_is_the_mean_energy_and_never_below_the_exact_one() -> None:
    """Least squares on the samples of a small cell, a mean, gives E[βE | x_t] ≥ E_t."""
    q, t, beta = density("8gaussians"), torch.tensor(0.3), 5.0
    x0, energy = q.sample(400_000, torch.Generator().manual_seed(0))
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    xt = SCHEDULE.add_noise(x0, t, eps)
    centre = torch.tensor([0.0, 1.0])
    cell = ((xt - centre).abs() < 0.1).all(dim=1)
    optimum = beta * q.log_joint(centre, t).softmax(-1) @ q.energies
    error = beta * energy[cell].std() / cell.sum().sqrt()
    # 0.02 allows for the width of the cell.
    assert abs(beta * energy[cell].mean() - optimum) < 4 * error + 0.02
    plane = 2 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(2))
    mean_energy = beta * q.log_joint(plane, t).softmax(-1) @ q.energies
    assert (mean_energy - q.intermediate_energy(plane, t, beta)).min() > -1e-5


@pytest.mark.parametrize(
    "extra, exact", [({"linear": torch.tensor([0.7, -0.4])}, True), ({"quadratic": 1.0}, False)]
)
def test_dps_is_exact_for_a_linear_energy_on_a_gaussian_alone(extra: dict, exact: bool) -> None:
    gaussian = GaussianMixture(
        log_weights=torch.zeros(1),
        energies=torch.zeros(1),
        means=torch.tensor([[0.5, -0.3]]),
        deviations=torch.tensor([1.2]),
        **extra,
    )
    gradient = energy_gradient(dps_energy(gaussian.eps, gaussian.energy, 3.0, SCHEDULE))
    times, generator = torch.tensor([0.2, 0.5]), torch.Generator().manual_seed(0)
    error = gradient_error(gradient, gaussian, 3.0, times, generator=generator)
    assert (error.max() < 1e-8) if exact else (error.min() > 0.1)


def test_classifier_guidance_is_the_energy_of_a_class() -> None:
    """With E = 0 for component c and E → ∞ for the others, E_t = −log q(c | x_t)."""
    q = DENSITIES["8gaussians"](torch.float64)
    x = 2 * torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    time = torch.tensor(0.4, dtype=torch.float64)
    for c in range(8):
        only = replace(q, energies=(torch.arange(8) != c).double())
        torch.testing.assert_close(
            only.intermediate_energy(x, time, 500.0), -q.log_joint(x, time).log_softmax(-1)[:, c]
        )


def test_numbers_that_are_not_finite_are_not_averaged_away() -> None:
    """Sorting puts NaN at the end, where the mean of the middle half drops it."""
    scores = np.arange(8.0).reshape(4, 2)
    scores[0, 0] = math.nan
    for mean in (interquartile_mean, lambda s: stratified_interval(s, np.random.default_rng(0))):
        with pytest.raises(CepnbError, match="scores: 1 of 8 values are not finite"):
            mean(scores)
    for values in ([1.0, math.nan], [math.inf]):
        with pytest.raises(CepnbError, match="values: 1 of . values are not finite"):
            mean_interval(values)
    for weights in ([0.0, math.nan], [-math.inf, -math.inf], [0.0, math.inf]):
        with pytest.raises(CepnbError, match="effective sample sizes: 1 of 1 values"):
            effective_samples(torch.tensor(weights))
    assert effective_samples(torch.tensor([0.0, -math.inf])).item() == pytest.approx(1)


def test_table_of_bad_numbers_and_of_near_betas() -> None:
    case = {"density": "moons", "method": "exact", "w2_ratio": 1.0}
    near = [case | {"beta": beta} for beta in (3.14159, 3.1415926)]
    lines = benchmark.records_table(near).splitlines()
    assert lines[2:] == ["| moons | 3.14159 | 1.00 |", "| moons | 3.1415926 | 1.00 |"]
    with pytest.raises(CepnbError, match="w2_ratio of the records: 1 of 2 values are not finite"):
        benchmark.records_table([near[0], near[1] | {"w2_ratio": math.nan}])


def toy(folder: Path, *arguments: str) -> int:
    return main(["toy", "--profile", "ci", "--json", "--out", str(folder), *arguments])


def test_samples_that_diverge_have_no_record(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """DPS at a large scale once had the W2 ratio 0."""
    case = ["--density", "swissroll", "--method", "dps", "--beta", "10", "--scale", "100"]
    assert toy(tmp_path, *case) == 2
    error = capsys.readouterr().err
    assert "of 200 samples at scale 100 are not finite; use a smaller scale" in error
    assert not list(tmp_path.glob("**/dps*.json"))


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize(
    "number, text",
    [(20.0, "20"), (20, "20"), (0.1, "0.1"), (3.14159, "3.14159"), (math.pi, "3.141592653589793")],
)
def test_names_of_files_have_all_digits(number: float, text: str) -> None:
    assert exact_text(number) == text
    assert exact_text(np.float64(number)) == text


def test_records_of_near_numbers_are_different(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    models = Models("moons", "ci", 0, tmp_path, progress=False)
    for beta in (3.14159, math.pi, np.float64(math.pi)):
        assert benchmark.record(models, "exact", beta)["beta"] == beta
    scales = [benchmark.record(models, "exact", 1.0, s)["scale"] for s in (1.0, 1.0000001)]
    assert scales == [1.0, 1.0000001]
    names = {path.name for path in models.run.folder.glob("exact*")}
    assert "exact_beta3.14159_scale1.json" in names and len(names) == 4
    for beta in ("3.14159", "3.141592653589793"):
        case = ["--density", "moons", "--method", "exact", "--beta", beta, "--profile", "ci"]
        assert main(["toy", *case, "--out", str(tmp_path)]) == 0
        assert f"beta                      {beta}\n" in capsys.readouterr().out


def test_each_number_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    case = ["--density", "moons", "--method", "exact", "--beta", "2"]
    assert toy(tmp_path, *case) == 0
    record = json.loads(capsys.readouterr().out)
    numbers = set(record) - {"density", "method", "beta", "seed", "scale", "profile"}
    assert numbers == set(benchmark.MEASURES)
    assert main(["toy", *case, "--profile", "ci", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in numbers:
        assert re.search(
            rf"^{name} +{record[name]:.4g} +{re.escape(benchmark.MEASURES[name])}$", printed, re.M
        )
    assert METHODS["exact"] in printed and benchmark.RELATIVE_ERRORS in printed
    assert f"Networks and records: {tmp_path}/moons/seed0\n" in printed


def test_gradients_of_late_times_are_small_and_move_no_sample() -> None:
    """This is why a large `energy_gradient_relative` can go with good samples."""
    settings = replace(toy_settings("laptop"), samples=500, repeats=4)
    q, beta = density("rings"), 3.0
    generator = torch.Generator().manual_seed(0)
    nothing = lambda xt, t: torch.zeros_like(xt)
    _, sizes = gradient_moments(nothing, q, beta, torch.tensor([0.1, 0.9]), generator, 500)
    assert sizes[1] < 1e-5 * sizes[0]

    def ratio(last: float) -> float:
        """W2 over its floor with the exact gradient up to time `last`, and none after it."""

        def gradient(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            exact = q.intermediate_energy_gradient(xt, t, beta)
            return exact if t.max() < last else torch.zeros_like(xt)

        found, floor = [], []
        for repeat, (first, second) in enumerate(benchmark.exact_sets(q, beta, settings, 0)):
            start = torch.Generator().manual_seed(repeat)
            found.append(w2(guided_samples(q.eps, gradient, q, settings, start), first))
            floor.append(w2(first, second))
        return sum(found) / sum(floor)

    exact = ratio(1.1)
    assert abs(ratio(0.75) - exact) < 0.02  # the starts are equal, so this is no noise
    assert ratio(0.25) > exact + 0.5  # early guidance does move samples


def test_a_saved_record_of_another_case_raises(tmp_path: Path) -> None:
    models = Models("moons", "ci", 0, tmp_path, progress=False)
    benchmark.record(models, "exact", 2.0)
    path = models.run.folder / "exact_beta2_scale1.json"
    saved = json.loads(path.read_text())
    for change in ({"beta": 2.1}, {"seed": 1}, {"profile": "laptop"}, {"density": "rings"}):
        path.write_text(json.dumps(saved | change))
        with pytest.raises(CepnbError, match=f"made with another {next(iter(change))}; delete it"):
            benchmark.record(models, "exact", 2.0)
    path.write_text("[]")
    with pytest.raises(CepnbError, match="made with another density, .*; delete it"):
        benchmark.record(models, "exact", 2.0)


@pytest.mark.parametrize(
    "density, beta, message",
    [
        ("ring", "1", "density 'ring' is unknown"),
        ("moons", "1e38", "beta 1e+38: the weights e^(-beta E) are not finite"),
        ("swissroll", "1e300", "beta 1e+300: the weights e^(-beta E) are not finite"),
        ("moons", "1e-9", "beta 1e-09: the exact gradient is 0 in float32; use a larger beta"),
        ("swissroll", "1e14", "beta 1e+14: exact samples coincide in float32; use a smaller beta"),
    ],
)
def test_what_cannot_be_measured_fails_before_training(
    density: str, beta: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert toy(tmp_path, "--density", density, "--method", "mse", "--beta", beta) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("**/*.safetensors"))
    assert density != "ring" or not list(tmp_path.iterdir())


def test_an_unwritable_folder_fails_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has settings from an earlier run, but takes no new file."""
    models = Models("moons", "ci", 0, tmp_path, progress=False)
    models.run  # noqa: B018 (writes the settings)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cepnb.storage.files.tempfile.mkstemp", no_space)
    monkeypatch.setattr("cepnb.densities.methods.train", no_space)
    with pytest.raises(CepnbError, match="floor_beta3.json: could not be written"):
        benchmark.record(models, "mse", 3.0)


def test_imports_of_metrics_leave_global_state() -> None:
    """Optimal transport and scipy are imported at the first measurement."""
    code = (
        "import os, warnings, torch; from cepnb.densities.metrics import mean_interval, w2\n"
        "before = dict(os.environ), list(warnings.filters)\n"
        "w2(torch.zeros(2, 2), torch.ones(2, 2)), mean_interval([1.0, 2.0])\n"
        "assert before == (dict(os.environ), warnings.filters)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("as_users_call_it")
def test_statistics_of_large_logarithms_and_of_other_shapes() -> None:
    for level in (1e8, -1e8):
        assert effective_samples(torch.full((3,), level)).item() == pytest.approx(3)
    rows = torch.tensor([[1e8, -math.inf], [0.0, 0.0]])
    assert effective_samples(rows).tolist() == pytest.approx([1, 2])
    with pytest.raises(CepnbError, match="mean and interval: 1 of 2 values are not finite"):
        mean_interval([1e200, -1e200, 3e200])
    with pytest.raises(CepnbError, match="values: there are none; pass one value per run"):
        mean_interval([])
    with pytest.raises(CepnbError, match=r"scores: shape is \(9,\); use \(runs, tasks\)"):
        stratified_interval(np.arange(9.0), np.random.default_rng(0))


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"w2": "a", "mmd": 1}'])
def test_a_stored_floor_of_another_type_is_refused(tmp_path: Path, text: str) -> None:
    models = Models("moons", "ci", 0, tmp_path, progress=False)
    (models.run.folder / "floor_beta1.json").write_text(text)
    with pytest.raises(CepnbError, match="floor_beta1.json: .*; delete it$"):
        benchmark.record(models, "exact", 1.0)


@pytest.mark.parametrize("text", ["{}", "[1]", "null", '[{"seed": 0}]'])
def test_stored_records_of_another_type_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "records.json").write_text(text)
    with pytest.raises(CepnbError, match="records.json: .*; restore it or use another folder$"):
        benchmark.table("ci", [0], tmp_path, progress=False)


def test_shares_of_energy_levels_by_hand() -> None:
    energy = torch.tensor([-0.3, 0.05, 0.14, 0.5, 0.98, 7.0])
    shares = energy_shares(energy) * len(energy)
    assert shares.tolist() == pytest.approx([2, 1, 0, 0, 1, 0, 0, 2])
    with pytest.raises(CepnbError, match="^energies: 1 of 2 values are not finite; leave out"):
        energy_shares(torch.tensor([0.0, math.nan]))


def test_particles_are_a_method_without_training(tmp_path: Path) -> None:
    models = Models("moons", "ci", 0, tmp_path, progress=False)
    found = benchmark.measure(models, "particles", 3.0)
    assert models.seconds("particles", 3.0) == models.run.seconds["score"]
    assert found["share_error"] < benchmark.measure(models, "mse", 3.0)["share_error"]
    x = models.samples("particles", 3.0, seeded(0, "particles"))
    assert x.shape == (models.settings.samples, 2)
    with pytest.raises(CepnbError, match="^scale 2: particles have no guidance scale; use 1$"):
        models.samples("particles", 3.0, seeded(0, "particles"), scale=2.0)
