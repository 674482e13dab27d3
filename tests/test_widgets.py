"""Explorers draw each frame once, pack it exactly, describe it, and report its errors."""

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.image
import nbformat
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from nbclient import NotebookClient

from cepnb.errors import CepnbError
from cepnb.notebook import plots
from cepnb.notebook.sliders.frames import (
    Panel,
    beta_slider,
    over_grid,
    panels_over_grid,
    scale_slider,
)
from cepnb.notebook.sliders.layers import (
    LIMIT,
    MARGIN,
    Arrows,
    Field,
    Layer,
    Points,
    Shaded,
    shaded,
)
from cepnb.notebook.sliders.widgets import BetaExplorer, Explorer, LiveExplorer
from cepnb.tools.book.execution import PollingManager
from cepnb.tools.book.outputs import hidden_errors


class Frames:
    def __init__(self, fails_at: float | None = None) -> None:
        self.drawn: list[float] = []
        self.fails_at = fails_at

    def __call__(self, value: float) -> Figure:
        self.drawn.append(value)
        if value == self.fails_at:
            raise ZeroDivisionError("no such energy")
        figure, axes = plots.figure()
        axes[0, 0].plot([0, value])
        return figure


def explorer(
    frames: Frames, values: Sequence[float] = (1.0, 3.0, 10.0), start: float = 3.0
) -> Explorer:
    return Explorer(frames, beta_slider(values, start), "a line")


@pytest.fixture(autouse=True)
def laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEPNB_PROFILE", "laptop")


def test_an_explorer_holds_the_picture_of_each_value(tmp_path) -> None:
    frames = Frames()
    shown = explorer(frames)
    pictures = [base64.b64decode(picture) for picture in shown.spec["pictures"]]
    assert frames.drawn == [1.0, 3.0, 10.0] and len(set(pictures)) == 3  # each is drawn once
    data, metadata = shown._repr_mimebundle_()
    # JupyterLab prefers HTML to pictures, and a view of a widget to both.
    assert set(data) == {"text/html", "image/png", "text/plain"}
    assert data["text/html"].startswith(f'<cepnb-explorer name="{shown.name}"><img src="data:')
    assert base64.b64decode(data["image/png"]) == pictures[1]  # the still picture
    assert metadata["image/png"]["alt"] == "a line"
    shown.move(beta=10.0)
    assert shown.at == {"beta": 10.0} and shown.still() == pictures[2]
    shapes = {matplotlib.image.imread(io.BytesIO(picture)).shape for picture in pictures}
    assert len(shapes) == 1  # the size stays while the slider moves
    shown.to_html(tmp_path / "page.html")
    assert all(
        p in (tmp_path / "page.html").read_text(encoding="utf-8") for p in shown.spec["pictures"]
    )


def test_construction_raises_errors_of_frames_and_rejects_bad_values() -> None:
    with pytest.raises(ZeroDivisionError):
        explorer(Frames(fails_at=10.0))
    with pytest.raises(CepnbError, match="beta: the slider has no values; pass at least one"):
        explorer(Frames(), values=[])
    with pytest.raises(
        CepnbError, match="beta = 2 is not a value of the slider; use one of 1, 3, 10"
    ):
        explorer(Frames(), start=2.0)


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.0, 3.0, 10.0]),
        np.array([10, 3, 1]),
        [np.float32(0.1), np.float32(3)],
        torch.tensor([0.1, 3.0]),
        [torch.tensor(1.0), torch.tensor(3.0)],
        range(0, 6, 3),
        [3.0001, 3.0, 3.0002],
        [1e38, 1e-8, 3.0],
    ],
)
def test_a_slider_takes_any_list_of_numbers_in_its_order(values) -> None:
    slider = beta_slider(values, 3.0)
    assert slider.values == tuple(np.asarray(values).tolist()) and slider.start == 3
    assert len(set(slider.labels)) == len(values)  # each value has its own label
    shown = Explorer(Frames(), slider, "a line")
    shown.move(beta=slider.values[0])
    assert shown.position == [0] and shown.spec["sliders"][0]["labels"] == slider.labels


