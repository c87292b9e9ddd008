"""`make bench`: how fast the parts of a search are on this machine, with spreads and trivial baselines.

python -m tests.benchmarks [--only NAME] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from nas.provenance import provenance
from predictors.device import device_name, software
from tests.benchmarks import (
    agreement,
    busy,
    engine,
    growth,
    imports,
    judge,
    latency,
    linearize,
    matformer,
    minilm,
    minilm_worth,
    mixers,
    proof,
    proxies,
    quantization,
    ray_efficiency,
    replay,
    roofline,
    runtime,
    runtime_search,
    search,
    service,
    simq,
    sizes,
    spaces,
    stability,
    supernet,
)
from tests.benchmarks.rows import Row, show

BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "spaces": spaces.run,
    "supernet": supernet.run,
    "engine": engine.run,
    "engine-large": engine.run_large,
    "ray": ray_efficiency.run,
    "busy": busy.run,
    "imports": imports.run,
    "latency": latency.run,
    "roofline": roofline.run,
    "onnxruntime": runtime.run,
    "runtime-search": runtime_search.run,
    "growth": growth.run,
    "mixers": mixers.run,
    "proof": proof.run,
    "judge": judge.run,
    "replay": replay.run,
    "proxies": proxies.run,
    "search": search.run,
    "linearize": linearize.run,
    "matformer": matformer.run,
    "minilm": minilm_worth.run,
    "minilm-ffn": minilm.run,
    "quantization": quantization.run,
    "quantization-minilm": quantization.run_minilm,
    "simq": simq.run,
    "sizes": sizes.run,
    "sizes-large": sizes.run_large,
    "agreement": agreement.run,
    "service": service.run,
    "stability": stability.run,
}
LONG = (
    "engine-large",
    "busy",
    "mixers",
    "onnxruntime",
    "runtime-search",
    "search",
    "linearize",
    "matformer",
    "minilm",
    "minilm-ffn",
    "proof",
    "quantization-minilm",
    "simq",
    "sizes",
    "sizes-large",
    "agreement",
    "service",
    "stability",
)  # take half an hour or more: run only on request


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--only", choices=list(BENCHMARKS), action="append", help=f"default all but {', '.join(LONG)}"
    )
    options.add_argument("--out", type=Path, help="also write the rows as JSON")
    chosen = options.parse_args()
    machine = f"{device_name('cpu')}; {software()}; numpy {np.__version__}; {datetime.now(UTC):%Y-%m-%d}"
    print(machine)
    rows: list[Row] = []
    for name in chosen.only or [n for n in BENCHMARKS if n not in LONG]:
        found = BENCHMARKS[name]()
        rows += found
        show(found)
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(
            json.dumps({"machine": machine, **provenance(), "rows": [vars(r) for r in rows]}, indent=2) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
