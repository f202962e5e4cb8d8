"""Results of the shift test as text tables."""

from decimal import Decimal

from prettytable import PrettyTable

from pconv_seg.files import short_names

from .bootstrap import CONFIDENCE, NO_INTERVAL, RESAMPLES
from .shift_record import SCORES


def shift_tables(results: list[dict]) -> str:
    """Text tables of several :meth:`ShiftRecord.as_dict`: distances, then recommended overlaps."""
    names = short_names(result["checkpoint"] for result in results)
    parts = [_distance_table(result, names[result["checkpoint"]]) for result in results]
    tolerances = [row["tolerance"] for row in results[0]["recommended"]]
    table = PrettyTable(["checkpoint", "padding", *map(tolerance_text, tolerances)])
    table.title = "smallest overlap (px), and share of pixels that change"
    table.align["checkpoint"] = "l"
    for result in results:
        cells = [
            "none" if row["overlap"] is None else f"{row['overlap']}: {row['changed']:.2f}%"
            for row in result["recommended"]
        ]
        table.add_row([names[result["checkpoint"]], result["padding"], *cells])
    parts.append(table.get_string())
    if any(row["overlap"] is None for result in results for row in result["recommended"]):
        narrower = ", and narrower bins (--bin-width) come closer to the interior"
        counted = [row for row in results[0]["bins"] if row["changed"] is not None]
        parts.append(
            f"none: of the pixels {counted[-1]['from_pixel']} px and more from the seam, where the "
            "last bin begins, more than that still change. Larger tiles reach farther"
            f"{narrower if results[0]['bins'][0]['to_pixel'] > 1 else ''}."
        )
    if "aAcc" in results[0]["total"]:
        parts.append(
            f"cost: as interior minus as border, with its {CONFIDENCE:.0%} interval (paired "
            f"bootstrap over images, {RESAMPLES} resamples, seed {results[0]['seed']})."
        )
        rows = (row for result in results for row in (result["total"], *result["bins"]))
        if any(None in row[score]["interval"] for row in rows for score in SCORES):
            parts[-1] += f"\n{NO_INTERVAL}"
    return "\n\n".join(parts)


def _distance_table(result: dict, name: str) -> str:
    scores = [name for name in SCORES if name in result["total"]]
    columns = [f"{name} {role}" for name in scores for role in ("border", "interior", "cost")]
    table = PrettyTable(["px to seam", "pixels", "agree", *columns, "overlap", "changed"])
    table.align = "r"
    table.title = (
        f"{name} ({result['padding']}), in %: {result['images']} "
        f"images, tiles of {' x '.join(map(str, result['tile']))}"
    )
    rows = [(f"{row['from_pixel']}-{row['to_pixel'] - 1}", row) for row in result["bins"]]
    for bin_name, row in (*rows, ("all", {**result["total"], "overlap": "", "changed": None})):
        cells = [bin_name, row["pixels"], _text(row["agreement"])]
        for score in scores:
            values = row[score]
            cells += [_text(values["border"]), _text(values["interior"]), _cost(values)]
        table.add_row([*cells, row["overlap"], _text(row["changed"])])
    return table.get_string()


def tolerance_text(tolerance: float) -> str:
    """A share as the title of a column: ``<= 0.5%``."""
    # All digits, so that no two columns have the same title.
    return f"<= {(100 * Decimal(str(tolerance))).normalize():f}%"


def _cost(values: dict) -> str:
    low, high = values["interval"]
    interval = "none" if low is None else f"[{low:+.2f}, {high:+.2f}]"
    return f"{_text(values['cost'], '+.2f')} {interval}"


def _text(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)
