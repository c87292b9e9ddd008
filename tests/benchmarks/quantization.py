"""Linear maps in every real format of this device, compared with float32 and bfloat16 in one run; errors on MiniLM.

For each shape [M, K] x [K, N]: the median of each format's time over that of bfloat16 weights and activations, both in
a float32 network including casts, with p10 and p90 of the ratio. A format has to be at or below 1 wherever
`why_not_offered` offers it; `pays_from` is the number of outputs from which it was, per number of tokens, which that
rule should state. Runs on one thread of a CPU, or on a GPU where there is one, with the project's and torch's kernels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.machine import measuring
from nas.provenance import provenance
from predictors.network_bench import reference_call
from predictors.timing import num_threads, time_interleaved
from searchspace.model import Model
from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.number_formats import dequantize_groups, quantize_groups
from searchspace.primitives.quantized_linear import implementation, real_formats, why_not_offered
from searchspace.quantization.apply import apply_policy
from searchspace.spec.arch import Format, QuantPolicy
from tests.benchmarks import minilm
from tests.benchmarks.rows import Row

RESULTS = Path("studies/results/quantization")
SIZES = [(64, 64), (64, 256), (256, 64), (128, 512), (256, 256), (384, 384), (384, 1536), (1536, 384)]
SIZES += [(768, 768), (768, 3072)]
TOKENS = (1, 8, 32, 128, 512)
SAMPLES, SECONDS = 25, 6.0


def run() -> list[Row]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lines: list[dict[str, Any]] = []
    for num_tokens in TOKENS:
        for K, N in SIZES:
            here = measured(num_tokens, K, N, device)
            lines += here
            print(f"{num_tokens} x {K} -> {N}:", *map(_shown, here), flush=True)
    by_format = {name: [x for x in lines if x["format"] == name] for name in real_formats(device, 1)}
    by_format |= {
        name: [x for x in lines if x["format"] == name] for name in real_formats(device, TOKENS[-1])
    }
    found = {name: summary(of_format) for name, of_format in by_format.items() if name != "bf16"}
    about = {
        **provenance(device),
        "threads": 1,
        "what": "activations and results in float32; bf16 and native (float32) are the baselines; us of one call",
        "formats": found,
        "lines": lines,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{device}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    worst = {name: v["worst_where_offered"] for name, v in found.items() if v["offered_at"]}
    return [
        Row(
            f"{name}: slowest over bf16 of {found[name]['offered_at']} shapes where offered",
            w["median"],
            w["p10"],
            w["p90"],
            "of its time",
            "1 or less",
            f"at all {found[name]['shapes']} shapes {found[name]['worst']}",
        )
        for name, w in worst.items()
    ]


def _shown(line: dict[str, Any]) -> str:
    r = line["over_bf16"]
    return (
        f"{line['format']}{'' if line['offered'] else ' (not offered)'} {r['median']} [{r['p10']}-{r['p90']}]"
    )


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the lines of one format."""

    def ratio(line: dict[str, Any]) -> float:
        return float(line["over_bf16"]["median"])

    offered = [x for x in lines if x["offered"]]
    return {
        "shapes": len(lines),
        "as_fast_as_bf16_at": sum(ratio(x) <= 1 for x in lines),
        "best": min(map(ratio, lines)),
        "worst": max(map(ratio, lines)),
        "pays_from": {M: _pays_from([x for x in lines if x["shape"][0] == M]) for M in TOKENS},
        "offered_at": len(offered),
        "offered_and_as_fast_as_bf16_at": sum(ratio(x) <= 1 for x in offered),
        "worst_where_offered": max(offered, key=ratio)["over_bf16"] if offered else None,
    }


def _pays_from(lines: list[dict[str, Any]]) -> int | None:
    """The least number of outputs from which no shape was slower than in bf16; None where the widest one was."""
    slower = max((x["shape"][2] for x in lines if x["over_bf16"]["median"] > 1), default=0)
    return min((x["shape"][2] for x in lines if x["shape"][2] > slower), default=None)


