"""Train, evaluate and report a controlled comparison of paddings.

Can be stopped at any time: called again it goes on where it stopped. See docs/study.md.
"""

import argparse
import signal
import sys
from pathlib import Path

from pconv_seg.arguments import positive
from pconv_seg.engine import PreflightError
from pconv_seg.study.evaluation import evaluate_runs
from pconv_seg.study.plan import Study
from pconv_seg.study.training import train_runs

STEPS = ("train", "evaluate", "report")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    description, epilog = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(description=description, epilog=epilog)
    parser.add_argument("study", help="study file, e.g. configs/studies/camvid.py")
    parser.add_argument(
        "--work-dir", required=True, metavar="DIR", help="where runs, counts and the report go"
    )
    parser.add_argument("--only", choices=STEPS, help="do only this step (default: all)")
    parser.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="how many trainings, then evaluations, share the cores (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    problems = []
    try:
        if args.only in (None, "report"):
            # Before hours of training: it may miss a library, which the other steps do not need.
            from pconv_seg.study.report import write_report
        study = Study.load(args.study, args.work_dir)
        if args.only in (None, "train"):
            failed = train_runs(study, Path(__file__).with_name("train.py"), args.jobs)
            if failed:
                problems.append(
                    f"{len(failed)} of {len(study.runs)} runs failed: "
                    f"{', '.join(run.name for run in failed)}; their logs say why, and the same "
                    "command tries them again"
                )
        if args.only in (None, "evaluate"):
            problems += evaluate_runs(study, args.jobs)
        if args.only in (None, "report"):
            print(f"wrote {write_report(study)}")
    except (PreflightError, ModuleNotFoundError, ValueError) as error:
        problems.append(str(error))
    except OSError as error:  # a full disk, for example
        problems.append(f"{error}; when the cause is gone, the same command goes on from here")
    except KeyboardInterrupt as error:
        print("study.py: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + getattr(error, "signal", signal.SIGINT))
    if problems:
        sys.exit("study.py: " + "\n".join(problems))


if __name__ == "__main__":
    main()
