"""The model: an ArchSpec as a plain torch module.

    x = stem(inputs); x = position(x)
    for each stage: enter, its blocks (`repeats` times with the same weights), its way back, leave
    y = head(final_norm(x))

    pre   x + F(N(x))        post  N(x + F(x))        peri  x + N_out(F(N_in(x)))        parallel  x + F(N(x)) + G(N(x))

Xiong et al., "On Layer Normalization in the Transformer Architecture", arXiv:2002.04745 (pre, post); Kim et al.,
"Peri-LN", arXiv:2502.02732; Chowdhery et al., "PaLM", arXiv:2204.02311 (parallel: mixer F and ffn G read one norm). A
`none`/`none` block does nothing. Some transitions have a way back to the tokens that they came from, which ends their
stage. A forward pass mutates nothing: sequence state goes in and comes out, with one entry per execution of a block and
one per stage whose transition has state.

Packed sequences (Tokens.offsets) stay in one row without padding in everything that works on single tokens; a part that
mixes tokens gets padded rows, unless its entry declares that it takes packed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from searchspace import registry
from searchspace.kernels import dispatch
from searchspace.primitives import caches, stored_state
from searchspace.primitives.context import BuildContext, Layout, State, Tokens
from searchspace.primitives.packing import pack, packed_positions, unpack
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, Format, OpSpec

NO_MAX_LEN = "max_len={}: what {} keeps has no fixed shape; call init_state without max_len"
SHARED_NORM = "shared_norm_in"  # norm of both sublayers of a block in parallel placement
Builder = Callable[[str, OpSpec | BlockSpec, BuildContext], nn.Module]


class Block(nn.Module):
    """One mixer and one ffn on the residual stream, each with the norms of the placement."""

    def __init__(self, spec: BlockSpec, context: BuildContext) -> None:
        super().__init__()
        self.sublayers = tuple(name for name in ("mixer", "ffn") if getattr(spec, name) != NONE)
        self.placement = spec.placement
        self.operators = {name: getattr(spec, name).op for name in self.sublayers}
        self.state_format = spec.quant.state
        self.takes_packed: dict[str, bool] = {}
        for name in self.sublayers:
            self._add(name, name, getattr(spec, name), context)
            for place in _norm_places(spec):
                self._add(f"{name}_norm_{place}", "norm", spec.norm, context)
        if self.placement == "parallel" and self.sublayers and spec.norm != NONE:
            self._add(SHARED_NORM, "norm", spec.norm, context)

    def _add(self, part: str, slot: str, spec: OpSpec, context: BuildContext) -> None:
        self.add_module(part, registry.build(slot, spec, context))
        self.takes_packed[part] = takes_packed(slot, spec)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State]:
        """x [B, T, D] -> [B, T, D], and the states of the parts by name."""
        state = state or {}
        kept: State = {}

        def run(part: str, value: Tensor) -> Tensor:
            if part not in self._modules:
                return value
            module, takes_packed = self._modules[part], self.takes_packed[part]
            before = state.get(part)
            result, after = run_part(module, takes_packed, value, tokens, stored_state.read(before))
            kept[part] = stored_state.store(after, before, getattr(module, "importance", None))
            return result

        def added(norm: str, branch: Tensor) -> tuple[Tensor, Tensor]:
            """(norm of x + branch, x + branch), fused where kernels are selected and the norm has one."""
            module = self._modules.get(norm)
            if dispatch.selected() != "torch" and hasattr(module, "of_sum"):
                return module.of_sum(branch, x)  # type: ignore[union-attr, operator]
            total = x + branch
            return run(norm, total), total

        if self.placement == "parallel":
            value = run(SHARED_NORM, x)
            for name in self.sublayers:
                x = x + run(name, value)
            return x, {part: value for part, value in kept.items() if value is not None}
        value = run(f"{self.sublayers[0]}_norm_in", x) if self.sublayers else x
        for name, later in zip(self.sublayers, (*self.sublayers[1:], ""), strict=True):
            branch = run(f"{name}_norm_out", run(name, value))
            if self.placement == "post":
                x = value = added(f"{name}_norm_post", branch)[0]
            else:
                value, x = added(f"{later}_norm_in", branch)
        return x, {part: value for part, value in kept.items() if value is not None}

    def init_state(
        self, batch_size: int, device: torch.device, dtype: torch.dtype, max_len: int | None = None
    ) -> State:
        """Return the state before the first token by part name. Raises ValueError where it can't have a `max_len`."""
        parts = {name: self._modules[name] for name in self.sublayers}
        state: State = {
            name: part.init_state(batch_size, device, dtype)  # type: ignore[union-attr, operator]
            for name, part in parts.items()
            if hasattr(part, "init_state")
        }
        if "mixer" in state:
            state["mixer"] = stored_state.start(state["mixer"], self.state_format)
        if max_len is None:
            return state
        for name, kept in state.items():
            takes = self.state_format == Format() and getattr(parts[name], "takes_max_len", False)
            if not takes and not caches.has_fixed_shapes(kept):
                raise ValueError(NO_MAX_LEN.format(max_len, self.operators[name]))
        found: State = caches.with_max_len(state, max_len, device)
        return found


