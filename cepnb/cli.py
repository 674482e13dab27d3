"""The command line: `python -m cepnb COMMAND`. Errors print one line to standard error and exit with status 2.

Each command checks its arguments with modules that need no torch, and imports the others afterwards:
a wrong argument is refused at once.
"""

import argparse
import ast
import difflib
import io
import json
import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from cepnb import __version__
from cepnb.datasets.registry import LOCAL
from cepnb.densities.names import DENSITY_HELP, DENSITY_NAMES, METHODS
from cepnb.diffusion.devices import DEVICES
from cepnb.envs.registry import AGENTS, ENVIRONMENTS
from cepnb.errors import CepnbError, Once, exit_status
from cepnb.profiles import PROFILES, profile_name
from cepnb.tools.terminal import print_columns, print_markdown, wrapped

SIZES = "; ".join(f"{name}: {use}" for name, use in PROFILES.items())
PROFILE_HELP = f"{SIZES} (default: $CEPNB_PROFILE, else laptop)"
ENVIRONMENT_HELP = f"one of {', '.join(ENVIRONMENTS)}"
DATASET_HELP = "local/…, d4rl/…, minari/… or the path of a D4RL HDF5 file"
DEVICE_HELP = f"device of the networks: {' or '.join(DEVICES)} (default: cpu)"
PEER_HELP = "checkout of the paper's public code, timed as well"
SET_HELP = "change one setting, as `python -m cepnb settings` lists them; may be repeated"
# For data of no known environment, of which a moved state may be impossible.
UNKNOWN = {"state_jitter": 0.0, "reward_reach": 0.0}
RUN = "python -m cepnb qgpo --dataset local/maze2d-umaze --profile ci --out runs/umaze"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose help keeps the lines of examples."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, formatter_class=_Help, **options)
        self.register("action", None, Once)

    def error(self, message: str) -> None:
        fix = "" if ";" in message else f"; see python -m {self.prog} --help"
        self.exit(2, f"{self.prog}: error: {message}{fix}\n")


