"""Functions shared by the attention kernels: loading rows, the visibility rule, and the ranges of visible tiles."""

from __future__ import annotations

import triton
import triton.language as tl

from searchspace.kernels.products import INTERPRETED


@triton.jit
def dot(b_a, b_b):
    """A product summed in float32. float32 operands use three TF32 products: as exact, and far faster to compile."""
    if INTERPRETED:  # the interpreter is silently wrong on bfloat16
        return tl.dot(b_a.to(tl.float32), b_b.to(tl.float32), input_precision="ieee")
    return tl.dot(b_a, b_b, input_precision="tf32x3")


@triton.jit
def rows(p, o_rows, stride, num_rows, SIZE: tl.constexpr, WIDTH: tl.constexpr, MASKED: tl.constexpr):
    """Load rows of a matrix [num_rows, SIZE] into a tile of WIDTH columns, 0 outside; MASKED if rows may be outside."""
    o_columns = tl.arange(0, WIDTH)
    place = p + o_rows.to(tl.int64)[:, None] * stride + o_columns[None, :]
    if MASKED:
        return tl.load(place, mask=(o_rows < num_rows)[:, None] & (o_columns < SIZE)[None, :], other=0.0)
    if SIZE < WIDTH:
        return tl.load(place, mask=(o_columns < SIZE)[None, :], other=0.0)
    return tl.load(place)


@triton.jit
def sees(
    place, key, S, window, sinks, p_valid, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr
):
    """Whether the query at position `place` sees `key`; the two are broadcast against each other."""
    seen = (key < S) & (place >= key) if CAUSAL else (key < S) & (place == place)
    if WINDOWED:
        near = (place - key < window) if CAUSAL else (tl.abs(place - key) <= window // 2)
        seen = seen & (near | (key < sinks))
    if PADDED:
        seen = seen & (tl.load(p_valid + key, mask=key < S, other=0) != 0)
    return seen


@triton.jit
def key_tiles(
    first,
    last,
    S,
    window,
    sinks,
    CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr,
    PADDED: tl.constexpr,
    BS: tl.constexpr,
):
    """Ranges of keys that the queries at positions first..last see: entirely from `whole` to `whole_end`; partly from
    0 to `of_sinks`, from `start` to `whole` and from `whole_end` to `end`. All are multiples of BS."""
    of_sinks, start, whole, whole_end, end = 0, 0, 0, S, S
    if CAUSAL:
        whole_end, end = tl.minimum(first + 1, S), tl.minimum(last + 1, S)
    if WINDOWED:
        before = window - 1 if CAUSAL else window // 2
        if not CAUSAL:
            whole_end, end = tl.minimum(first + before + 1, S), tl.minimum(last + before + 1, S)
        start = tl.maximum(first - before, 0) // BS * BS
        whole = tl.maximum(tl.cdiv(last - before, BS) * BS, start)
        of_sinks = tl.minimum(tl.cdiv(sinks, BS) * BS, start)
    end = tl.maximum(tl.cdiv(end, BS) * BS, start)
    whole = tl.minimum(whole, end)
    whole_end = tl.maximum(whole_end // BS * BS, whole)
    if PADDED:
        whole_end = whole
    return of_sinks, start, whole, whole_end, end


@triton.jit
def query_tiles(
    first, last, T, shift, window, sinks, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr,
    BT: tl.constexpr,
):  # fmt: skip
    """Ranges of queries that see keys first..last, as in `key_tiles`; query i has position i + shift."""
    start, whole, whole_end, end = 0, 0, T, T
    if CAUSAL:
        start, whole = first - shift, last - shift
    if WINDOWED:
        after = window - 1 if CAUSAL else window // 2
        if not CAUSAL:
            start, whole = first - after - shift, last - after - shift
        whole_end, end = first + after + 1 - shift, tl.minimum(last + after + 1 - shift, T)
        if first < sinks:
            start = start if CAUSAL else 0
            whole_end, end = 0, T
    start = tl.maximum(start, 0) // BT * BT
    end = tl.maximum(tl.cdiv(end, BT) * BT, start)
    whole = tl.minimum(tl.maximum(tl.cdiv(whole, BT) * BT, start), end)
    whole_end = tl.maximum(tl.minimum(whole_end, T) // BT * BT, whole)
    if PADDED:
        whole_end = whole
    return start, whole, whole_end, end


@triton.jit
def partial_tile(step, of_sinks, start, whole, whole_end, SIZE: tl.constexpr):
    """The start of the partly visible tile number `step`."""
    at = step * SIZE
    at = tl.where(at < of_sinks, at, at - of_sinks + start)
    return tl.where((step * SIZE >= of_sinks) & (at >= whole), at - whole + whole_end, at)


@triton.jit
def listed_tile(p_blocks, p_bits, entry, end, BLOCK: tl.constexpr, SIZE: tl.constexpr):
    """(tokens [SIZE] of the blocks listed from `entry` on, bits of each token's block, 0 after the list's `end`)."""
    o = tl.arange(0, SIZE)
    at = entry + o // BLOCK
    block = tl.load(p_blocks + at, mask=at < end, other=0)
    bits = tl.load(p_bits + at, mask=at < end, other=0)
    return block * BLOCK + o % BLOCK, bits
