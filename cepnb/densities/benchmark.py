"""Benchmark of every method on every density: one record per case, and the table of all cases."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean

import msgspec
import torch
from torch import Tensor

from cepnb.densities.methods import Models
from cepnb.densities.metrics import (
    check_gradient_size,
    energy_shares,
    gradient_moments,
    mean_interval,
    mmd,
    w2,
)
from cepnb.densities.mixtures import Density
from cepnb.densities.names import METHODS, exact_text
from cepnb.densities.settings import ToySettings, toy_settings
from cepnb.densities.toys import DENSITIES
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError
from cepnb.progress import progress_bar
from cepnb.storage.files import read_json, write_json
from cepnb.storage.runs import Run
from cepnb.storage.validation import Number, check_beta, check_finite, check_scale

BETAS = (1.0, 3.0, 10.0, 20.0)
# The numbers of `measure`: what each one is, and which value is good.
MEASURES = {
    "w2": "distance W2 of guided samples from exact ones, in units of the plane",
    "w2_floor": "W2 between two sets of exact samples: what remains by chance alone",
    "w2_ratio": "w2 / w2_floor: 1 is as good as exact samples",
    "mmd_ratio": "the same ratio for MMD, a distance by kernels: 1 is as good as exact samples",
    "share_error": "share of samples at a wrong level of energy, of 8 levels: 0 is exact",
    "energy_gradient_mse": "E‖s∇f − ∇E_t‖², mean over t from 0.1 to 0.9: 0 is exact",
    "energy_gradient_relative": "that error over E‖∇E_t‖², mean over t: 0 is exact, 1 no guidance",
    "effective_share": "share of samples of q_0 that reweighting by e^{−βE} keeps: small is hard",
    "seconds": "training time",
}
RELATIVE_ERRORS = (
    "A large energy_gradient_relative can go with good samples. Near t = 1, x_t is almost pure noise "
    "and E‖∇E_t‖² almost 0: a tiny error there is a large share of it, but hardly moves a sample. Judge the "
    "samples by w2_ratio."
)
# The numbers of a record that have a table.
SHOWN = ("w2_ratio", "mmd_ratio", "share_error", "energy_gradient_mse")
PICTURED = ("exact", "cep_self", "mse", "dps")  # methods in the figure of samples
TIMES = torch.linspace(0.1, 0.9, 9)  # times at which gradients are compared
CHECKPOINTS = Path(__file__).parents[1] / "assets" / "checkpoints"
SHIPPED = tuple(name for name in DENSITIES if (CHECKPOINTS / name).exists())


class Record(msgspec.Struct):
    """The fields of a record that name its case."""

    seed: int
    density: str
    beta: Number
    method: str


class Floor(msgspec.Struct):
    """Contents of `floor_beta*.json`."""

    w2: Number
    mmd: Number


def shipped(name: str) -> Models:
    """Load ε_θ and the energy for all β of a toy density from the package (profile laptop, seed 0).

    This command trains them; the package keeps the settings and the two networks:
    `python -m cepnb toy --density NAME --method cep_beta --beta 1 --profile laptop --out DIR`
    Raises `CepnbError` on a density without networks.
    """
    if name not in SHIPPED:
        raise CepnbError(f"density '{name}' has no networks here; use one of {', '.join(SHIPPED)}")
    return Models(name, "laptop", 0, CHECKPOINTS, progress=False)


def measure(models: Models, method: str, beta: float, scale: float = 1.0) -> dict:
    """Compare guided samples with exact ones, in `settings.repeats` sets of `settings.samples`.

    `MEASURES` describes the numbers. Distances are means over the sets, gradients are compared over
    samples of p_t at `TIMES`, and `effective_share` is E[w]²/E[w²], w = e^{−βE}. Raises `CepnbError`
    unless 0 < β < ∞ and 0 ≤ scale < ∞, on a β that float32 cannot resolve, and on samples or
    numbers that are not finite.
    """
    beta, scale = check_beta(beta), check_scale(scale)
    density, settings, seed = models.density, models.settings, models.seed
    floor = _floor(models, beta)  # before any training, so that bad cases and folders fail early
    no_gradient = lambda xt, t: torch.zeros_like(xt)
    _, size = gradient_moments(no_gradient, density, beta, TIMES, seeded(seed, "toy gradient"), 100)
    check_gradient_size(beta, size)
    _, gradient = models.guidance(method, beta)
    pairs = []
    for repeat, (exact, _) in enumerate(exact_sets(density, beta, settings, seed)):
        start = seeded(seed, f"toy start {repeat}")
        pairs.append((models.samples(method, beta, start, scale), exact))
    distance = _mean_distances(pairs)
    scaled_gradient = lambda xt, t: scale * gradient(xt, t)
    generator = seeded(seed, "toy gradient")
    error, size = gradient_moments(scaled_gradient, density, beta, TIMES, generator, 2000)
    log_share = 2 * density.log_partition(beta) - density.log_partition(2 * beta)
    found = {
        "w2": distance["w2"],
        "w2_floor": floor["w2"],
        "w2_ratio": distance["w2"] / floor["w2"],
        "mmd_ratio": distance["mmd"] / floor["mmd"],
        "share_error": _share_error(density, pairs),
        "energy_gradient_mse": error.mean().item(),
        "energy_gradient_relative": (error / size).mean().item(),
        "effective_share": log_share.exp().item(),
        "seconds": models.seconds(method, beta),
    }
    check_finite(f"numbers of {method} at beta {beta:g}", list(found.values()), "use another beta")
    return found


def record(models: Models, method: str, beta: float, scale: float = 1.0) -> dict:
    """Measure one case of the table and save its record, or read the saved record.

    Raises `CepnbError` as `measure` does, and if the saved record is of another case.
    """
    beta, scale = check_beta(beta), check_scale(scale)
    name = f"{method}_beta{exact_text(beta)}_scale{exact_text(scale)}.json"
    path = models.run.folder / name
    case = {"density": models.name, "method": method, "beta": beta, "seed": models.seed}
    case |= {"scale": scale, "profile": models.profile}
    if not path.exists():
        write_json(path, case | measure(models, method, beta, scale))
    saved = read_json(path)
    other = [name for name in case if not isinstance(saved, dict) or saved.get(name) != case[name]]
    if other:
        raise CepnbError(f"{path}: made with another {', '.join(other)}; delete it")
    return saved


def table(
    profile: str,
    seeds: Iterable[int],
    folder: Path,
    methods: Iterable[str] = METHODS,
    names: Iterable[str] = DENSITIES,
    betas: Iterable[float] = BETAS,
    progress: bool = True,
) -> list[dict]:
    """Measure all cases and add them to `folder`/records.json; return all its records.

    Cases in the file are skipped, so seeds add up from call to call, and the file is enough without
    the networks. A later call resumes an interrupted one. Raises `CepnbError` if the file was made
    with other settings.
    """
    Run(folder, {"profile": profile, "settings": asdict(toy_settings(profile))})
    path = folder / "records.json"
    fix = "restore it or use another folder"
    stored = read_json(path, list[Record], fix) if path.exists() else []
    records = {(r["seed"], r["density"], r["beta"], r["method"]): r for r in stored}
    cases = list(product(seeds, names, betas, methods))
    for case in progress_bar(cases, desc="measuring all methods", disable=not progress):
        if case not in records:
            seed, name, beta, method = case
            records[case] = record(Models(name, profile, seed, folder, progress), method, beta)
    write_json(path, list(records.values()))
    return list(records.values())


def samples(
    profile: str,
    seed: int,
    folder: Path,
    methods: Iterable[str] = METHODS,
    names: Iterable[str] = DENSITIES,
    betas: Iterable[float] = BETAS,
) -> dict[tuple[str, str, float], Tensor]:
    """Draw guided samples by (density, method, β) for `PICTURED` methods; "exact" draws from p_0."""
    drawn, pictured = {}, [name for name in PICTURED if name == "exact" or name in methods]
    for name, method, beta in product(names, pictured, betas):
        models, generator = Models(name, profile, seed, folder), seeded(seed, "toy picture")
        density, settings = models.density, models.settings
        if method == "exact":
            x, _ = density.tilted(beta).sample(settings.samples, generator)
        else:
            x = models.samples(method, beta, generator)
        drawn[name, method, beta] = x
    return drawn


def records_table(records: list[dict], key: str = "w2_ratio", intervals: bool = True) -> str:
    """Format one number of all records as a Markdown table.

    A row is a density and β, a column a method. A cell is the mean ± half the 95 % interval over
    the seeds, or a dash without records. If the numbers of seeds differ, the headings show them.
    `intervals=False` shows the means alone. Raises `CepnbError` on numbers that are not finite.
    """
    check_finite(f"{key} of the records", [r[key] for r in records], "measure them again")
    values = defaultdict(list)
    for r in records:
        values[r["method"], r["density"], r["beta"]].append(r[key])
    methods = list(dict.fromkeys(method for method, _, _ in values))
    rows = list(dict.fromkeys((name, beta) for _, name, beta in values))
    counts = {method: [len(values[method, *row]) for row in rows] for method in methods}
    headings = methods
    if intervals and len(set.union(*map(set, counts.values()))) > 1:
        headings = [_heading(method, counts[method]) for method in methods]
    lines = [_line(["density", "β", *headings]), "|---" * (len(methods) + 2) + "|"]
    for name, beta in rows:
        cells = [_cell(values[method, name, beta], intervals) for method in methods]
        lines.append(_line([name, exact_text(beta), *cells]))
    return "\n".join(lines)


def exact_sets(
    density: Density, beta: float, settings: ToySettings, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """Draw `settings.repeats` independent pairs of sets of samples of p_0."""
    p, pairs = density.tilted(beta), []
    for repeat in range(settings.repeats):
        generator = seeded(seed, f"toy exact {repeat}")
        first, second = (p.sample(settings.samples, generator)[0] for _ in range(2))
        pairs.append((first, second))
    return pairs


def _floor(models: Models, beta: float) -> dict[str, float]:
    """Mean distances between exact sets, measured once per density, β and seed."""
    path = models.run.folder / f"floor_beta{exact_text(beta)}.json"
    if not path.exists():
        pairs = exact_sets(models.density, beta, models.settings, models.seed)
        write_json(path, _mean_distances(pairs))
    floor = read_json(path, Floor, "delete it")
    if not min(floor["w2"], floor["mmd"]) > 0:
        raise CepnbError(f"beta {beta:g}: exact samples coincide in float32; use a smaller beta")
    return floor


def _mean_distances(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    return {"w2": fmean(w2(x, y) for x, y in pairs), "mmd": fmean(mmd(x, y) for x, y in pairs)}


def _share_error(density: Density, pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Total variation distance of the `energy_shares` of samples and of exact samples."""
    found, exact = (energy_shares(density.energy(torch.cat(x))) for x in zip(*pairs, strict=True))
    return (found - exact).abs().sum().item() / 2


def _heading(method: str, counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{method} (seeds: {low})" if low == high else f"{method} (seeds: {low}–{high})"


def _cell(values: list[float], interval: bool) -> str:
    if not values:
        return "–"
    mean, half = (f"{v:.2f}" if v < 1000 else f"{v:.0e}" for v in mean_interval(values))
    return f"{mean} ± {half}" if interval and len(values) > 1 else mean


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