class _Help(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return textwrap.indent(text, indent)
        return super()._fill_text(text, width, indent)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0 done, 2 bad input or a failed write or run,
    130 interrupted, 141 if nobody reads the output any more.

    Without `arguments`, those of this process: its output then replaces characters that its encoding lacks.
    """
    if arguments is None and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return exit_status("cepnb", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> None:
    """Parse the arguments and run their command; exit with status 2 on bad ones, and on none."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if "command" not in options:
        parser.print_help()
        sys.exit(2)
    if unknown:
        _refuse_unknown(options.parser, unknown)
    options.command(options)


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: list[str]) -> None:
    """Refuse arguments that a command does not have, and name the option that is meant."""
    known = [text for action in parser._actions for text in action.option_strings]
    near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
    fix = f"; use {near[0]}" if near else ""
    parser.error(f"unknown arguments {' '.join(unknown)}{fix}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cepnb",
        description="Contrastive energy prediction and QGPO, Q-guided policy optimisation "
        "(arXiv:2304.12824). `python -m cepnb COMMAND --help` describes a command, with examples.",
        epilog="first steps, a few seconds each; without `--profile ci` they take minutes and give "
        "better results:\n"
        "  python -m cepnb toy --density moons --method cep_self --beta 3 --profile ci\n"
        f"  {RUN}",
    )
    parser.add_argument("--version", action="version", version=f"cepnb {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(
        name: str, run: Callable, text: str, more: str, *examples: str
    ) -> argparse.ArgumentParser:
        """Add a command: its line in the list of commands, more of its description, and examples."""
        description = f"{text[0].upper()}{text[1:]}. {more}"
        epilog = "\n  ".join(("examples:", *examples))
        added = commands.add_parser(name, help=text, description=description, epilog=epilog)
        added.set_defaults(command=run, parser=added)
        return added

    toy = command(
        "toy",
        _toy,
        "train a method on a toy density and compare with the exact answer",
        "Prints each measure with what it means. Networks and records are kept in --out, so that "
        "a second call is fast. With --table it measures the six densities at four β, or those named, "
        "which takes hours in profile laptop, and also writes table.md and samples.png.",
        "python -m cepnb toy --density moons --method cep_self --beta 3 --profile ci",
        "python -m cepnb toy --density rings --method dps --beta 10 --profile ci --json",
        "python -m cepnb toy --table --density mixture0 --density mixture1 --beta 7 --method mse",
    )
    methods = "\n".join(f"{name:<17}{text}" for name, text in METHODS.items())
    toy.add_argument_group("methods", methods)
    add = toy.add_argument
    add("--density", action="append", help=f"{DENSITY_HELP}; --table takes several")
    add("--method", action="append", help="one of the methods below; --table takes several")
    add("--beta", type=float, action="append", help="inverse temperature β > 0, or several")
    add("--table", action="store_true", help="all densities, β and methods, or those named")
    add("--seed", type=int, action="append", help="seed (default 0); --table takes several")
    add("--scale", type=float, help="guidance scale s (default 1, which is exact)")
    add("--profile", help=PROFILE_HELP)
    add("--out", type=_path, help="folder of networks and records, resumed (default: in the cache)")
    add("--json", action="store_true", help="print the record as JSON")

    add = command(
        "qgpo",
        _qgpo,
        "train and evaluate QGPO on an offline dataset",
        "Trains the behaviour model, the critic and the energies, and scores their policies in the "
        "simulator. Writes the networks and metrics.json to --out. A local dataset is made first.",
        RUN,
        "python -m cepnb qgpo --dataset local/hopper-medium-replay --set beta=5 --out runs/hopper",
    ).add_argument
    add("--dataset", required=True, help=DATASET_HELP)
    add("--environment", help=f"{ENVIRONMENT_HELP} (default: by the dataset's name)")
    add("--profile", help=PROFILE_HELP)
    add("--seed", type=int, default=0, help="seed of training and evaluation (default 0)")
    add("--out", type=_path, required=True, help="folder of the run; an unfinished run resumes")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help=SET_HELP)
    add("--device", default="cpu", help=DEVICE_HELP)
    add("--no-evaluation", action="store_true", help="train only; no simulator is needed")

    add = command(
        "settings",
        _settings,
        "list the settings that --set changes",
        "Prints each setting, its value in a profile, and its meaning. Values depend on the "
        "environment, too.",
        "python -m cepnb settings --profile laptop --environment hopper",
        "python -m cepnb settings --dataset local/maze2d-large",
    ).add_argument
    add("--profile", help=PROFILE_HELP)
    add("--environment", help=f"{ENVIRONMENT_HELP} (default: by the dataset's name)")
    add("--dataset", help=f"{DATASET_HELP} (default: a small maze)")

    add = command(
        "evaluate",
        _evaluate,
        "evaluate a trained run in an environment",
        "For runs that were trained with --no-evaluation. Prints a score for each policy and "
        "writes it to the metrics.json of the run.",
        f"{RUN}-later --no-evaluation",
        "python -m cepnb evaluate runs/umaze-later --environment maze2d-umaze",
    ).add_argument
    add("run", type=_path, metavar="RUN", help="folder of the run")
    add("--environment", required=True, help=ENVIRONMENT_HELP)
    add("--device", default="cpu", help=DEVICE_HELP)

    add = command(
        "export",
        _export,
        "write a run's policy to one file",
        "The file holds networks, scaling and settings; `cepnb.load_policy` loads it.",
        RUN,
        "python -m cepnb export runs/umaze umaze.safetensors",
    ).add_argument
    add("run", type=_path, metavar="RUN", help="folder of the run")
    add("file", type=_path, metavar="FILE", help="file to write")

    add = command(
        "sweep",
        _sweep,
        "run QGPO for many tasks, seeds and options in parallel",
        "Reads a TOML file, which docs/options.md describes. Writes one folder for each run, "
        "scores.csv, table.md and scores.png, and prints the tables.",
        """echo 'datasets = ["local/maze2d-umaze"]' > small.toml""",
        """echo 'seeds = [0, 1]' >> small.toml""",
        """echo 'profile = "ci"' >> small.toml""",
        "python -m cepnb sweep small.toml --out runs/small",
    ).add_argument
    add("config", type=_path, metavar="CONFIG", help="TOML file, see docs/options.md")
    add("--out", type=_path, help="folder of runs and tables, resumed (default: runs/NAME)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="parallel runs (default: cores)")
    add("--cluster", metavar="ADDRESS", help="Dask scheduler that runs the jobs, tcp://HOST:PORT")
    add("--device", default="cpu", help=f"{DEVICE_HELP}, shared by all workers")

    add = command(
        "report",
        _report,
        "print tables of a sweep's or of finished runs' scores",
        "A terminal shows tables; a pipe or a file receives Markdown.",
        RUN,
        "python -m cepnb report runs/umaze",
        "python -m cepnb report runs/umaze > report.md",
    ).add_argument
    add("scores", nargs="+", type=_path, metavar="PATH", help="folder, scores.csv or metrics.json")

    add = command(
        "data",
        _data,
        "generate a local dataset at first use and print its path",
        "The HDF5 file is kept in the cache. `qgpo` calls this by itself.",
        "python -m cepnb data --dataset local/maze2d-umaze --profile ci",
    ).add_argument
    add("--dataset", required=True, help=f"one of {', '.join(LOCAL)}")
    add("--profile", help=PROFILE_HELP)

    add = command(
        "agent",
        _agent,
        "train the agents that generate local locomotion and AntMaze data",
        "The package has these agents already. Writes NAME.safetensors to --out. Takes half an hour "
        "or more and needs the extra: pip install 'cepnb[agents]'.",
        "python -m cepnb agent --environment hopper --out runs/agents",
    ).add_argument
    add("--environment", required=True, help=f"one of {', '.join(AGENTS)}")
    add("--steps", type=int, help="environment steps (default: as for the packaged agents)")
    add("--seed", type=int, default=0, help="seed of training (default 0)")
    add("--out", type=_path, required=True, help="folder of NAME.safetensors and checkpoints")

    add = command(
        "bench",
        _bench,
        "time the package against the machine's limits",
        "Prints a table of the costly parts; --growth and --toys measure something else instead. "
        "docs/speed.md has results.",
        "python -m cepnb bench --rows toy support --repeats 3",
        "python -m cepnb bench --growth --rows w2 --repeats 2",
    ).add_argument
    add("--peer", type=_path, metavar="PATH", help=PEER_HELP)
    add("--growth", action="store_true", help="time and memory as sizes grow")
    add("--toys", action="store_true", help="training time until toy samples are good")
    add("--full", action="store_true", help="with --growth: also datasets of 10,000,000 rows")
    add("--rows", nargs="+", default=[], metavar="NAME", help="only these rows of the table")
    add("--repeats", type=int, help="repetitions (default 7); with --toys, seeds (default 1)")
    add("--json", action="store_true", help="print the record as JSON")

    add = command(
        "bench-run",
        _bench_run,
        "time the paper's whole training of one task on a GPU",
        "Runs a part of each step, extrapolates, and prints the seconds of each step.",
        "python -m cepnb bench-run --device cuda --fraction 0.02",
        "python -m cepnb bench-run --device cpu --fraction 0.00001 --set transitions=2000",
    ).add_argument
    add("--device", default="cuda", help=f"{' or '.join(DEVICES)} (default: cuda)")
    add("--fraction", type=float, default=1.0, help="run this part of each step and extrapolate")
    add("--dataset", help=f"{DATASET_HELP} (default: random numbers of halfcheetah's size)")
    add("--peer", type=_path, metavar="PATH", help=PEER_HELP)
    add("--eager", dest="capture", action="store_false", help="do not replay steps as CUDA graphs")
    add("--compile", dest="compiled", action="store_true", help="compile the networks")
    add("--tf32", action="store_true", help="allow TensorFloat-32 matrix products")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help=SET_HELP)
    add("--out", type=_path, help="folder of bench_run.json and bench_run.md")
    add("--json", action="store_true", help="print the record as JSON")
    return parser