def measured(num_tokens: int, K: int, N: int, device: str) -> list[dict[str, Any]]:
    """Time every format, bf16 included, in one run, so that all find their weights equally cold in the cache."""
    x = torch.randn(num_tokens, K, generator=torch.Generator().manual_seed(0)).to(device)
    names = list(dict.fromkeys(["native", "bf16", *real_formats(device, num_tokens)]))
    calls: dict[str, Callable[[], Tensor]] = {name: partial(_linear(name, K, N, device), x) for name in names}
    with num_threads(1), measuring(device):
        timings = time_interleaved(
            calls, reference_call(device), device=device, samples=SAMPLES, seconds=SECONDS
        )
    bf16 = timings["bf16"].ratio
    return [
        {
            "shape": [num_tokens, K, N],
            "format": name,
            "implementation": _implementation(name, device, num_tokens, N),
            "offered": name == "native" or why_not_offered(Format.of(name), device, num_tokens, N) is None,
            "us": round(1000 * t.median_ms, 1),
            "over_bf16": {
                "median": round(t.ratio / bf16, 3),
                "p10": round(t.ratio_p10 / bf16, 3),
                "p90": round(t.ratio_p90 / bf16, 3),
            },
            "samples": t.samples,
        }
        for name, t in timings.items()
    ]


def _linear(name: str, K: int, N: int, device: str) -> torch.nn.Module:
    policy = QuantPolicy(() if name == "native" else (("up", Format.of(name)),))
    part = BuildContext(K, quant=policy).linear("up", Axis.of(F=N), Axis.of(D=K))
    return part.to(device).eval()


def _implementation(name: str, device: str, *shape: int) -> str:
    """The implementation used for this number of tokens and outputs."""
    known = {"native": "float32", "bf16": "bfloat16"}
    return known.get(name) or implementation(Format.of(name), device, *shape).name


# quality on a pretrained encoder

QUALITY = ["bf16", "int8_dynamic", "int8_static", "int4", "int4_g32", "int4_gptq", "bct", "fp8"]
TWEETS, CALIBRATION = 200, 32


def run_minilm() -> list[Row]:
    """Return the mean cosine of tweet embeddings with MiniLM's 36 linear maps in one format to the original ones."""
    network = minilm.model().model().requires_grad_(False)
    minilm.RATED = TWEETS
    batch = minilm.task().batch(0, CALIBRATION, 1)
    calibration = [(batch.inputs, Tokens(valid=batch.valid))]
    whole, found = embedded(network), {}
    for name in QUALITY:
        quant = QuantPolicy(
            tuple((role, Format.of(name)) for role in sorted(("q", "k", "v", "o", "up", "down")))
        )
        arch = replace(network.arch, blocks=tuple(replace(b, quant=quant) for b in network.arch.blocks))
        found[name] = cosines(embedded(apply_policy(network, arch, calibration)), whole)
    for bits in (4, 3, 2):
        found[f"int{bits} by row"] = cosines(embedded(by_row(network, bits)), whole)
        print(found, flush=True)
    about = {
        "model": minilm.PACKAGE,
        "texts": f"{TWEETS} tweets of vaderSentiment 3.3.2; calibrated on {CALIBRATION} others",
        **provenance(),
        "cosine": found,
    }
    (RESULTS / "minilm.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return [
        Row(f"MiniLM in {name}: cosine", v["mean"], v["p10"], v["p90"], "to the whole model's", "", "1")
        for name, v in found.items()
    ]


@torch.inference_mode()
def embedded(network: Model) -> Tensor:
    """Return embeddings [TWEETS, D], computed one by one in float32 so that only the format differs."""
    return torch.cat([network(torch.tensor([ids]))[0] for ids in minilm.rated_tokens()])


def by_row(network: Model, bits: int) -> Model:
    """Return the network with block weights rounded with a scale and an offset per row."""
    weights = dict(network.state_dict())
    for name, w in weights.items():
        if name.startswith("blocks.") and w.dim() == 2:
            weights[name] = dequantize_groups(*quantize_groups(w, w.shape[1], bits), bits)
    return Model.from_weights(network.arch, weights).eval()


def cosines(embeddings: Tensor, whole: Tensor) -> dict[str, float]:
    """Return mean, p10 and p90 of the cosines between `embeddings` and `whole`, both [n, D]."""
    found = F.cosine_similarity(embeddings, whole, dim=-1)
    p10, p90 = torch.quantile(found, torch.tensor([0.1, 0.9])).tolist()
    return {"mean": round(float(found.mean()), 4), "p10": round(p10, 4), "p90": round(p90, 4)}