def _norm_places(spec: BlockSpec) -> tuple[str, ...]:
    if spec.norm == NONE:
        return ()
    places: dict[str, tuple[str, ...]] = {
        "pre": ("in",),
        "post": ("post",),
        "peri": ("in", "out"),
        "parallel": (),
        "output": ("out",),
    }
    return places[spec.placement]


def takes_packed(slot: str, spec: OpSpec) -> bool:
    """Return whether an operator computes the same for packed sequences as for each of them alone."""
    entry = registry.operator(slot, spec.op)
    return entry.packed or entry.position_wise


def run_part(
    module: Any, takes_packed: bool, x: Tensor, tokens: Tokens, state: Any = None
) -> tuple[Tensor, State | None]:
    """Run a part on x [B, T, D]; packed sequences are padded where it does not take them."""
    if tokens.offsets is None or takes_packed:
        return module(x, tokens, state)
    rows, kept = module(*unpack(x, tokens))
    return pack(rows, tokens), kept


def why_not_packed(arch: ArchSpec) -> str | None:
    """Return why a network can't run on packed sequences; None where it can."""
    for slot, spec in (("stem", arch.stem), ("position", arch.position)):
        if spec != NONE and not takes_packed(slot, spec):
            return f"{slot}: {spec.op} takes no packed sequences"
    for index, stage in enumerate(arch.stages):
        for end, spec in (("enter", stage.enter), ("leave", stage.leave)):
            if spec != NONE:
                return f"stages.{index}.{end}: {spec.op} changes which tokens there are and takes no packed sequences"
    return None


def build_part(slot: str, spec: OpSpec | BlockSpec, context: BuildContext) -> nn.Module:
    """Return a block, or the single operator of another slot."""
    return Block(spec, context) if isinstance(spec, BlockSpec) else registry.build(slot, spec, context)


@lru_cache(1 << 14)
def _limit(slot: str, spec: OpSpec | BlockSpec) -> str | None:
    """The name of the first operator in a part that is limited to the maximum length."""
    slots = ("mixer", "ffn", "norm", "projection")
    specs = [(slot, spec)] if isinstance(spec, OpSpec) else [(name, getattr(spec, name)) for name in slots]
    entries = (entry for place, op in specs for entry in registry.entries(place, op))
    return next((entry.name for entry in entries if entry.fixed_length), None)


_context = lru_cache(1 << 14)(BuildContext)  # shares instances, so that each hash is computed once


def contexts(arch: ArchSpec) -> dict[str, BuildContext]:
    """Return the build context of every part by its name in the model; inactive blocks have none."""
    layout = registry.operator("stem", arch.stem.op).layout(arch.stem, Layout(max_len=1))
    num_layers = len(arch.blocks)

    def context(d_model: int, layer: int = 0, **more: Any) -> BuildContext:
        return _context(d_model, layer, num_layers, arch.is_causal, layout, **more)

    found = {"stem": context(arch.d_model), "position": context(arch.d_model)}
    layer, width = 0, arch.d_model
    for index, stage in enumerate(arch.stages):
        before, layout_before = width, layout
        ends = {"keeps_first": arch.head.get("pooling") == "first"}
        found[f"stages.{index}.enter"] = context(before, layer, d_next=stage.d_model, **ends)
        layout = registry.operator("transition", stage.enter.op).layout(stage.enter, layout)
        width = stage.d_model
        for block in arch.blocks[layer : layer + stage.num_blocks]:
            if block.is_active:
                more = {"projection": block.projection, "quant": block.quant, "repeats": stage.repeats}
                found[f"blocks.{layer}"] = context(width, layer, **more)
            layer += 1
        if has_way_back(stage.enter):
            found[f"stages.{index}.way_back"] = context(width, layer - 1, d_next=before, **ends)
            width, layout = before, layout_before
        found[f"stages.{index}.leave"] = context(width, layer - 1, d_next=before, **ends)
        layout = registry.operator("transition", stage.leave.op).layout(stage.leave, layout)
        width = width if stage.leave == NONE else before
    found["final_norm"] = found["head"] = context(width, num_layers - 1)
    return found


