"""`nas import`."""

from __future__ import annotations

import argparse
import json

from nas.cli.display import table
from nas.importing.load import import_model
from searchspace.spec.genome import Encoding


def import_pretrained(options: argparse.Namespace) -> int:
    model, notes = import_model(options.path, options.out, options.overwrite)
    parameters = sum(tensor.numel() for tensor in model.tensors.values())
    networks = Encoding(model.space).size()
    if options.json:
        about = {"folder": options.out, "parameters": parameters, "networks": networks, "notes": notes}
        print(json.dumps(about | {"arch": model.arch.to_json()}))
        return 0
    arch, block = model.arch, model.arch.blocks[0]
    rows = [
        ("task", arch.task),
        ("parameters", f"{parameters:,}"),
        (
            "blocks",
            f"{len(arch.blocks)} of {block.mixer.op} and {block.ffn.op}, run {arch.stages[0].repeats} times",
        ),
        ("width", f"{arch.stages[0].d_model}"),
        ("head", str(arch.head)),
        ("networks in space.toml", f"{networks:.3g}"),
        ("tokenizer", "tokenizer.json" if model.tokenizer_path else "none"),
    ]
    table(("of the model", ""), rows)
    for note in notes:
        print(note)
    print(f"search it: nas search --model {options.out}")
    return 0
