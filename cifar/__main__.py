"""What a person does with the results, next to the pipeline: `python -m cifar --help`.

Each command imports what it needs itself, so that every command starts quickly.
"""

import argparse
import sys
from pathlib import Path

from cifar.system.stage import run


def main() -> None:
    arguments = parse(sys.argv[1:])
    match arguments.command:
        case "predict":
            from cifar.results.classified import print_answers

            print_answers(
                arguments.pictures, arguments.model, arguments.top, heatmap=arguments.heatmap, as_json=arguments.json
            )
        case "report":
            from cifar.results.side_by_side import write_page

            write_page(arguments.revisions, arguments.out)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cifar", description="Use the results of the pipeline.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    predict = commands.add_parser("predict", help="classify pictures with the trained network")
    predict.add_argument(
        "pictures", metavar="PICTURE", type=Path, nargs="+", help="a picture file, or a folder of them"
    )
    predict.add_argument("--top", type=_count, default=3, metavar="N", help="classes to name for each (default: 3)")
    predict.add_argument("--heatmap", type=Path, metavar="OUT.png", help="draw where the network looks, with Grad-CAM")
    predict.add_argument("--json", action="store_true", help="print the answers as JSON")
    text = "the folder of the trained network (default: models)"
    predict.add_argument("--model", type=Path, default=Path("models"), metavar="DIR", help=text)
    report = commands.add_parser("report", help="compare runs on one page: metrics, curves, images")
    text = "an experiment, a revision of Git, or `workspace`; the first is compared with each of the others"
    report.add_argument("revisions", metavar="REV", nargs="+", help=f"{text} (one alone: with the workspace)")
    text = "the page, which shows images of the data set and does not belong into Git (default: report/comparison.html)"
    report.add_argument("--out", type=Path, default=Path("report/comparison.html"), metavar="FILE", help=text)
    return parser.parse_args(words)


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) == 0:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
    return int(word)


if __name__ == "__main__":
    run(main, "give the same command again")
