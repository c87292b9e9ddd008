"""Options of `nas extract`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_STEPS, Commands, add_folder, add_kernels, add_study, command, count

FORMATS_HELP = (
    "a further form of it in the folder, proven equal and timed: onnx, torch-export, or transformers where every "
    "block is a Llama's; may be repeated"
)


def add(commands: Commands) -> None:
    c = command(
        commands, "extract", "extract:extract", "Cut a network out of a study as a folder that runs alone."
    )
    add_study(c)
    c.add_argument("--knee", action="store_true", help="the balanced one of the front")
    c.add_argument("--trial", type=count(), default=None, metavar="N", help="one trial by its number")
    c.add_argument(
        "--max",
        action="append",
        default=[],
        metavar="Q=V",
        help="the best whose objective Q is at most V, in the unit of `nas front`; may be repeated",
    )
    c.add_argument("--min", action="append", default=[], metavar="Q=V", help="the same, at least V")
    c.add_argument("--format", action="append", default=[], metavar="NAME", help=FORMATS_HELP)
    c.add_argument(
        "--finetune",
        type=count(1, MOST_STEPS),
        default=None,
        metavar="STEPS",
        help="train it on, with the largest network of the supernet as teacher",
    )
    add_kernels(c, default="")
    add_folder(c)
