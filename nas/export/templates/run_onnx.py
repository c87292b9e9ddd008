"""Runs the network from text with onnxruntime and numpy: no torch, none of the network's own code.

    python run_onnx.py                          the held-out loss, then a sample
    python run_onnx.py "To be"                  a decoder continues this text
    python run_onnx.py "A cat." "A dog."        an encoder: cosines between the texts, or the class of each
    python run_onnx.py "To b_ or not"           a masked language model fills in a byte for each _

A network that reads the tokens of a pretrained model needs its tokenizer.json and the package tokenizers; others read
bytes. The last line of output is one JSON object with the loss.
"""

import argparse
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
NUMBERS = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(int64)": "i8", "tensor(bool)": "?"}
MASK_BYTE = 256  # the id of a masked byte
PROMPT = "ROMEO:\n"


class Network:
    """An ONNX file of the folder in onnxruntime. Calling it raises ValueError for padding that it can't mask."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.session = onnxruntime.InferenceSession(HERE / name, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        length = next(iter(self.inputs.values())).shape[-1]
        self.length = length if isinstance(length, int) and "input_ids" in self.inputs else None

    def __call__(self, inputs: Any, valid: Any = None) -> Any:
        """Token ids [B, T] or images to outputs; `valid` [B, T] is True at tokens and False at padding."""
        T = inputs.shape[1]
        if (
            self.length is not None and self.length > T
        ):  # padding behind, which does not affect earlier tokens
            valid = np.ones(inputs.shape, bool) if valid is None else valid
            inputs, valid = (np.pad(a, ((0, 0), (0, self.length - T))) for a in (inputs, valid))
        feeds = {next(iter(self.inputs)): inputs}
        if "attention_mask" in self.inputs:
            mask = np.ones(inputs.shape) if valid is None else valid
            feeds["attention_mask"] = mask.astype(np.int64)
        elif valid is not None and not valid.all() and not self.length:
            raise ValueError("this network accepts no padding: give texts of equal length, or one at a time")
        outputs = self.session.run(None, feeds)[0]
        return outputs[:, :T] if outputs.ndim == 3 else outputs

    def first(self, batch_size: int) -> dict[str, Any]:
        """The state before the first token: dynamic lengths are 0, values 0 or those in decode.safetensors."""
        path, past = HERE / "decode.safetensors", {}
        starts = load(path) if path.is_file() else {}
        for name, place in self.inputs.items():
            if name.startswith("past."):
                shape = [batch_size, *(n if isinstance(n, int) else 0 for n in place.shape[1:])]
                start = starts.get(name, np.zeros((), NUMBERS[place.type]))
                past[name] = np.broadcast_to(start, shape)
        return past

    def step(self, ids: Any, length: int, past: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Logits [B, W] and the next state, for the next tokens [B, 1] after `length` previous ones."""
        logits, *present = self.session.run(None, {"input_ids": ids, "past_length": np.array(length)} | past)
        return logits[:, 0], dict(zip(past, present, strict=True))


