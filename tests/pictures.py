"""Draw the pictures of README and docs into results/pictures (`make pictures`)."""

import io
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from browsing import ROOT, chromium, jupyterlab, keep_cells, launched, run_all_cells
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import sync_playwright

from cepnb.densities import benchmark
from cepnb.densities.methods import guided_samples
from cepnb.diffusion.training import seeded
from cepnb.notebook import plots
from cepnb.storage.files import atomic_path

FOLDER = ROOT / "results" / "pictures"
NAME = "06_guided_sampling"
NEEDED = ("import ", "benchmark.shipped(name) for", "method_panels(models")
BETAS = (0.0, 3.0, 10.0, 20.0)


def densities() -> Figure:
    """Samples of six densities under rising β, guided by the shipped network for all β."""
    made, axes = plots.figure(len(benchmark.SHIPPED), len(BETAS), size=1.5)
    for column, name in enumerate(benchmark.SHIPPED):
        models = benchmark.shipped(name)
        for row, beta in enumerate(BETAS):
            panel = axes[row, column]
            eps, gradient = models.guidance("cep_beta", beta)
            generator = seeded(0, "picture")
            samples = guided_samples(eps, gradient, models.density, models.settings, generator)
            plots.sample_panel(panel, samples, plots.COLOURS["cep"], name if row == 0 else "")
            panel.collections[0].set_sizes([1.5])
            if column == 0:
                panel.set_ylabel(f"β = {beta:g}")
    return made


def rising_beta() -> list[Image.Image]:
    """Frames of an animation: the same noise, guided at rising β, on six densities."""
    betas = [0.0, *torch.logspace(-0.5, 1.3, 23).tolist()]  # up to 20
    every = [benchmark.shipped(name) for name in benchmark.SHIPPED]
    frames = []
    for beta in [*betas, *[betas[-1]] * 8]:  # the last one stays for a while
        made, axes = plots.figure(len(every), size=1.5)
        for panel, models in zip(axes[0], every):
            eps, gradient = models.guidance("cep_beta", beta)
            settings, generator = replace(models.settings, samples=1000), seeded(0, "picture")
            samples = guided_samples(eps, gradient, models.density, settings, generator)
            plots.sample_panel(panel, samples, plots.COLOURS["cep"])
            panel.collections[0].set_sizes([1.5])
        made.suptitle(f"β = {beta:.1f}", fontsize=11)
        frames.append(Image.open(io.BytesIO(plots.png(made, 80))).convert("RGB").quantize(16))
    return frames


def explorer() -> bytes:
    """Screenshot of notebook 06's four methods in JupyterLab at β = 20.

    It runs only the cells that this explorer needs.
    """
    executable = chromium()
    if executable is None:
        sys.exit(
            "make pictures: Chromium is missing; install it (`make browser` does so on Debian)"
        )
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyterlab(Path(folder), "laptop") as lab,
        sync_playwright() as playwright,
    ):
        keep_cells(Path(folder), NAME, NEEDED)
        page = launched(playwright, executable).new_page(
            viewport={"width": 1280, "height": 1000}, device_scale_factor=1.5
        )
        run_all_cells(page, lab, NAME)
        page.keyboard.press("Control+b")  # closes the list of files
        shown = page.locator(".cepnb").last
        shown.scroll_into_view_if_needed()
        shown.get_by_role("slider", name="β").press("End")
        shown.get_by_role("slider", name="t").press("End")
        page.wait_for_timeout(500)
        return page.screenshot()


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    with atomic_path(FOLDER / "densities.png") as path:
        densities().savefig(path, format="png", dpi=110)
    with atomic_path(FOLDER / "beta.gif") as path:
        first, *others = rising_beta()
        options = {"append_images": others, "duration": 250, "loop": 0, "optimize": True}
        first.save(path, format="gif", save_all=True, **options)
    with atomic_path(FOLDER / "explorer.png") as path:
        path.write_bytes(explorer())
    print(f"densities.png, beta.gif and explorer.png are in {FOLDER.relative_to(ROOT)}")
