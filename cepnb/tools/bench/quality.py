"""Measure how long training takes until guided samples of a toy density are good."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path
from statistics import fmean
from time import perf_counter

import torch

from cepnb.densities.benchmark import exact_sets
from cepnb.densities.methods import guided_samples, train_score, train_toy_energy
from cepnb.densities.metrics import w2
from cepnb.densities.settings import ToySettings, toy_settings
from cepnb.densities.toys import DENSITIES, density
from cepnb.diffusion.guidance import EpsFunction, energy_gradient
from cepnb.diffusion.training import seeded
from cepnb.experiments.report import markdown_table
from cepnb.progress import progress_bar
from cepnb.qgpo.settings import Settings
from cepnb.tools.bench.inputs import BETA, Inputs
from cepnb.tools.bench.options import selected
from cepnb.tools.bench.peer import Peer, ToyModel, quiet
from cepnb.tools.bench.timing import conditions, conditions_text

BAR = 1.25  # W2 over its floor that counts as good; the expected ratio of exact samples is 1
STEP_SHARE = 0.25  # share of the laptop profile's steps: the smallest that reached the bar
PEER_CHECKS = (1, 2, 4, 8, 14, 20)  # multiples of our seconds after which the peer is measured
PEER_POINTS = 1_000_000  # samples in the peer's dataset
PEER_BLOCK = 20  # the peer alternates this many score steps and as many energy steps

Ratio = Callable[[EpsFunction, EpsFunction], float]  # W2 over its floor, from ε and ∇f


def short_settings() -> ToySettings:
    """Return the laptop settings with `STEP_SHARE` of the training steps."""
    settings = toy_settings("laptop")
    steps, score_steps = settings.steps, settings.score_steps
    return replace(
        settings, steps=round(STEP_SHARE * steps), score_steps=round(STEP_SHARE * score_steps)
    )


def quality(names: Sequence[str] = (), repeats: int = 1, peer: Path | None = None) -> dict:
    """Measure the named densities (default: all) at β = `BETA` under `repeats` training seeds.

    We train ε_θ and f_φ (self-normalised CEP, Eq. 13) once, with a decaying learning rate. If
    `peer` is a checkout of the paper's code, it trains with its own sizes and constant rates until
    its W2 over the floor is at most `BAR` (or ours, if ours is larger). Seconds count training
    only, and our solver samples from both. Raises `CepnbError` on an unknown density, on fewer than
    one repeat, and on a wrong `peer`.
    """
    names, settings = selected("density", names, DENSITIES, repeats), short_settings()
    cases = list(product(names, range(repeats)))
    with tempfile.TemporaryDirectory() as folder, quiet():
        inputs = Inputs(Path(folder), replace(Settings(), transitions=2_000))
        theirs = Peer(peer, inputs) if peer else None
        bar = progress_bar(cases, desc="trainings", leave=False)
        found = [_measured_case(name, seed, settings, theirs) for name, seed in bar]
    steps = {"steps": settings.steps, "score_steps": settings.score_steps}
    return conditions() | {"seeds": repeats, "beta": BETA, "bar": BAR} | steps | {"cases": found}


def _measured_case(name: str, seed: int, settings: ToySettings, peer: Peer | None) -> dict:
    q = density(name)
    exact = exact_sets(q, BETA, settings, seed)
    floor = fmean(w2(first, second) for first, second in exact)

    def ratio(eps: EpsFunction, gradient: EpsFunction) -> float:
        distances = []
        for repeat, (target, _) in enumerate(exact):
            start = seeded(seed, f"toy start {repeat}")
            distances.append(w2(guided_samples(eps, gradient, q, settings, start), target))
        return fmean(distances) / floor

    start = perf_counter()
    score = train_score(q, settings, seed, progress=False)
    energy = train_toy_energy("cep_self", q, BETA, settings, seed, progress=False)
    seconds = perf_counter() - start
    ours = ratio(score.requires_grad_(False), energy_gradient(energy.requires_grad_(False)))
    target, checks = max(BAR, ours), []
    if peer:
        torch.manual_seed(seed)
        checks = _peer_checks(peer.toy_model(q, PEER_POINTS), seconds, target, ratio)
    case = {"density": name, "seed": seed, "seconds": seconds, "w2_ratio": ours}
    return case | {"target": target, "peer": checks}


def _peer_checks(model: ToyModel, our_seconds: float, target: float, ratio: Ratio) -> list[dict]:
    """Train the paper's code until it reaches the target or the last of `PEER_CHECKS`."""
    seconds, steps, checks = 0.0, 0, []
    for multiple in PEER_CHECKS:
        while seconds < multiple * our_seconds:
            start = perf_counter()
            for _ in range(PEER_BLOCK):
                model.score_step()
            for _ in range(PEER_BLOCK):
                model.energy_step()
            seconds += perf_counter() - start
            steps += PEER_BLOCK
        reached = ratio(model.eps, model.gradient)
        checks.append({"seconds": seconds, "steps": steps, "w2_ratio": reached})
        if reached <= target:
            break
    return checks


def times_as_long(case: dict) -> tuple[float, float] | None:
    """Return the range of multiples of our seconds in which the paper's code reached the target.

    The upper end is inf if it never did. Without a peer, the result is None.
    """
    if not case["peer"]:
        return None
    multiples = [0.0, *(check["seconds"] / case["seconds"] for check in case["peer"])]
    if case["peer"][-1]["w2_ratio"] > case["target"]:
        return multiples[-1], inf
    return multiples[-2], multiples[-1]


def quality_markdown(record: dict) -> str:
    """Format a record of `quality` as a table with the steps and the machine below it."""
    ours = (f"density, β = {record['beta']:g}", "seed", "seconds", "W2 over its floor")
    measured = "the paper's code (after this multiple of our seconds)"
    lines = []
    for case in record["cases"]:
        checks = [(check["w2_ratio"], check["seconds"] / case["seconds"]) for check in case["peer"]]
        reached = ""
        if bounds := times_as_long(case):
            low, high = bounds
            reached = f"after {low:.0f} to {high:.0f} times"
            if high == inf:
                reached = f"not after {low:.0f} times"
        line = (case["density"], case["seed"], f"{case['seconds']:.0f}", f"{case['w2_ratio']:.2f}")
        theirs = ", ".join(f"{ratio:.2f} ({multiple:.0f})" for ratio, multiple in checks)
        lines.append((*line, theirs, reached))
    table = markdown_table((*ours, measured, "the paper's code is as good"), lines)
    steps = f"Ours: {record['score_steps']:,} score steps, {record['steps']:,} energy steps."
    return f"{table}\n\n{steps}\n{conditions_text(record)}"
