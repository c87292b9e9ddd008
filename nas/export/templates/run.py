"""Runs the extracted network with torch alone: checks its loss, then continues or fills in a text or names a class.

    python run.py                      the held-out loss, then a sample
    python run.py --prompt "To be"     continue this text

The last line of output is one JSON object with the loss.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")

import torch  # noqa: E402
import weights  # noqa: E402
from network.model import Model  # noqa: E402
from network.spec.arch import ArchSpec  # noqa: E402


def load_model() -> tuple[Model, dict[str, Any]]:
    """The network and its config, ready to predict."""
    config = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    model = Model.from_weights(ArchSpec.from_json(config["arch"]), weights.load(HERE / "model.safetensors"))
    return model.eval(), config


@torch.inference_mode()
def held_out_loss(model: Model, batch_size: int) -> float:
    """Mean cross entropy in nats on the examples beside the model."""
    held_out = weights.load(HERE / "validation.safetensors")
    inputs, targets = held_out["inputs"], held_out["targets"].long()
    inputs = inputs if inputs.is_floating_point() else inputs.long()
    total, count = 0.0, 0
    for start in range(0, len(inputs), batch_size):
        logits = model(inputs[start : start + batch_size])[0].flatten(0, -2).float()
        wanted = targets[start : start + batch_size].flatten()
        total += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        count += int((wanted >= 0).sum())  # cross entropy leaves out targets below 0
    return total / count


@torch.inference_mode()
def generate(model: Model, prompt: str, length: int, temperature: float, seed: int) -> str:
    """Continue `prompt` byte by byte with the decoding state of each layer."""
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt.encode() or b"\n")
    if model.arch.position.op == "learned":  # there is no position beyond the longest trained sequence
        length = min(length, model.arch.stem["max_len"] - len(ids))
    state = model.init_state(batch_size=1)
    logits, state = model(torch.tensor([ids]), state=state)
    for _ in range(length):
        probabilities = (logits[0, -1].float() / temperature).softmax(-1)
        ids.append(int(torch.multinomial(probabilities, 1, generator=generator)))
        logits, state = model(torch.tensor([ids[-1:]]), state=state)
    return bytes(ids).decode(errors="replace")


@torch.inference_mode()
def fill_in(model: Model) -> str:
    """The first held-out text with the network's guess in square brackets at each place that it had to fill in."""
    held_out = weights.load(HERE / "validation.safetensors")
    inputs, targets = held_out["inputs"][0].long(), held_out["targets"][0]
    guesses = model(inputs.unsqueeze(0))[0][0].argmax(-1)
    pieces = [
        b"[%c]" % int(guess) if target >= 0 else bytes([int(seen)])
        for seen, target, guess in zip(inputs, targets, guesses, strict=True)
    ]
    return b"".join(pieces).decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the extracted network.")
    parser.add_argument("--prompt", default="ROMEO:\n", help="text to continue")
    parser.add_argument("--length", type=int, default=200, help="bytes to generate")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, config = load_model()
    result = {
        "loss": held_out_loss(model, config["batch_size"]),
        "stated_loss": config["numbers"].get("loss"),
    }
    if config["arch"]["task"] == "causal_lm":
        result["text"] = generate(model, options.prompt, options.length, options.temperature, options.seed)
        print(result["text"])
    elif config["arch"]["task"] == "masked_lm":
        result["text"] = fill_in(model)
        print(result["text"])
    else:
        held_out = weights.load(HERE / "validation.safetensors")
        with torch.inference_mode():
            result["class"] = int(model(held_out["inputs"][:1])[0].argmax())
        print(
            f"the first held-out example is of class {int(held_out['targets'][0])}, predicted {result['class']}"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
