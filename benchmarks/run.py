"""All benchmarks, or the named ones; writes results.json, results.md and figures.

    python benchmarks/run.py                     # everything
    python benchmarks/run.py layers networks     # these
    python benchmarks/run.py networks --only R50 # networks of that name alone
    python benchmarks/run.py --quick             # fewer cases and rounds

Each benchmark is a module beside this file with a ``TITLE``, a description as its docstring, a
``run(options)`` that yields records as measure.py makes them, and, if it draws a figure,
``plot(records)``. Every record is written as soon as it is there.
"""

import argparse
import importlib
import json
import os
import sys
from itertools import groupby
from pathlib import Path

import torch
from prettytable import PrettyTable, TableStyle

from pconv_seg.files import atomic_path
from pconv_seg.study.machine import describe_machine
from pconv_seg.visualization.files import save_figure

BENCHMARKS = ("layers", "networks", "tiled_inference", "border_counts", "training_pipeline")
# By default glibc gives large blocks back at once, and the system fills them with zeros for the
# next call. How long that takes differs more from call to call than what is measured.
KEEP_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "benchmarks", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)}"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="layers and networks with this in their names, e.g. 3x3, R50 or "
        "'WRN38 training step compiled'",
    )
    parser.add_argument(
        "--seconds", type=float, help="time for the rounds of one figure (default: 10; quick: 2)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="(default: cuda if there is one)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/benchmarks"), help="folder")
    options = parser.parse_args()
    for name in set(options.benchmarks) - set(BENCHMARKS):
        parser.error(f"no benchmark {name!r}: choose from {', '.join(BENCHMARKS)}")
    glibc_is_untouched = sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ
    if glibc_is_untouched and options.device == "cpu":
        # The tunables are read when a process starts.
        arguments = [sys.executable, *sys.argv]
        os.execve(sys.executable, arguments, {**os.environ, "GLIBC_TUNABLES": KEEP_MEMORY})
    if options.seconds is None:
        options.seconds = 2 if options.quick else 10
    if options.threads:
        torch.set_num_threads(options.threads)

    report = {"machine": machine(options.device), "command": sys.argv, "benchmarks": {}}
    # Processes whose own memory is measured must give it back.
    if os.environ.get("GLIBC_TUNABLES") == KEEP_MEMORY:
        del os.environ["GLIBC_TUNABLES"]
    for name in options.benchmarks or BENCHMARKS:
        module = importlib.import_module(name)
        section = {"title": module.TITLE, "text": module.__doc__, "records": []}
        report["benchmarks"][name] = section
        for record in module.run(options):
            section["records"].append(record)
            write(report, options.out)
        if not section["records"]:
            del report["benchmarks"][name]
            continue
        if hasattr(module, "plot"):
            section["figure"] = f"{name}.svg"
            save_figure(module.plot(section["records"]), options.out / section["figure"])
            write(report, options.out)
    if not report["benchmarks"]:
        few = " among the few of --quick" if options.quick else ""
        parser.error(f"no case{few} has {options.only!r} in its name")
    print((options.out / "results.md").read_text())


def machine(device: str) -> dict[str, str | int | None]:
    """What the figures depend on, for the head of a report."""
    about = describe_machine()
    found = {
        "processor": about["cpu"],
        "cores": about["cores"],
        "threads": torch.get_num_threads(),
        **about["versions"],
        "commit": about["commit"],
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def write(report: dict, folder: Path) -> None:
    for name, text in (
        ("results.json", json.dumps(report, indent=1)),
        ("results.md", markdown(report)),
    ):
        with atomic_path(folder / name) as path:
            path.write_text(text)


def markdown(report: dict) -> str:
    """The report as Markdown: per benchmark and quantity one table, one row per case."""
    parts = ["# Benchmarks", ", ".join(f"{k}: {v}" for k, v in report["machine"].items())]
    for section in report["benchmarks"].values():
        parts += [f"## {section['title']}", section["text"].strip()]
        if "figure" in section:
            parts.append(f"![{section['title']}]({section['figure']})")
        quantities = dict.fromkeys(record["quantity"] for record in section["records"])
        for quantity in quantities:
            records = [r for r in section["records"] if r["quantity"] == quantity]
            for _, group in groupby(records, key=lambda r: tuple(r["case"])):
                parts += [f"### {quantity}", str(_table(list(group)))]
    return "\n\n".join(parts) + "\n"


def _table(records: list[dict]) -> PrettyTable:
    rows = {}
    for record in records:
        rows.setdefault(tuple(record["case"].values()), {})[record["contender"]] = record
    baseline = records[0]["baseline"]
    others = list(dict.fromkeys(r["contender"] for r in records if r["contender"] != baseline))
    table = PrettyTable([*records[0]["case"], baseline, *others])
    table.set_style(TableStyle.MARKDOWN)
    for case, row in rows.items():
        cells = (_ratio(row[name]) if name in row else "" for name in others)
        table.add_row([*case, _amount(row[baseline]), *cells])
    return table


def _amount(record: dict) -> str:
    if record["quantity"] == "peak memory":
        return f"{record['min'] / 2**20:.1f} MiB"
    median, least = (1000 * record[name] for name in ("median", "min"))
    digits = 0 if least >= 100 else 1
    return f"{median:.{digits}f} ms (min {least:.{digits}f})"


def _ratio(record: dict) -> str:
    text = f"{record['ratio']:.3f}"
    if "ratio_quartiles" in record:
        low, high = record["ratio_quartiles"]
        text += f" ({low:.3f}-{high:.3f}; min {record['ratio_of_minima']:.3f})"
    if "goal" in record:
        low, high = record["interval"]
        text += f", 95% {low:.3f}-{high:.3f} **{record['verdict']}** {record['goal']}"
    return text


if __name__ == "__main__":
    main()