@pytest.mark.parametrize(
    "values, problem",
    [
        ([1.0, 3.0, 3.0], "beta = 3 is twice in the slider; pass it once"),
        ([1.0, 3.0, float("nan")], "1 of 3 values are not finite; pass finite values"),
        (np.array([3.0, np.inf]), "1 of 2 values are not finite; pass finite values"),
        (np.ones((2, 2)), "no numbers; pass a list of them"),
        (["1", "3"], "no numbers; pass a list of them"),
        (np.array([]), "the slider has no values; pass at least one"),
    ],
)
def test_a_slider_rejects_values_that_it_cannot_show(values, problem: str) -> None:
    with pytest.raises(CepnbError, match=problem):
        beta_slider(values, 3.0)


BETA = beta_slider([0.0, 1.0, 3.0], 1.0)
SCALE = scale_slider([0.5, 1.0], 1.0, beta=3.0)


def samples(seed: int, *over: int) -> torch.Tensor:
    return 2 * torch.randn(*over, 50, 2, generator=torch.Generator().manual_seed(seed))


def precomputed() -> BetaExplorer:
    points = Points(samples(0, 3), ("beta",), "samples", "exact at any β")
    field = Field(
        torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(1)), ("beta", "s"), "energy"
    )
    return BetaExplorer(
        [BETA, SCALE],
        [Panel("one", (field, points)), Panel("two", (points,))],
        "Two <panels>",
        columns=2,
    )


def test_every_frame_is_packed_at_the_offset_that_the_page_reads() -> None:
    shown = precomputed()
    (first, *_), layers = shown.spec["panels"], shown.spec["layers"]
    field, points = (layers[k] for k in first["layers"])
    assert len(layers) == 2  # the shared layer is stored once
    assert shown.spec["panels"][1]["layers"] == [first["layers"][1]]
    assert points["over"] == [0] and field["over"] == [0, 1]
    for place in range(3):
        size = points["length"] * 2
        start = points["offset"] + place * size
        packed = np.frombuffer(shown.data[start : start + size], "<u2").reshape(50, 2)
        x = (packed.astype(float) / 65535 * 2 - 1) * MARGIN * LIMIT * [1, -1]
        expected = samples(0, 3)[place]
        inside = expected.abs().max(dim=1).values < LIMIT
        error = np.abs(x - expected.numpy())[inside].max()
        assert error <= 1.01 * MARGIN * LIMIT / 65535  # half a step of 16 bits over the width
        assert (np.abs(x[~inside]).max(axis=1) >= LIMIT * 0.9999).all()  # outside stays outside
        for other in range(2):
            start = field["offset"] + (2 * place + other) * 64
            found = np.frombuffer(shown.data[start : start + 64], "u1").reshape(8, 8)[::-1] / 255
            expected = shown.panels[0].layers[0].values[place, other].numpy()
            assert np.abs(found - expected).max() <= 0.501 / 255


def test_move_sets_sliders_and_at_reads_them() -> None:
    shown = precomputed()
    assert shown.at == {"beta": 1.0, "s": 1.0} and shown.position == [1, 1]
    shown.move(beta=3.0)
    assert shown.at == {"beta": 3.0, "s": 1.0} and shown.position == [2, 1]
    with pytest.raises(
        CepnbError, match="beta = 2 is not a value of the slider; use one of 0, 1, 3"
    ):
        shown.move(beta=2.0)
    with pytest.raises(CepnbError, match="no slider is named 't'; use one of beta, s"):
        shown.move(t=1.0)


