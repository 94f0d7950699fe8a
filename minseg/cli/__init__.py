"""The command ``minseg``: its parser, and what becomes of errors.

Each subcommand is a module with ``add_parser`` and ``run``, imported only when it, or help on all
of them, is asked for. Modules of this package import what is slow to import only when they need
it, so that ``minseg --help`` answers at once.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import minseg
from minseg.errors import MinsegError

EPILOG = """\
examples:
  minseg demo                                  segments a generated street scene
  minseg run model.onnx street.png             writes street_overlay.png
  minseg run model.onnx photos/ -o out/ --save overlay,mask
  minseg info model.onnx
  minseg check model.onnx street.png
  minseg profile model.onnx
  minseg bench model.onnx --vs onnxruntime,openvino
  minseg warmup model.onnx                     compiles ahead of the first run
  minseg prune model.onnx --sparsity 0.6 -o pruned.onnx
  minseg fetch unet-camvid-onnx-0001
  minseg eval model.onnx CamVid/ --split test
  minseg quantize model.onnx -o int8.onnx --calibration photos/ --per-channel

'minseg COMMAND --help' tells more.
"""

#: The subcommands, which are modules of this package, in the order that help lists them.
COMMANDS = (
    *("run", "info", "check", "profile", "bench", "eval"),
    *("convert", "prune", "quantize"),
    *("models", "fetch", "warmup", "demo"),
)

#: Objects made between two searches for garbage: imports make tens of thousands, and none of it is.
GARBAGE_SEARCH = 50_000

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like every other error of minseg."""

    def error(self, message: str) -> NoReturn:
        print(f"minseg: error: {message} (see '{self.prog} --help')", file=sys.stderr)
        raise SystemExit(USER_ERROR)


class CommandParser(Parser):
    """A subcommand's parser, which takes options and positionals in any order.

    argparse gives all positionals it can to the first words that are none of an option's, so that
    an optional one before further words is lost.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        has_subcommands = any(action.nargs == argparse.PARSER for action in self._actions)
        return super().parse_known_args(
            words if has_subcommands else self._options_first(words), namespace
        )

    def _options_first(self, words: Sequence[str]) -> list[str]:
        with_value = {
            name for action in self._actions if action.nargs != 0 for name in action.option_strings
        }
        options, positionals, rest = [], [], iter(words)
        for word in rest:
            if word == "--":
                positionals += [word, *rest]
            elif not word.startswith("-") or word == "-":
                positionals.append(word)
            elif word not in with_value:
                options.append(word)
            elif (value := next(rest, None)) is not None:
                options += [word, value]
            else:
                positionals.append(word)  # stays the last word: its value is missing
        return [*options, *positionals]


def build_parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of the whole command line, or of only some subcommands."""
    parser = Parser(
        prog="minseg",
        description="Runs ONNX segmentation models on a CPU: a model and a picture in, "
        "a labelled picture out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"minseg {minseg.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for name in names:
        import_module(f"minseg.cli.{name}").add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0: done; 1: a check found differences; 2: bad input, told in one sentence; 130: interrupted.
    """
    gc.set_threshold(GARBAGE_SEARCH)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names and signs any terminal can show
    try:
        words = sys.argv[1:] if argv is None else argv
        named = [name for name in words[:1] if name in COMMANDS]
        arguments = build_parser(named or COMMANDS).parse_args(words)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse, after --help, --version or a complaint
        return stop.code if isinstance(stop.code, int) else 0
    except MinsegError as error:
        return _complain(str(error))
    except MemoryError:
        return _complain("there is not enough memory")
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(message: str) -> int:
    print(f"minseg: error: {message}", file=sys.stderr)
    return USER_ERROR


def _silence_stdout() -> None:
    """Nobody reads any more: what is left in the buffer must not raise again on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