def _toy(options: argparse.Namespace) -> None:
    from cepnb.densities.names import check_density, check_method
    from cepnb.densities.settings import toy_settings
    from cepnb.storage.files import cache_dir
    from cepnb.storage.validation import check_beta, check_scale, check_seed

    profile, seeds = profile_name(options.profile), options.seed or [0]
    folder = options.out or cache_dir() / "toys" / profile
    for seed in seeds:
        check_seed(seed)
    for name in ("seed", "method", "density", "beta"):
        _refuse_repeats(f"--{name}", getattr(options, name) or [])
    for method in options.method or []:
        check_method(method)
    for density in options.density or []:
        check_density(density)
    for beta in options.beta or []:
        check_beta(beta)
        for method in options.method or (METHODS if options.table else []):
            toy_settings(profile).check_beta(method, beta)
    if options.table:
        _refuse_combined(options, "table", "scale", "json")
        return _toy_table(profile, seeds, folder, options)
    scale = check_scale(1.0 if options.scale is None else options.scale)
    names = ("density", "method", "beta")
    if missing := [f"--{name}" for name in names if not getattr(options, name)]:
        example = "--density moons --method cep_self --beta 3"
        fix = f"name them as in {example}, or use --table"
        raise CepnbError(f"{', '.join(missing)}: missing; {fix}")
    for name in ("seed", *names):
        if len(values := getattr(options, name) or []) > 1:
            raise CepnbError(f"--{name} {values[1]}: more than one {name}; use --table")
    (density,), (method,), (beta,), (seed,) = *(getattr(options, name) for name in names), seeds
    _checked_files(folder, "table.md")

    from cepnb.densities.benchmark import record
    from cepnb.densities.methods import Models

    models = Models(density, profile, seed, folder, progress=not options.json)
    found = record(models, method, beta, scale)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        _print_record(found)
        print(f"\nNetworks and records: {models.run.folder}")


