"""The report of a study: Markdown, HTML, figures and JSON."""

from pathlib import Path

from pconv_seg.files import atomic_path, write_json
from pconv_seg.visualization import save_figure

from .contents import Contents
from .figures import draw_figures, has_paper_line
from .plan import Study
from .results import Results

try:
    import jinja2
    import markdown
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"a study's report needs {error.name}, which is not installed: "
        "pip install 'pconv-seg[study]'"
    ) from error


def write_report(study: Study) -> Path:
    """Write ``report/report.md``, ``.html``, ``.json`` and ``figures/`` below the study's folder.

    Args:
        study: With at least one evaluated run; the others are listed.

    Returns:
        The Markdown file.

    Raises:
        PreflightError: As from :class:`Results`.
        ValueError: Naming the file, if the state, the log or the digests of a run are damaged.
    """
    results = Results(study)
    contents = Contents(results)  # before anything is written: it reads all that may be damaged
    folder = study.folder / "report"
    figures = draw_figures(results)
    for name, figure in figures.items():
        save_figure(figure, folder / "figures" / f"{name}.svg")
    paper_line = any(has_paper_line(results, name) for name in results.own_evaluations)
    write_json(contents.as_dict(), folder / "report.json")
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    text = templates.get_template("report.md.j2").render(
        **contents.context, figures=figures, paper_line=paper_line
    )
    page = templates.get_template("report.html.j2").render(
        title=f"Study {study.file.stem}",
        body=markdown.markdown(text, extensions=["tables", "fenced_code"]),
    )
    for path, content in ((folder / "report.md", text), (folder / "report.html", page)):
        with atomic_path(path) as temporary:
            temporary.write_text(content)
    return folder / "report.md"
