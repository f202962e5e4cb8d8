"""Which panels the figures of a report have."""

import pytest

from pconv_seg.study.figures import draw_figures
from pconv_seg.study.results import Results


@pytest.fixture
def draw(make_study, evaluate_at_random):
    """Draw the figures of a study with these evaluations."""

    def draw(evaluation):
        study = make_study(
            study=f"study = dict(paddings=('zeros', 'partial'), seeds=(0,), "
            f"evaluation={evaluation}, shift=dict(tile=16, bin_width=2))"
        )
        evaluate_at_random(study)
        return draw_figures(Results(study))

    return draw


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


@pytest.mark.parametrize("first_has_all", [True, False])
def test_every_evaluation_has_its_own_modes(draw, first_has_all):
    every, few = "dict(tile=16)", "dict(tile=24, modes=('tile',))"
    figures = draw(f"({every}, {few})" if first_has_all else f"({few}, {every})")
    everywhere = ["on whole images", "on tiles side by side (16 px)"]
    everywhere += ["on overlapping tiles (16 px, overlap 1/3)"]
    only_tiles = ["on tiles side by side (24 px)"]
    rows = [everywhere, only_tiles] if first_has_all else [only_tiles, everywhere]
    assert titles(figures["leave_out"]) == [*rows[0], *rows[1]]
    legends = [axes.get_legend() for axes in figures["leave_out"].axes]
    (legend,) = filter(None, legends)
    assert [text.get_text() for text in legend.get_texts()] == ["partial, paper", "partial"]
    labelled = [axes for axes in figures["leave_out"].axes if axes.get_ylabel()]
    assert len(labelled) == 2
    assert all(axes.get_visible() for axes in labelled)


def test_distances_are_drawn_where_an_evaluation_has_bands(draw):
    figures = draw(
        "(dict(tile=16, modes=('tile_overlap',), bands=(4,)), dict(tile=24, bands=(4,)), "
        "dict(tile=32))"
    )
    expected = ["on whole images", "on tiles side by side (24 px)"]
    assert [axes.get_title() for axes in figures["border_distance"].axes[:2]] == expected
    assert "border_distance" not in draw("(dict(tile=16, modes=('tile_overlap',), bands=(4,)),)")
