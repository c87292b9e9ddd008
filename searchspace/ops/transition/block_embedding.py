"""Block embedding: a stage on blocks of L tokens, whose outputs are added to the tokens of the next block.

    enter      e_0 = a learned start          e_b = W_E [x_(b-1)L; ...; x_bL-1]        the tokens of block b - 1
    way back   x_t + the part for place t mod L of W_O y_b,  b = floor(t / L)           y the stage's output

Ho et al., "Block Transformer: Global-to-Local Language Modeling for Fast Inference", arXiv:2406.02657. A token only
receives blocks that ended before its own began, so a causal stage keeps the network causal; the stage computes and
caches one entry per L tokens. The published form embeds blocks from token embeddings alone and passes y to its token
decoder as a prefix; here any stages may come before and after, and y is added (its "summation"). With
block_local_attention of window L after it, no layer on tokens sees beyond its block. Padding is 0 in a block.
Shapes: x [B, T, D], e and y [B, ceil(T / L), D']. A decoder keeps the tokens of the incomplete block, and the outputs
to add to the rest of the block's tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, fan_in
from searchspace.primitives.context import BuildContext, Layout, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

Entered = tuple[Tensor, Tokens, State]


class BlockEmbedding(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.block_len = spec["block_len"]
        block, after = Axis.of(L=self.block_len, D=context.d_model), Axis.of(D=context.d_next)
        self.d_model = context.d_model
        self.declare("start", (after,), fan_in())
        self.block_proj = context.linear("block", after, block)

    def forward(self, x: Tensor, tokens: Tokens, saved: State | None = None) -> Entered:
        """x [B, T, D] -> entries [B, n, D'] of the n blocks that begin, and the tokens for the way back.

        `saved` is the decoding state; the returned one also has x and its facts.
        """
        L, before = self.block_len, saved["num_tokens"] if saved else 0
        first, end = -(-before // L), -(-(before + x.shape[1]) // L)
        real = tokens.without_padding(x)
        filling = torch.cat((saved["filling"], real), 1) if saved else real
        count = end - max(first, 1)  # complete blocks that are followed by a token
        entries = self.block_proj(filling[:, : count * L].reshape(x.shape[0], count, L * x.shape[-1]))
        if first == 0:
            entries = torch.cat((self.start.expand(x.shape[0], 1, -1), entries), 1)
        kept: State = {"x": x, "tokens": tokens}
        if saved is not None:
            kept |= saved | {"filling": filling[:, count * L :].clone(), "num_tokens": before + x.shape[1]}
        return entries, self.of_blocks(tokens, torch.arange(first, end, device=x.device) * L - before), kept

    def of_blocks(self, tokens: Tokens, firsts: Tensor) -> Tokens:
        """Facts about the entries that begin at the places `firsts` [n] of x."""
        positions, rotary = tokens.positions, tokens.rotary
        return Tokens(
            positions=None if positions is None else positions[..., firsts] // self.block_len,
            rotary=None if rotary is None else (rotary[0][..., firsts, :], rotary[1][..., firsts, :]),
            progress=tokens.progress,
        )

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        nothing = torch.empty(batch_size, 0, self.d_model, device=device, dtype=dtype)
        return {"filling": nothing, "rest": nothing, "num_tokens": 0}


class BlockExpansion(AxisModule):
    """The way back: adds to every token of a block its part of the block's output.

    Without `saved`, as when run alone, the tokens are 0.
    """

    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        block = Axis.of(L=spec["block_len"], D=context.d_next)
        self.d_next = context.d_next
        self.expand_proj = context.linear("expand", block, Axis.of(D=context.d_model))

    def forward(
        self, y: Tensor, tokens: Tokens, saved: State | None = None
    ) -> tuple[Tensor, Tokens, State | None]:
        """y [B, n, D'] -> x plus its parts [B, T, D], the facts of x, and the decoding state."""
        parts = self.expand_proj(y).reshape(y.shape[0], -1, self.d_next)
        if saved is None:
            return parts, tokens, None
        x, before = saved["x"], saved["tokens"]
        if "rest" not in saved:
            return x + parts[:, : x.shape[1]], before, None
        parts = torch.cat((saved["rest"], parts), 1)
        state = {name: saved[name] for name in ("filling", "num_tokens")}
        return x + parts[:, : x.shape[1]], before, state | {"rest": parts[:, x.shape[1] :].clone()}


def reference(module: BlockEmbedding, x: Tensor, tokens: Tokens) -> Tensor:
    """Block by block, with the matrix columns of each place. x [B, T, D] -> entries [B, ceil(T / L), D']."""
    B, T, D = x.shape
    entries = [module.start.expand(B, -1)]
    for first in range(0, T - module.block_len, module.block_len):
        entry = torch.zeros_like(entries[0])
        for place in range(module.block_len):
            columns = module.block_proj.weight[:, place * D : (place + 1) * D]
            entry = entry + (x[:, first + place].unsqueeze(1) * columns).sum(-1)
        entries.append(entry)
    return torch.stack(entries, 1)


def layout(spec: OpSpec, before: Layout) -> Layout:
    return Layout(-(-before.max_len // spec["block_len"]), stride=before.stride * spec["block_len"])


def flops(module: BlockEmbedding, T: int, S: int) -> int:
    """Return the FLOPs, exact for a whole sequence; later tokens count an equal share, whether or not a block ends."""
    if T < S:
        return 2 * T * module.block_proj.weight.numel() // module.block_len
    return 2 * (-(-T // module.block_len) - 1) * module.block_proj.weight.numel()


def state_bytes(module: BlockEmbedding, context_len: int, bytes_per_value: int) -> int:
    """Return the bytes of both ends: the block's tokens so far, and the outputs for its remaining tokens."""
    return module.block_len * module.d_model * bytes_per_value if context_len else 0


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if context.layout.max_len <= spec["block_len"]:
        return f"block_embedding: a block of {spec['block_len']} is no less than the {context.layout.max_len} tokens"
    return None


CHOICES = {"block_len": (2, 4, 8)}
PAPER = "Block Transformer, Ho et al. 2024, arXiv:2406.02657"

OPERATOR = Operator(
    name="block_embedding",
    slot="transition",
    paper=PAPER,
    build=BlockEmbedding,
    reference=reference,
    choices=CHOICES,
    layout=layout,
    flops=flops,
    counts_projections=True,
    state_bytes=state_bytes,
    why_invalid=why_invalid,
    bidirectional=False,
    catalogue=(84,),
    complexity="T D D'",
    state="L D",
)
WAY_BACK = Operator(
    name="block_embedding",
    slot="way_back",
    paper=PAPER,
    build=BlockExpansion,
    choices=CHOICES,
    bidirectional=False,
    catalogue=(84,),
    complexity="T D D'",
)