def test_layers_that_do_not_fit_are_rejected() -> None:
    def panel(values: torch.Tensor, over: tuple[str, ...] = ("beta",)) -> list[Panel]:
        return [Panel("p", (Points(values, over, "samples"),))]

    with pytest.raises(
        CepnbError, match="points 'samples': no slider is named 't'; use one of beta"
    ):
        BetaExplorer([BETA], panel(samples(0, 3), ("t",)), "")
    with pytest.raises(
        CepnbError,
        match=re.escape("its shape is (2, 50, 2), but must begin with (3,) before the 2 axes"),
    ):
        BetaExplorer([BETA], panel(samples(0, 2)), "")
    with pytest.raises(CepnbError, match="a value is not finite; pass finite numbers only"):
        BetaExplorer([BETA], panel(samples(0, 3) / 0), "")
    with pytest.raises(CepnbError, match="beta = 2 is not a value of the slider; use one of 0, 1"):
        beta_slider([0.0, 1.0], 2.0)
    with pytest.raises(CepnbError, match="1 sliders and 0 panels"):
        BetaExplorer([BETA], [], "")
    array = panel(samples(0, 3))
    object.__setattr__(array[0].layers[0], "values", samples(0, 3).numpy())  # tests check types
    with pytest.raises(CepnbError, match="points 'samples': ndarray given; pass a torch.Tensor"):
        BetaExplorer([BETA], array, "")


@pytest.mark.parametrize(
    "layer, problem",
    [
        (Points(torch.zeros(3, 5, 1), ("beta",)), "(5, 1); use (n, 2)"),  # would broadcast
        (Shaded(torch.zeros(3, 5, 2), ("beta",)), "(5, 2); use (n, 3)"),
        (Field(torch.zeros(3, 4, 6), ("beta",)), "(4, 6); use (n, n)"),
        (Arrows(torch.zeros(3, 4, 4, 3), ("beta",)), "(4, 4, 3); use (n, n, 2)"),
    ],
)
def test_frames_of_another_shape_are_rejected(layer: Layer, problem: str) -> None:
    with pytest.raises(CepnbError, match=re.escape(f"a frame has shape {problem}")):
        BetaExplorer([BETA], [Panel("p", (layer,))], "")


@pytest.mark.parametrize("scale, offset", [(50.0, 0.0), (1.0, 20.0), (0.02, 20.0)])
def test_a_panel_must_fit_the_units_of_the_samples(scale: float, offset: float) -> None:
    x = scale * samples(0, 3) + offset

    def shown(limit: float) -> BetaExplorer:
        return BetaExplorer([BETA], [Panel("p", (Points(x, ("beta",), "mine"),), limit)], "")

    with pytest.raises(CepnbError, match=r"'mine': 0% of its points are in .*limit of \d+"):
        shown(LIMIT)
    packed = np.frombuffer(shown(plots.fitting_limit(*x)).data, "<u2")
    inside = np.abs(packed / 65535 * 2 - 1) * MARGIN  # in panels
    assert 0.8 < inside.max() < 1  # all samples are visible, and they reach far out


def test_equal_values_are_shaded_dark() -> None:
    assert (shaded(samples(0), torch.full((50,), 7.0), "")).values[:, 2].tolist() == [0.0] * 50
    assert (shaded(samples(0), torch.ones(50), "", (1.0, 1.0))).values[:, 2].tolist() == [0.0] * 50


SPECIAL = "</script><!--<script> <b>&amp;</b> \"q\" 'q' ${x} $title \\ </title>"


def test_special_text_stays_text_in_a_page(tmp_path: Path) -> None:
    """HTML parsers end a script at its end tag, and ignore that tag after "<!--<script>"."""
    layer = Points(samples(0, 3), ("beta",), SPECIAL, SPECIAL)
    shown = BetaExplorer([BETA], [Panel(SPECIAL.replace("$", ""), (layer,))], SPECIAL)
    shown.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 2 and "<b>" not in page
    assert f"<title>{html.escape(SPECIAL)}</title>" in page
    state = re.search(r'<script type="application/json">(.*?)</script>', page)[1]
    assert json.loads(state)["spec"] == shown.spec and shown.spec["description"] == SPECIAL
    assert "<b>" not in Explorer(Frames(), BETA, SPECIAL).in_page()


