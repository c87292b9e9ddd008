"""A token of a whole network behind a long text: captured once as a CUDA graph, and as its operations one by one.

The graph runs on a state with `max_len`, as long as the text and its room: the same keys in the same memory at each
token. The other runs on a state that grows. Both by the kernels, from the same number of tokens each time.
"""

from __future__ import annotations

from functools import partial

import torch

from predictors.timing import Call
from searchspace.model import Model
from searchspace.primitives.context import State
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from tests.gpu.benchmark import Case
from tests.gpu.comparisons import dtype_of, timed, under

WIDTH, BLOCKS, CONTEXT, ROOM = 512, 8, 4096, 256
WARM_UP = 3  # steps before the capture: kernels are compiled, libraries have their memory


def network(width: int, num_blocks: int, max_len: int) -> ArchSpec:
    head_dim = 64 if width > 64 else 16
    block = BlockSpec(
        plain_attention(width // head_dim, 1, head_dim),
        OpSpec.of("swiglu", d_ff=2 * width),
        OpSpec("rmsnorm"),
    )
    return ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=256, max_len=max_len),
        d_model=width,
        blocks=(block,) * num_blocks,
        stages=(StageSpec(num_blocks, width),),
        head=OpSpec.of("lm_head", vocab_size=256),
        position=OpSpec.of("rope", base=10000, dim=head_dim),
        final_norm=OpSpec("rmsnorm"),
    )


def decoding(device: str, batch_size: int) -> dict[str, Call]:
    width, blocks, context, room = (16, 1, 20, 4) if device == "cpu" else (WIDTH, BLOCKS, CONTEXT, ROOM)
    model = Model(network(width, blocks, context + room)).eval().to(device, dtype_of(device))
    text = torch.randint(256, (batch_size, context), device=device)

    def read(state: State) -> State:
        with torch.no_grad():
            return model(text, state=state)[1]

    def step(state: State) -> torch.Tensor:
        return model(text[:, :1], state=state)[0]

    fixed, growing = (read(model.init_state(batch_size, max_len=n)) for n in (context + room, None))
    one_by_one = timed(under("triton", partial(step, growing)), (), "decode")
    on_fixed = timed(under("triton", partial(step, fixed)), (), "decode")
    return {"triton": captured(on_fixed) if device == "cuda" else on_fixed, "one by one": one_by_one}


def captured(call: Call) -> Call:
    """The replay of what one call does on the device."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


CASES = tuple(Case(f"network batch {n}", "decode", partial(decoding, batch_size=n)) for n in (1, 16))