def _print_record(found: dict) -> None:
    """Print a record of `toy`: each number with what it measures and which value is good."""
    from cepnb.densities.benchmark import MEASURES, RELATIVE_ERRORS
    from cepnb.densities.names import exact_text

    explained = MEASURES | {"method": METHODS[found["method"]]}
    rows = []
    for key, value in found.items():
        if isinstance(value, float):
            value = f"{value:.4g}" if key in MEASURES else exact_text(value)
        rows.append((key, str(value), explained.get(key, "")))
    print_columns(rows)
    print(f"\n{wrapped(RELATIVE_ERRORS)}")


def _toy_table(profile: str, seeds: list[int], folder: Path, options: argparse.Namespace) -> None:
    files = _checked_files(folder, "table.md", "samples.png")

    from cepnb.densities import benchmark
    from cepnb.notebook.plots import sample_grid

    cases = (
        options.method or list(METHODS),
        options.density or list(DENSITY_NAMES),
        options.beta or list(benchmark.BETAS),
    )
    records = benchmark.table(profile, seeds, folder, *cases)
    tables = []
    for key in benchmark.SHOWN:
        table = benchmark.records_table(records, key)
        tables.append(f"{key}: {benchmark.MEASURES[key]}\n\n{table}")
    figure = None
    if not files[1].exists():
        figure = sample_grid(benchmark.samples(profile, seeds[0], folder, *cases))
    _write_results(files, "\n\n".join(tables), figure)


def _qgpo(options: argparse.Namespace) -> None:
    from cepnb.datasets.registry import check_dataset, check_used, environment_of, evaluated_in
    from cepnb.diffusion.devices import check_device, device_named
    from cepnb.qgpo.settings import qgpo_settings
    from cepnb.storage.validation import check_seed

    profile, environment = profile_name(options.profile), options.environment
    check_dataset(options.dataset)
    if not options.no_evaluation:
        environment = evaluated_in(options.dataset, environment)
    elif environment is None and environment_of(options.dataset) in ENVIRONMENTS:
        environment = environment_of(options.dataset)
    changes = _changes(options.set)
    check_used(options.dataset, changes)
    if environment is None:
        changes = UNKNOWN | changes
    settings = qgpo_settings(profile, environment, **changes)
    check_seed(options.seed)
    check_device(options.device)
    finished = (options.out / "metrics.json").exists()
    if not finished:
        _checked_files(options.out, "settings.json")

    from cepnb.datasets.registry import load_task
    from cepnb.qgpo.pipeline import check_evaluation, run_qgpo

    device = device_named(options.device)
    if not finished and not options.no_evaluation:
        check_evaluation(environment)  # before a dataset is downloaded or made
    dataset = load_task(options.dataset, environment, settings.transitions, settings.data_seed)
    if environment is None:
        kept = "the settings of maze2d, but state_jitter 0 and reward_reach 0"
        print(f"no --environment: training with {kept}; --set changes them")
    task = dataset, environment, settings, profile, options.seed, options.out
    metrics = run_qgpo(*task, device=device, evaluation=not options.no_evaluation)
    if options.no_evaluation:
        arguments = f"{options.out} --environment {environment or 'NAME'}"
        print(f"trained; evaluate it with: python -m cepnb evaluate {arguments}")
        return
    _print_scores(metrics["scores"])
    seconds = sum(metrics["seconds"].values())
    print(f"{seconds:.0f} s; all numbers are in {options.out / 'metrics.json'}")