class Text:
    """Converts text to token ids and back, with the tokenizer of a pretrained model or as bytes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.tokenizer = None
        if config["about"].get("model"):
            if not (HERE / "tokenizer.json").is_file():
                raise ValueError(
                    "the network reads the tokens of a pretrained model: put its tokenizer.json here"
                )
            try:
                from tokenizers import Tokenizer
            except ImportError:
                raise ValueError(
                    "reading text needs the package tokenizers: pip install tokenizers"
                ) from None
            self.tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
            self.tokenizer.no_padding()

    def ids(self, text: str, longest: int) -> list[int]:
        found = list(text.encode()) if self.tokenizer is None else self.tokenizer.encode(text).ids
        return list(found[:longest]) or [10]

    def of(self, ids: list[int]) -> str:
        if self.tokenizer is None:
            return bytes(i for i in ids if i < MASK_BYTE).decode(errors="replace")
        return str(self.tokenizer.decode(ids))

    def batch(self, texts: list[str], longest: int) -> tuple[Any, Any]:
        """Ids [B, T], padded, and their mask [B, T], True at tokens."""
        rows = [self.ids(text, longest) for text in texts]
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for row, found in zip(ids, rows, strict=True):
            row[: len(found)] = found
        return ids, np.arange(ids.shape[1]) < np.array([[len(row)] for row in rows])


def load(path: Path) -> dict[str, Any]:
    """{name: array} of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            part = data[8 + length + begin : 8 + length + end]
            found[name] = np.frombuffer(part, DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def held_out_loss(network: Network, batch_size: int) -> float:
    """Mean cross entropy in nats on the held-out examples; for embeddings the mean of 1 - cosine."""
    held_out = load(HERE / "validation.safetensors")
    total, count = 0.0, 0
    for start in range(0, len(held_out["inputs"]), batch_size):
        some = slice(start, start + batch_size)
        inputs, targets = held_out["inputs"][some], held_out["targets"][some]
        inputs = inputs if inputs.dtype.kind == "f" else inputs.astype(np.int64)
        valid = held_out["valid"][some] if "valid" in held_out else None
        outputs = network(inputs, valid)
        found = losses(outputs, targets, valid)
        total, count = total + float(found.sum()), count + len(found)
    return total / count


def losses(outputs: Any, targets: Any, valid: Any) -> Any:
    """The loss [N] of each target that is neither padding nor ignored (negative)."""
    is_vector = targets.dtype.kind == "f"
    shape = targets.shape[:-1] if is_vector else targets.shape
    counted = np.ones(shape, bool) if valid is None or len(shape) == 1 else valid
    if is_vector:
        ours, theirs = outputs[counted], targets[counted]
        length = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
        return 1 - (ours * theirs).sum(-1) / np.maximum(length, 1e-8)
    counted = counted & (targets.astype(np.int64) >= 0)
    logits, wanted = outputs[counted], targets[counted].astype(np.int64)
    logits = logits - logits.max(-1, keepdims=True)
    return np.log(np.exp(logits).sum(-1, dtype=np.float64)) - logits[np.arange(len(wanted)), wanted]


def generate(
    network: Network, ids: list[int], length: int, temperature: float, seed: int, longest: int
) -> list[int]:
    """Continue `ids` with the decoding step's file or, if there is none, by reading the whole text for each token.

    A network that reads at most `longest` tokens starts from the last ones of `ids`; whenever it is full, it restarts
    from the newer half of its text.
    """
    generator = np.random.default_rng(seed)
    name = network.name.replace("model", "decode")
    step = Network(name) if (HERE / name).is_file() else None
    past: dict[str, Any] = {}
    read, seen, ids = ids[-longest:], 0, list(ids)
    for _ in range(length):
        if step is None:
            logits = network(np.array([ids[-longest:]]))[0, -1]
        else:
            for token in read:
                past = past if seen else step.first(1)
                found, past = step.step(np.array([[token]]), seen, past)
                seen += 1
            logits = found[0]
        scaled = logits.astype(np.float64) / temperature
        weights = np.exp(scaled - scaled.max())
        ids.append(int(generator.choice(len(weights), p=weights / weights.sum())))
        read = ids[-1:]
        if seen >= longest:
            read, seen = ids[-((longest + 1) // 2) :], 0
    return ids


def answer(network: Network, config: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Print the network's outputs for the texts; returns them as a part of the JSON result."""
    arch, text = config["arch"], None
    if "input_ids" not in network.inputs:
        held_out = load(HERE / "validation.safetensors")
        found = int(network(held_out["inputs"][:1])[0].argmax())
        print(f"the first held-out example is of class {int(held_out['targets'][0])}, predicted {found}")
        return {"class": found}
    text, longest = Text(config), network.length or config["max_len"] or sys.maxsize
    if arch["task"] == "causal_lm":
        prompt = (options.text or [PROMPT])[0]
        ids = text.ids(prompt, sys.maxsize)
        ids = generate(network, ids, options.length, options.temperature, options.seed, longest)
        print(text.of(ids))
        return {"text": text.of(ids)}
    texts = options.text or ["To be, or not to be", "To _e"]
    ids, valid = text.batch(texts, longest)
    if arch["task"] == "masked_lm":
        hidden = (ids == ord("_")) & valid
        guesses = network(np.where(hidden, MASK_BYTE, ids), valid).argmax(-1)
        filled = [
            text.of(row[real].tolist())
            for row, real in zip(np.where(hidden, guesses, ids), valid, strict=True)
        ]
        print("\n".join(filled))
        return {"text": filled}
    outputs = network(ids, valid)
    if outputs.ndim == 3:
        print(f"hidden states of shape {outputs.shape}")
        return {"shape": outputs.shape}
    if arch["task"] == "classification":
        print("classes:", outputs.argmax(-1).tolist())
        return {"class": outputs.argmax(-1).tolist()}
    unit = outputs / np.linalg.norm(outputs, axis=-1, keepdims=True)
    print("cosines of the texts:", (unit @ unit.T).round(4).tolist(), sep="\n")
    return {"cosines": (unit @ unit.T).round(6).tolist()}


def main() -> None:
    """Run the command line. Raises ValueError for a --file that is not there."""
    parser = argparse.ArgumentParser(description="Run the extracted network in onnxruntime.")
    parser.add_argument("text", nargs="*", help="text to continue, or texts to read")
    parser.add_argument("--file", default="", help="the file to run, such as model.int8.onnx")
    parser.add_argument("--length", type=int, default=200, help="tokens to generate")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    known = [
        e["file"] for e in config["exports"] if e["file"].startswith("model") and e["file"].endswith(".onnx")
    ]
    if options.file and options.file not in known:
        raise ValueError(f"--file {options.file}: the files here are {', '.join(known)}")
    network = Network(options.file or known[0])
    result = {
        "loss": held_out_loss(network, config["batch_size"]),
        "stated_loss": config["numbers"].get("loss"),
    }
    result |= answer(network, config, options)
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:  # a damaged file, or input that the network does not accept
        sys.exit(f"run_onnx.py: {error}")
