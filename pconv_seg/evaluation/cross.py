"""Networks tested under other padding than they were trained with (the paper's Table 4)."""

from prettytable import PrettyTable

from pconv_seg.files import short_names

from .report import Report, score_text


def cross_matrices(report: Report) -> list[dict]:
    """mIoU by checkpoint and tested padding, one matrix per mode and leave-out.

    Args:
        report: Of a record in which every checkpoint was tested under the same paddings.

    Returns:
        Dicts with ``title``, ``rows`` (checkpoint and the padding it was trained with),
        ``columns`` (padding in the test) and ``mIoU``, ``[rows][columns]`` in percent with None
        where all classes are absent.
    """
    results = report.as_dict()["results"]
    names, cells = short_names(result["checkpoint"] for result in results), {}
    # As exact fractions, so that no two have the same title.
    leave_outs = {float(r.start): r for r in report.regions if r.kind == "leave_out"}
    for result in results:
        where = (leave_outs[result["leave_out"]], report.mode_name(result["mode"]))
        row = f"{names[result['checkpoint']]} (trained: {result['trained_padding']})"
        cells.setdefault(where, {}).setdefault(row, {})[result["padding"]] = result["mIoU"]
    return [
        {
            "title": f"mIoU (%), leave-out {leave_out}, {mode}",
            "rows": list(rows),
            "columns": list(next(iter(rows.values()))),
            "mIoU": [list(row.values()) for row in rows.values()],
        }
        for (leave_out, mode), rows in cells.items()
    ]


def cross_tables(matrices: list[dict]) -> str:
    """Text tables of :func:`cross_matrices`, each laid out as the paper's Table 4."""
    texts = []
    for matrix in matrices:
        table = PrettyTable(["checkpoint", *(f"tested: {name}" for name in matrix["columns"])])
        table.title = matrix["title"]
        table.align["checkpoint"] = "l"
        for name, row in zip(matrix["rows"], matrix["mIoU"], strict=True):
            table.add_row([name, *map(score_text, row)])
        texts.append(table.get_string())
    return "\n\n".join(texts)