def test_over_grid_stacks_a_function_over_the_sliders() -> None:
    found = over_grid(lambda beta, scale: torch.tensor([beta, scale]), BETA, SCALE)
    assert found.shape == (3, 2, 2) and found[2, 0].tolist() == [3.0, 0.5]


def test_the_page_is_self_contained_and_a_saved_notebook_has_a_still_picture(tmp_path) -> None:
    shown = precomputed()
    shown.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (
        base64.b64encode(shown.data).decode() in page
        and "<title>Two &lt;panels&gt;</title>" in page
    )
    assert not re.search(r"(src|href)=.?(?!data:)[a-z/]", page) and "http" not in page
    data, metadata = shown._repr_mimebundle_()
    still = matplotlib.image.imread(io.BytesIO(base64.b64decode(data["image/png"])))
    assert min(still.shape[:2]) > 200 and metadata["image/png"]["alt"] == "Two <panels>"


def live(calls: list[float], fails_at: float | None = None) -> LiveExplorer:
    def frame(beta: float, s: float) -> list[Panel]:
        calls.append(beta)
        if beta == fails_at:
            raise ZeroDivisionError("no such energy")
        shaded = torch.cat([samples(0), torch.full((50, 1), beta / 3)], dim=1)
        return [
            Panel("points", (Shaded(shaded, (), "actions"),), limit=1.5),
            Panel("energy", (Field(torch.full((4, 4), s), (), "energy"),)),
        ]

    return LiveExplorer(frame, [BETA, SCALE], "Actions")


def test_a_live_frame_is_computed_once_on_the_first_move_to_it() -> None:
    calls: list[float] = []
    shown = live(calls)
    assert calls == [1.0] and shown.panels[0].limit == 1.5
    before = shown.data
    shown.move(beta=3.0)
    shown.move(beta=1.0)
    assert calls == [1.0, 3.0] and shown.data == before
    shown.move(beta=0.0, s=0.5)
    offset = shown.spec["layers"][0]["offset"]
    found = np.frombuffer(shown.data[offset : offset + 300], "<u2").reshape(50, 3)
    x = (found[:, :2] / 65535 * 2 - 1) * MARGIN * 1.5 * [1, -1]
    inside = samples(0).abs().max(dim=1).values < 1.5
    error = np.abs(x - samples(0).numpy())[inside].max()
    assert (found[:, 2] == 0).all() and error <= 1.01 * MARGIN * 1.5 / 65535
    assert shown.data[shown.spec["layers"][1]["offset"]] == 128  # s = 0.5
    shown.move(beta=3.0)
    assert shown.at == {"beta": 3.0, "s": 0.5} and calls == [1.0, 3.0, 0.0, 3.0]


def test_a_live_error_is_shown_until_the_next_frame_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = live([], fails_at=3.0)
    shown.move(beta=3.0)
    message = "β = 3, s = 1: ZeroDivisionError: no such energy"
    assert shown.error == message == shown.get_state()["error"]
    assert shown.spec["at"] == [1, 1]  # the page labels the frame that it still shows
    shown.move(beta=0.0)
    assert shown.error == "" and shown.spec["at"] == [0, 1] == shown.position
    with pytest.raises(ZeroDivisionError):
        live([], fails_at=1.0)
    monkeypatch.setenv("CEPNB_PROFILE", "ci")
    with pytest.raises(ZeroDivisionError):
        live([], fails_at=3.0)


def test_a_page_without_a_kernel_holds_all_live_frames() -> None:
    spec, data = live([]).frames()
    assert "at" not in spec  # no frame is missing
    assert [layer["over"] for layer in spec["layers"]] == [[0, 1], [0, 1]]
    first, second = (layer["offset"] for layer in spec["layers"])
    shades = np.frombuffer(data[first:second], "<u2").reshape(3, 2, 50, 3)[..., 2]
    assert (shades == np.round(65535 * np.array([0, 1 / 3, 1]))[:, None, None]).all()
    assert list(data[second : second + 96 : 16]) == [128, 255] * 3
    remarks = panels_over_grid(
        lambda beta: [Panel("p", (Points(samples(0), (), "a", f"at {beta:g}"),))], [BETA]
    )
    assert remarks[0].layers[0].source == ("at 0", "at 1", "at 3")
    sizes = iter(range(2, 9))
    with pytest.raises(
        CepnbError, match="frames over beta differ in panels, layers or shapes; return"
    ):
        panels_over_grid(
            lambda beta: [Panel("p", (Points(torch.zeros(next(sizes), 2), ()),))], [BETA]
        )