def has_way_back(enter: OpSpec) -> bool:
    """Return whether a stage entered by this transition returns to the tokens before it."""
    return ("way_back", enter.op) in registry.operators()


def parts(arch: ArchSpec) -> list[tuple[str, str, OpSpec | BlockSpec, BuildContext]]:
    """Return (name, slot, spec, context) of everything to build, in the order of the forward pass."""
    places = contexts(arch)
    found: list[tuple[str, str, Any]] = [("stem", "stem", arch.stem), ("position", "position", arch.position)]
    layer = 0
    for index, stage in enumerate(arch.stages):
        found.append((f"stages.{index}.enter", "transition", stage.enter))
        for _ in range(stage.num_blocks):
            found.append((f"blocks.{layer}", "block", arch.blocks[layer]))
            layer += 1
        if has_way_back(stage.enter):
            found.append((f"stages.{index}.way_back", "way_back", stage.enter))
        found.append((f"stages.{index}.leave", "transition", stage.leave))
    found += [("final_norm", "norm", arch.final_norm), ("head", "head", arch.head)]
    return [(n, slot, spec, places[n]) for n, slot, spec in found if n in places and spec != NONE]


class Model(nn.Module):
    """The network of an ArchSpec.

    `build` creates the parts; a supernet passes one that caches them by their spec, since whole architectures rarely
    repeat but their blocks do. Raises ValueError for an unregistered operator. `max_len` is the maximum sequence
    length, None where there is no limit. `progress` is the share of training done, used by operators with a schedule
    unless the tokens say otherwise.
    """

    def __init__(self, arch: ArchSpec, build: Builder = build_part) -> None:
        super().__init__()
        self.arch, self.progress = arch, 1.0
        mixers = [block.mixer for block in arch.blocks if block.is_active]
        self.shares = any(registry.operator("mixer", mixer.op).borrows(mixer) for mixer in mixers)
        found = parts(arch)
        limits = [limit for _, slot, spec, _ in found if (limit := _limit(slot, spec)) is not None]
        self.limited_by = limits[0] if limits else ""
        self.max_len = found[0][3].layout.max_len if limits else None
        self.part_names = frozenset(name for name, *_ in found)
        for name, slot, spec, context in found:
            self._place(name, build(slot, spec, context))

    @classmethod
    def from_weights(cls, arch: ArchSpec, weights: Mapping[str, Tensor], progress: float = 1.0) -> Model:
        """Return a model with exactly these tensors [...]. Raises RuntimeError naming missing or mismatched tensors."""
        with torch.device("meta"):
            model = cls(arch)
        model.progress = progress
        model.load_state_dict(weights, assign=True)
        return model

    def _place(self, name: str, part: nn.Module) -> None:
        *path, last = name.split(".")
        holder: nn.Module = self
        for step in path:
            if step not in holder._modules:
                holder.add_module(step, nn.Module())
            holder = holder._modules[step]  # type: ignore[assignment]
        holder.add_module(last, part)

    def part(self, name: str) -> Any:
        return self.get_submodule(name)

    def forward(
        self, inputs: Tensor, tokens: Tokens | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """inputs: token ids [B, T] or images [B, C, rows, columns] -> logits [B, T, W] or [B, classes], and state.

        With a state from `init_state` the inputs continue the sequence; without one, no decoding state is kept. In
        training mode the returned state has the updates of statistics. Packed sequences are inputs [1, T] and tokens
        with offsets. Raises ValueError where these do not match each other or the network.
        """
        kept: State = {}
        start = state["num_tokens"] if state else 0
        tokens = self._checked(inputs, tokens or Tokens(), state)
        x, tokens = self.part("stem")(inputs, tokens, start)
        if not isinstance(start, Tensor):
            self._check_length(start + x.shape[1], tokens.offsets)
        if "position" in self.part_names:
            x, tokens = self.part("position")(x, tokens)
        layer = 0
        for index, stage in enumerate(self.arch.stages):
            place = f"stages.{index}"
            x, tokens, saved = self._transition(
                f"{place}.enter", x, tokens, state.get(place) if state else None
            )
            names = [f"blocks.{layer + i}" for i in range(stage.num_blocks)]
            for repeat in range(stage.repeats):
                tokens = tokens.replace(repeat=repeat, shared={} if self.shares else None)
                for name in filter(self.part_names.__contains__, names):
                    execution = f"{name}@{repeat}"
                    before = state.get(execution) if state else None
                    if x.shape[1]:
                        x, kept[execution] = self.part(name)(x, tokens, before)
                    else:  # decoding, and the stage has no complete block of tokens yet
                        kept[execution] = before
            layer += stage.num_blocks
            x, tokens, saved = self._transition(f"{place}.way_back", x, tokens, saved)
            x, tokens, kept[place] = self._transition(f"{place}.leave", x, tokens, saved)
        if "final_norm" in self.part_names:
            norm, spec = self.part("final_norm"), self.arch.final_norm
            x, kept["final_norm"] = run_part(norm, takes_packed("norm", spec), x, tokens)
        if tokens.offsets is not None and not takes_packed("head", self.arch.head):
            x, tokens = unpack(x, tokens)
        kept = {name: value for name, value in kept.items() if value}
        if state is not None:
            kept["num_tokens"] = start + inputs.shape[1]
        return self.part("head")(x, tokens), kept

    def decoded(self, inputs: Tensor, tokens: Tokens | None = None) -> Tensor:
        """Return the logits [B, T, W] that decoding a known sequence `inputs` [B, T] gives.

        Decodes token by token only where a block's state has a number format, since a state is rounded between calls.
        """
        if all(block.quant.state == Format() for block in self.arch.blocks):
            logits: Tensor = self(inputs, tokens)[0]
            return logits
        valid = None if tokens is None else tokens.valid
        state, found = self.init_state(len(inputs), inputs.device), []
        for t in range(inputs.shape[1]):
            step = Tokens(valid=None if valid is None else valid[:, t : t + 1])
            logits, state = self(inputs[:, t : t + 1], step, state)
            found.append(logits)
        return torch.cat(found, 1)

    def _checked(self, inputs: Tensor, tokens: Tokens, state: State | None) -> Tokens:
        """The given facts, with the training progress and the positions of packed sequences."""
        if tokens.progress is None:
            tokens = tokens.replace(progress=self.progress)
        offsets = tokens.offsets
        if offsets is None:
            return tokens
        reason = why_not_packed(self.arch)
        if reason is not None:
            raise ValueError(f"{reason}; pad the sequences instead")
        if inputs.shape != (1, offsets[-1]) or offsets[0] != 0 or any(i > j for i, j in pairwise(offsets)):
            raise ValueError(
                f"offsets {offsets} don't cut a row of {tuple(inputs.shape)} tokens into sequences"
            )
        if state is not None or tokens.valid is not None:
            raise ValueError("packed sequences hold no padding and continue no state: give offsets alone")
        if tokens.positions is not None:
            return tokens
        return tokens.replace(positions=packed_positions(offsets, inputs.device))

    def _check_length(self, length: int, offsets: tuple[int, ...] | None) -> None:
        if self.max_len is None:
            return
        if offsets is not None:
            length = max(b - a for a, b in pairwise(offsets))
        if length > self.max_len:
            raise ValueError(
                f"a sequence of {length} tokens: {self.limited_by} is defined for at most {self.max_len} (max_len)"
            )

    def _transition(self, name: str, x: Tensor, tokens: Tokens, saved: Any) -> tuple[Tensor, Tokens, Any]:
        return self.part(name)(x, tokens, saved) if name in self.part_names else (x, tokens, saved)

    def init_state(
        self,
        batch_size: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        max_len: int | None = None,
    ) -> State:
        """Return the state before the first token: pass it to `forward` to prefill, then decode token by token.

        `device` and `dtype` default to those of the weights. With `max_len`, the state holds at most that many tokens,
        and every step runs the same operations on the same memory and can be captured (searchspace.primitives.caches).

        Raises ValueError where a transition needs the whole sequence at once, or naming an operator without such a
        state.
        """
        weights = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(0))
        device, dtype = device or weights.device, dtype or weights.dtype
        state: State = {"num_tokens": 0}
        if max_len is not None:
            self._check_length(max_len, None)
            state = caches.with_max_len(state, max_len, device)
        layer = 0
        for index, stage in enumerate(self.arch.stages):
            place = f"stages.{index}"
            for end, spec in (("enter", stage.enter), ("leave", stage.leave)):
                if spec != NONE and not hasattr(self.part(f"{place}.{end}"), "init_state"):
                    raise ValueError(
                        f"{place}: {spec.op} keeps no state, so this network can't decode token by token"
                    )
            if stage.enter != NONE:
                if max_len is not None:
                    raise ValueError(NO_MAX_LEN.format(max_len, stage.enter.op))
                state[place] = self.part(f"{place}.enter").init_state(batch_size, device, dtype)
            for i in range(stage.num_blocks):
                if f"blocks.{layer + i}" in self.part_names:
                    for repeat in range(stage.repeats):
                        block = self.part(f"blocks.{layer + i}")
                        kept = block.init_state(batch_size, device, dtype, max_len)
                        state[f"blocks.{layer + i}@{repeat}"] = kept
            layer += stage.num_blocks
        return state
