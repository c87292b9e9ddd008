"""Options of `nas linearize`."""

from __future__ import annotations

from nas.cli.parsers.base import MOST_STEPS, Commands, add_folder, command, count


def add(commands: Commands) -> None:
    c = command(
        commands,
        "linearize",
        "linearize:linearize",
        "Replace a network's softmax attention by attention whose time is linear in sequence length.",
        db=False,
    )
    c.add_argument("model", metavar="MODEL", help="a folder of `nas extract` or of `nas import`")
    c.add_argument(
        "--layers", default="all", metavar="0,2", help="layers to replace; default all that can be"
    )
    c.add_argument(
        "--route",
        default="lolcats",
        help="hedgehog: learned feature maps; lolcats: learned feature maps with a softmax window; liger: a gated "
        "recurrence with a softmax window, without attention transfer; gated-delta, kda: the delta rule with decays, "
        "without a window; mamba2: a state space model, without a window; default lolcats",
    )
    c.add_argument(
        "--window",
        type=count(1, MOST_STEPS),
        metavar="TOKENS",
        help="size of the softmax window; default 64, or a quarter of the longest sequence if that is less",
    )
    c.add_argument(
        "--transfer-steps",
        type=count(0, MOST_STEPS),
        default=300,
        metavar="N",
        help="steps of attention transfer; default 300",
    )
    c.add_argument(
        "--recovery-steps",
        type=count(0, MOST_STEPS),
        default=300,
        metavar="N",
        help="steps of low-rank training; default 300",
    )
    c.add_argument("--data", help="text for training and evaluation; default the network's own")
    add_folder(c)