FAILING = [
    "ipywidgets.interact(lambda x: 1 / x, x=(0, 2, 1))\n"
    "ipywidgets.interact(lambda x: 1 / (x - 1), x=(0, 2, 1));",
    "out = ipywidgets.Output(); display(out)\nwith out: 1 / 0",
    "frame = lambda beta: [frames.Panel('p', (layers.Points(torch.zeros(1, 2) * (1 / beta), ()),))]\n"
    "shown = widgets.LiveExplorer(frame, [frames.beta_slider([1.0, 0.0], 1.0)], 'd')\n"
    "display(shown); shown.move(beta=0.0)",
]
IMPORTS = "import ipywidgets, torch; from cepnb.notebook.sliders import frames, layers, widgets"
RIGHT = "ipywidgets.interact(lambda x: x, x=(0, 2, 1));"


def test_errors_that_widgets_swallow_are_found() -> None:
    """`interact` and `Output` add one error each, a live frame two, and the cell without an error none."""
    cells = [nbformat.v4.new_code_cell(code) for code in (IMPORTS, RIGHT, *FAILING)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", kernel_manager_class=PollingManager
    ).execute()
    found = hidden_errors(notebook)
    plain, in_frame = (
        "ZeroDivisionError: division by zero",
        "ZeroDivisionError: float division by zero",
    )
    # The still picture fails, too.
    assert sorted(found) == [plain, plain, in_frame, f"β = 0: {in_frame}"]


@pytest.mark.usefixtures("as_users_call_it")
def test_wrong_arguments_are_one_line() -> None:
    nan, panels = torch.full((50,), torch.nan), precomputed().panels
    for call, message in (
        (lambda: BetaExplorer([BETA, BETA], panels, ""), "sliders beta, beta: a name is repeated"),
        (lambda: beta_slider([0.0, 1.0], None), "beta = None is not a value of the slider; use"),
        (lambda: beta_slider([0.0, 1.0], "1"), "beta = '1' is not a value of the slider; use one"),
        (lambda: precomputed().move(beta="1"), "beta = '1' is not a value of the slider; use one"),
        (lambda: precomputed().move(beta=[1.0]), r"beta = \[1.0\] is not a value of the slider"),
        (lambda: Points(samples(0), (), method="zz"), "method 'zz': use one of exact, behaviour"),
        (lambda: shaded(samples(0), torch.ones(50), "", (1,)), r"span \(1,\): use \(low, high\)"),
        (lambda: shaded(samples(0), nan, "a"), "shaded 'a': 50 of 50 values are not finite; pass"),
        (lambda: shaded(samples(0), -nan, "a", (0, 1)), "shaded 'a': 50 of 50 values are not"),
        (lambda: shaded(samples(0), torch.ones(50), "a", (0, np.inf)), "1 of 2 values are not"),
        (lambda: plots.fitting_limit(), "samples are missing; pass at least one"),
        (lambda: plots.fitting_limit(torch.zeros(0, 2)), "samples are missing; pass at least one"),
        (lambda: plots.fitting_limit(samples(0) / 0), "samples: 1 of 1 values are not finite"),
    ):
        with pytest.raises(CepnbError, match=message):
            call()
    frame = lambda b, c: [Panel("p", (Points(samples(0), ()),))]
    with pytest.raises(CepnbError, match="sliders beta, beta: a name is repeated; give each"):
        LiveExplorer(frame, [BETA, BETA], "")
