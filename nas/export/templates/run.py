"""Runs the extracted network with torch only: computes its loss, then continues or fills in a text or predicts a class.

A network that reads the tokens of a pretrained model, not bytes, needs that model's tokenizer for text.

    python run.py                      the held-out loss, then a sample
    python run.py --prompt "To be"     continue this text
    python run.py --compiled           use model.aoti.pt2, machine code for the kind of processor that compiled it

The last line of output is one JSON object with the loss. From Python, load this file by its path (`importlib.util`,
`spec_from_file_location`, under any name) and call `load_model()`; several folders may be loaded in one process.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
COMPILED = HERE / "model.aoti.pt2"
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")

import torch  # noqa: E402


def package() -> str:
    """The name under which `network/` is imported: a hash of its content, so that folders do not conflict."""
    digest = hashlib.sha256()
    for path in sorted((HERE / "network").rglob("*.py")):
        digest.update(path.read_bytes())
    name = f"network_{digest.hexdigest()[:12]}"
    if name not in sys.modules:
        start = HERE / "network" / "__init__.py"
        spec = importlib.util.spec_from_file_location(
            name, start, submodule_search_locations=[str(start.parent)]
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
    return name


def module(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


PACKAGE = package()
ArchSpec, Model, Tokens = (
    getattr(module(place), name)
    for place, name in (("spec.arch", "ArchSpec"), ("model", "Model"), ("primitives.context", "Tokens"))
)
weights = module("weights")


def load_model() -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network in evaluation mode and its config. Raises ValueError if a file is damaged."""
    config = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    arch = ArchSpec.from_json(config["arch"])
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Model(arch).state_dict().items()}
    tensors = weights.fitting(weights.load(HERE / "model.safetensors"), shapes)
    return Model.from_weights(arch, tensors, config["progress"]).eval(), config


class Compiled(torch.nn.Module):
    """The network compiled by AOTInductor, for whole sequences: its decoding state is the text so far.

    Raises ValueError if the folder has no such file.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        found = [e for e in config["exports"] if e["format"] == "aotinductor"]
        if not found or not COMPILED.is_file():
            raise ValueError("--compiled: no compiled network is here; extract it with --format aotinductor")
        self.length, self.takes_mask = found[0]["length"], len(found[0]["inputs"]) > 1
        self.max_len = self.length or config["max_len"]
        self.network = torch._inductor.aoti_load_package(str(COMPILED))

    def init_state(self, batch_size: int) -> dict[str, Any]:
        return {"ids": torch.empty(batch_size, 0, dtype=torch.long), "num_tokens": 0}

    def forward(
        self, inputs: torch.Tensor, tokens: Any = None, state: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Outputs [B, T, W] or [B, W] for ids [B, T] or images, and the next state; a state's text is continued."""
        whole = inputs if state is None else torch.cat((state["ids"], inputs), 1)
        outputs = self.of_whole(whole, None if tokens is None else tokens.valid)
        kept = {} if state is None else {"ids": whole, "num_tokens": whole.shape[1]}
        return (outputs if state is None else outputs[:, -inputs.shape[1] :]), kept

    def of_whole(self, inputs: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Outputs [B, T, W] or [B, W] for whole inputs [B, T]. Raises ValueError for padding that it can't mask."""
        given, T = [inputs], inputs.shape[1]
        if self.takes_mask:
            given.append((torch.ones_like(inputs) if valid is None else valid).long())
        elif valid is not None and not valid.all() and not self.length:
            raise ValueError("the compiled network takes no padding; run without --compiled")
        if self.length:  # padding behind, which does not affect earlier tokens
            given = [torch.nn.functional.pad(t, (0, self.length - T)) for t in given]
        outputs: torch.Tensor = self.network(*given)
        return outputs[:, :T] if outputs.dim() == 3 else outputs

    def decoded(self, inputs: torch.Tensor, tokens: Any = None) -> torch.Tensor:
        """Outputs [B, T, W] or [B, W] for inputs [B, T]."""
        return self(inputs, tokens)[0]


@torch.inference_mode()
def held_out_loss(model: torch.nn.Module, batch_size: int) -> float:
    """Mean cross entropy in nats on the held-out examples; for embeddings the mean of 1 - cosine."""
    held_out = weights.load(HERE / "validation.safetensors")
    inputs = held_out["inputs"] if held_out["inputs"].is_floating_point() else held_out["inputs"].long()
    total, count = 0.0, 0
    for start in range(0, len(inputs), batch_size):
        some = slice(start, start + batch_size)
        valid = held_out["valid"][some] if "valid" in held_out else None
        outputs = model.decoded(inputs[some], Tokens(valid=valid)).float()
        found = losses(outputs, held_out["targets"][some], valid)
        total, count = total + found.sum().item(), count + len(found)
    return total / count


def losses(outputs: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """The loss [N] of each target that is neither padding nor ignored (negative)."""
    shape = targets.shape[:-1] if targets.is_floating_point() else targets.shape
    counted = torch.ones(shape, dtype=torch.bool) if valid is None or len(shape) == 1 else valid
    if targets.is_floating_point():
        return 1 - torch.nn.functional.cosine_similarity(outputs[counted], targets[counted], dim=-1)
    counted = counted & (targets >= 0)
    return torch.nn.functional.cross_entropy(outputs[counted], targets[counted].long(), reduction="none")


@torch.inference_mode()
def generate(model: torch.nn.Module, prompt: str, length: int, temperature: float, seed: int) -> str:
    """Continue `prompt` byte by byte with the decoding state of each layer.

    A network that reads at most `max_len` tokens starts from the last ones of the prompt; whenever it is full, it
    restarts from the newer half of its text.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt.encode() or b"\n")
    longest = model.max_len or len(ids) + length
    logits, state = model(torch.tensor([ids[-longest:]]), state=model.init_state(batch_size=1))
    for _ in range(length):
        probabilities = (logits[0, -1].float() / temperature).softmax(-1)
        ids.append(int(torch.multinomial(probabilities, 1, generator=generator)))
        if state["num_tokens"] < longest:
            logits, state = model(torch.tensor([ids[-1:]]), state=state)
        else:
            newer = ids[-((longest + 1) // 2) :]
            logits, state = model(torch.tensor([newer]), state=model.init_state(batch_size=1))
    return bytes(ids).decode(errors="replace")


@torch.inference_mode()
def fill_in(model: torch.nn.Module) -> str:
    """The first held-out text, with the network's prediction in square brackets at each masked byte."""
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
    parser.add_argument("--compiled", action="store_true", help="use the compiled network, model.aoti.pt2")
    options = parser.parse_args()
    model, config = load_model()
    model = Compiled(config) if options.compiled else model
    result = {
        "loss": held_out_loss(model, config["batch_size"]),
        "stated_loss": config["numbers"].get("loss"),
    }
    task, reads_bytes = config["arch"]["task"], not config["about"].get("model")
    if not reads_bytes:
        print(
            "the network reads the tokens of a pretrained model; to run it on text, use that model's tokenizer"
        )
    elif task == "causal_lm":
        result["text"] = generate(model, options.prompt, options.length, options.temperature, options.seed)
        print(result["text"])
    elif task == "masked_lm":
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
    try:
        main()
    except ValueError as error:  # a damaged file, or input that the network does not accept
        sys.exit(f"run.py: {error}")
