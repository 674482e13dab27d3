"""The slider: every frame is drawn once, described, and its errors are seen."""

import base64

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from cepnb import plots
from cepnb.errors import CepnbError
from cepnb.widgets import Explorer


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


def explorer(frames: Frames, **changes: object) -> Explorer:
    return Explorer(frames, **{"values": [1.0, 3.0, 10.0], "name": "β", "description": "a line"} | changes)


@pytest.fixture(autouse=True)
def laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEPNB_PROFILE", "laptop")


def picture(shown: Explorer) -> bytes:
    return base64.b64decode(shown.picture.value.split("base64,")[1].split('"')[0])


def test_moving_shows_the_frame_of_the_value(tmp_path) -> None:
    frames = Frames()
    shown = explorer(frames, start=3.0)
    first = picture(shown)
    shown.slider.value = 10.0
    second = picture(shown)
    assert first != second and 'alt="a line, β = 10"' in shown.picture.value
    shown.slider.value = 3.0
    assert picture(shown) == first and frames.drawn == [3.0, 10.0]  # kept, not drawn again
    (tmp_path / "p.png").write_bytes(first)
    (tmp_path / "q.png").write_bytes(second)
    shapes = {matplotlib.image.imread(tmp_path / name).shape for name in ("p.png", "q.png")}
    assert len(shapes) == 1  # no jump in size while the slider moves
    assert "application/vnd.jupyter.widget-view+json" in shown._repr_mimebundle_()


def test_an_error_is_shown_and_kept_and_goes_when_it_is_over() -> None:
    shown = explorer(Frames(fails_at=10.0))
    shown.slider.value = 10.0
    assert isinstance(shown.error, ZeroDivisionError)
    assert 'role="alert"' in shown.picture.value and "ZeroDivisionError: no such energy" in shown.picture.value
    shown.slider.value = 3.0
    assert shown.error is None and "<img" in shown.picture.value


def test_the_first_frame_raises_where_it_is_made_and_no_values_are_refused() -> None:
    with pytest.raises(ZeroDivisionError):
        explorer(Frames(fails_at=1.0))
    with pytest.raises(CepnbError, match="β: no values, expected at least one"):
        explorer(Frames(), values=[])
    with pytest.raises(CepnbError, match="β: start 2 is not among the values"):
        explorer(Frames(), start=2.0)


def test_under_ci_every_frame_is_drawn_so_that_no_error_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEPNB_PROFILE", "ci")
    frames = Frames()
    explorer(frames)
    assert sorted(frames.drawn) == [1.0, 3.0, 10.0]
    with pytest.raises(ZeroDivisionError):
        explorer(Frames(fails_at=10.0))
