"""The commands that use what the pipeline has made: `python -m cifar --help`."""

import sys
from importlib import import_module

COMMANDS = {"report": "compare runs on one page: metrics, curves and the images that only one gets right"}


def main(words: list[str]) -> None:
    """Call the command that the first word names: a module of cifar.commands, which is imported only now."""
    if words[:1] and words[0] in COMMANDS:
        import_module(f"cifar.commands.{words[0]}").main(words[1:])
    elif words[:1] in (["-h"], ["--help"]):
        print(usage())
    else:
        said = f"there is no command {words[0]!r}" if words else "a command is missing"
        sys.exit(f"{usage()}\n\nerror: {said}; choose from {', '.join(COMMANDS)}")


def usage() -> str:
    lines = [f"  {name:9}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: python -m cifar COMMAND …", "", *lines, "", "`python -m cifar COMMAND --help` says more."]
    )


if __name__ == "__main__":
    main(sys.argv[1:])
