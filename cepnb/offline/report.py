"""Scores of several runs in one table: the mean over training seeds, with a 95 % interval."""

from pathlib import Path

from cepnb.errors import CepnbError
from cepnb.files import read_json
from cepnb.metrics import mean_interval

KEYS = ("dataset", "rows", "profile", "seed", "settings", "threads", "seconds", "scores")  # what is read of a run


def load_runs(paths: list[Path]) -> list[dict]:
    """The `metrics.json` of every folder (or the files themselves).

    Raises `CepnbError` unless they differ in nothing but the seed and have seeds of their own.
    """
    runs = [read_json(path / "metrics.json" if path.is_dir() else path) for path in paths]
    for path, run in zip(paths, runs):
        missing = [key for key in KEYS if key not in run]
        if missing:
            raise CepnbError(f"{path}: '{missing[0]}' is missing, expected the metrics.json of a finished run")
        for key in ("dataset", "rows", "profile", "settings"):
            if run[key] != runs[0][key]:
                raise CepnbError(f"{path}: its {key} differs from that of {paths[0]}, expected runs of different seeds only")
    if len({run["seed"] for run in runs}) < len(runs):
        raise CepnbError(f"seeds {[run['seed'] for run in runs]}: expected each once")
    return runs


def summary_table(runs: list[dict]) -> str:
    """Markdown: D4RL-normalised score of each method and scale, its mean over seeds and every seed's own.

    The interval is Student's t at 95 % over the seeds, which differ in training and in start states; with one seed
    there is none.
    """
    lines = [f"| method | scale s | mean of {len(runs)} | 95 % interval | each seed |", "|---|---|---|---|---|"]
    for records in zip(*(run["scores"] for run in runs)):
        scores = [record["normalised"] for record in records]
        method, scale = records[0]["method"], records[0]["scale"]
        mean, half = mean_interval(scores)
        interval = f"{mean - half:.1f} to {mean + half:.1f}" if len(scores) > 1 else ""
        shown = f"{scale:g}" if scale else ""
        lines.append(f"| {method} | {shown} | {mean:.1f} | {interval} | {', '.join(f'{s:.1f}' for s in scores)} |")
    seconds = [sum(run["seconds"].values()) for run in runs]
    first = runs[0]
    lines.append(f"\n{len(runs)} × {first['scores'][0]['episodes']} episodes on {first['dataset']}, profile {first['profile']}; "
                 f"{min(seconds):.0f} to {max(seconds):.0f} s a seed, torch threads: {first['threads']}.")
    return "\n".join(lines)