def _settings(options: argparse.Namespace) -> None:
    from cepnb.datasets.registry import check_dataset, environment_of
    from cepnb.qgpo.settings import CHOICES, meanings, qgpo_settings

    profile, environment = profile_name(options.profile), options.environment
    changes = {}
    if options.dataset is not None:
        check_dataset(options.dataset)
        environment = environment or environment_of(options.dataset)
        changes = UNKNOWN if environment is None else {}
    settings = qgpo_settings(profile, environment, **changes)
    print(f"Profile {profile}, environment {environment or 'maze2d'}. Change one: --set NAME=VALUE")
    for section, entries in meanings().items():
        print(f"\n{section}")
        rows = []
        for name, meaning in entries.items():
            choices = f" ({', '.join(CHOICES[name])})" if name in CHOICES else ""
            rows.append((name, str(getattr(settings, name)), f"{meaning}{choices}"))
        print_columns(rows)


def _evaluate(options: argparse.Namespace) -> None:
    from cepnb.diffusion.devices import check_device, device_named
    from cepnb.envs.registry import family_of
    from cepnb.qgpo.record import check_run

    check_run(options.run)
    family_of(options.environment)
    check_device(options.device)

    from cepnb.qgpo.pipeline import evaluate_run

    device = device_named(options.device)
    metrics = evaluate_run(options.run, options.environment, device=device)
    _print_scores(metrics["scores"])


def _print_scores(scores: list[dict]) -> None:
    from cepnb.experiments.report import scores_text

    print(scores_text(scores))
    text = "normalised: D4RL's score, 0 for a random policy and 100 for an expert; ± standard error"
    print(f"\n{wrapped(text)}")


def _export(options: argparse.Namespace) -> None:
    from cepnb.qgpo.record import check_run
    from cepnb.storage.files import check_writable

    check_writable(options.file)
    check_run(options.run, "settings.json")

    from cepnb.qgpo.pretrained import export_policy

    export_policy(options.run, options.file)
    print(options.file)


def _sweep(options: argparse.Namespace) -> None:
    from cepnb.diffusion.devices import check_device, device_named
    from cepnb.experiments.sweep_file import read_sweep

    if options.workers < 1:
        raise CepnbError(f"--workers {options.workers}: use at least 1")
    check_device(options.device)
    sweep = read_sweep(options.config)
    folder = options.out or Path("runs") / options.config.stem
    if options.cluster is None:
        device_named(options.device)
    files = _checked_files(folder, "table.md", "scores.png")

    from cepnb.experiments.report import report
    from cepnb.experiments.scores import summed_up
    from cepnb.experiments.sweep import run_sweep
    from cepnb.notebook.score_plots import sweep_figure

    rows, failures = run_sweep(sweep, folder, options.workers, options.device, options.cluster)
    if rows:
        _write_results(files, report(rows), sweep_figure(summed_up(rows)))
    if failures:
        reasons = "; ".join(f"{job.folder}: {reason}" for job, reason in failures)
        raise CepnbError(f"{len(failures)} runs failed, all others are saved ({reasons})")


def _report(options: argparse.Namespace) -> None:
    from cepnb.experiments.scores import load_scores

    rows = load_scores(options.scores)

    from cepnb.experiments.report import report

    print_markdown(report(rows))


def _data(options: argparse.Namespace) -> None:
    from cepnb.datasets.registry import check_local
    from cepnb.qgpo.settings import qgpo_settings

    check_local(options.dataset)
    settings = qgpo_settings(options.profile)

    from cepnb.datasets.local import local_dataset

    print(local_dataset(options.dataset, settings.transitions, settings.data_seed))


def _agent(options: argparse.Namespace) -> None:
    from cepnb.storage.files import check_writable
    from cepnb.storage.validation import check_seed

    name, rest = options.environment, (options.steps, options.seed, options.out)
    if name not in AGENTS:
        raise CepnbError(f"environment '{name}': use one of {', '.join(AGENTS)}")
    check_seed(options.seed)
    check_writable(options.out / "checkpoint")

    from cepnb.datasets import ant_training, sac

    print(ant_training.make_walker(*rest) if name == "ant" else sac.make_history(name, *rest))


def _bench(options: argparse.Namespace) -> None:
    from cepnb.tools.bench.options import ROW_NAMES, SERIES, check_checkout, selected

    if options.growth:
        _refuse_combined(options, "growth", "peer", "toys")
    elif options.full:
        raise CepnbError("--full needs --growth")
    kind, names = "row", ROW_NAMES
    if options.growth:
        kind, names = "series", SERIES
    elif options.toys:
        kind, names = "density", DENSITY_NAMES
    selected(kind, options.rows, names, 1 if options.repeats is None else options.repeats)
    if options.peer:
        check_checkout(options.peer)
    counts = {"repeats": options.repeats} if options.repeats is not None else {}
    if options.growth:
        from cepnb.tools.bench.growth import growth, growth_markdown

        record, markdown = growth(options.rows, full=options.full, **counts), growth_markdown
    elif options.toys:
        from cepnb.tools.bench.quality import quality, quality_markdown

        record, markdown = quality(options.rows, peer=options.peer, **counts), quality_markdown
    else:
        from cepnb.tools.bench.rows import measured, rows_markdown

        record, markdown = measured(options.rows, peer=options.peer, **counts), rows_markdown
    _print_measured(options, record, markdown)


def _bench_run(options: argparse.Namespace) -> None:
    from cepnb.datasets.registry import check_dataset
    from cepnb.qgpo.settings import qgpo_settings
    from cepnb.storage.files import write_json, write_text
    from cepnb.tools.bench.options import BenchConfig, check_checkout

    settings = qgpo_settings("paper", **_changes(options.set))
    if options.dataset is not None:
        check_dataset(options.dataset)
    if options.peer:
        check_checkout(options.peer)
    config = BenchConfig(
        **{field.name: getattr(options, field.name) for field in fields(BenchConfig)}
    )
    files = None
    if options.out:
        files = _checked_files(options.out, "bench_run.json", "bench_run.md")

    from cepnb.datasets.registry import load_dataset
    from cepnb.tools.bench.whole import whole_markdown, whole_run

    dataset = None
    if options.dataset is not None:
        dataset = load_dataset(options.dataset, settings.transitions, settings.data_seed)
    record = whole_run(settings, config, dataset, options.peer)
    if files:
        write_json(files[0], record)
        write_text(files[1], whole_markdown(record) + "\n")
    _print_measured(options, record, whole_markdown)


def _checked_files(folder: Path, *names: str) -> list[Path]:
    """Return the paths of a command's results; raise `CepnbError` if one cannot be written."""
    from cepnb.storage.files import check_writable

    for name in names:
        check_writable(folder / name)
    return [folder / name for name in names]


def _write_results(files: list[Path], tables: str, figure) -> None:
    """Write the tables and, unless it is None, a figure; print the tables and the paths."""
    from cepnb.storage.files import atomic_path, write_text

    table, picture = files
    write_text(table, tables + "\n")
    if figure:
        with atomic_path(picture) as path:
            figure.savefig(path, format="png", dpi=110)
    print_markdown(tables)
    print(f"\nTables: {table}; figure: {picture}")


def _print_measured(options: argparse.Namespace, record: dict, markdown: Callable) -> None:
    if options.json:
        print(json.dumps(record, indent=2))
    else:
        print_markdown(markdown(record))


def _path(text: str) -> Path:
    """Convert an option to a path; an empty one, as of an unset variable, is an error."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _refuse_repeats(option: str, values: list) -> None:
    for value in values:
        if values.count(value) > 1:
            raise CepnbError(f"{option} {value}: given {values.count(value)} times; give it once")


def _refuse_combined(options: argparse.Namespace, name: str, *others: str) -> None:
    """Raise `CepnbError` if an option is given that has no effect with the option `name`."""
    for other in others:
        if getattr(options, other) not in (None, False):
            raise CepnbError(f"--{other} cannot be combined with --{name}")


def _changes(assignments: list[str]) -> dict[str, object]:
    """Convert --set options to settings. A value is a Python literal; other text is a string."""
    from cepnb.qgpo.settings import coerce

    _refuse_repeats("--set", [assignment.partition("=")[0] for assignment in assignments])
    changes = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise CepnbError(f"--set {assignment}: the value is missing; use NAME=VALUE")
        try:
            changes[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            changes[name] = text
    return coerce(changes)
