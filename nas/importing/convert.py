"""Convert a pretrained model to an ArchSpec and its tensors, by the description of its family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from nas.errors import UsageError
from nas.importing import glassllm
from nas.importing.blocks import (
    BlockReader,
    block_specs,
    eps_of,
    has_shift,
    norm_of,
    norm_tensors,
    scales,
    size,
    sizes,
    without_first_norm,
)
from nas.importing.config import HARMLESS, Config
from nas.importing.description import Family
from nas.importing.families import DECODERS, FAMILIES, TEXT_ENCODERS
from nas.importing.heads import (
    COPIED_ROWS,
    classifier_head,
    decoder_head,
    embedding_head,
    linear,
    masked_head,
)
from nas.importing.latent import turned_channels
from nas.importing.parts import Converted, below
from nas.importing.rotary import rotary
from nas.importing.source import Source
from nas.importing.weights import Part, Weights
from searchspace.spec.arch import NONE, ArchSpec, OpSpec, StageSpec

NORMED_ROWS = "the norm of token rows is part of these"
MAPPED_ROWS = "each layer's maps of the table of distances are part of its rows, one table for each layer"
ONE_SEGMENT = "token types: all tokens are of type 0, whose row is part of the {}"
NOT_TAKEN = {"gemma3": "the text part alone, of model_type 'gemma3_text'"}


def convert(source: Source) -> Converted:
    """The converted model. Raises UsageError naming the key and value, or the tensor, that is not supported."""
    config, kind = source.config, source.config.get("model_type")
    if kind in NOT_TAKEN:
        raise config.refuse("model_type", NOT_TAKEN[kind])
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise config.refuse("model_type", ", ".join(FAMILIES))
    if source.sentence is not None and kind not in TEXT_ENCODERS:
        raise UsageError(
            f"{source.sentence.path} is of a {kind} model; the importer takes it of {', '.join(TEXT_ENCODERS)}"
        )
    family = variant(FAMILIES[kind], config)
    config.only(**family.only, **{key: config.get(other) for key, other in family.same.items()})
    weights = renamed(family, source.weights)
    found = (
        _decoder(family, config, weights)
        if kind in DECODERS
        else _text_encoder(family, source, weights)
        if kind in TEXT_ENCODERS
        else _image_encoder(family, source, weights)
    )
    passed = (*family.left_out, family.computed)
    left_out = [name for name in weights.unread if any(re.fullmatch(pattern, name) for pattern in passed)]
    if source.sentence and family.masked:  # a sentence embedding reads hidden states, not the masked-LM head
        heads = {name.split(".")[0] for name in (family.masked.transform, family.masked.decoder)}
        left_out += [name for name in weights.tensors if name.split(".")[0] in heads]
    further = _further(family, config, weights)
    weights.done(*left_out, *(name for names in further.values() for name in names))
    named = sorted(
        {
            name.rpartition(".")[0]
            for name in left_out
            if name in weights.unread and not re.fullmatch(family.computed, name)
        }
    )
    notes = [*found.notes, *([f"left out: {', '.join(named)}"] if named else [])]
    notes += [f"left out: {layer}, which only guesses tokens further on" for layer in further]
    if kind == "glassllm":
        tokenizer, more = glassllm.tokenizer_of(source.path, config.size("vocab_size"))
        found, notes = replace(found, tokenizer=tokenizer), [*notes, *more]
    config.done(HARMLESS | family.harmless)
    return replace(found, notes=(*notes, *source.notes))


def variant(family: Family, config: Config) -> Family:
    """The family's description with the variants that fit the config. Raises UsageError for a non-boolean switch."""

    def has(key: str, value: Any) -> bool:
        default = family.defaults.get(key)
        found = config.flag(key, bool(default)) if isinstance(value, bool) else config.get(key, default)
        return bool(found == value)

    given = family
    for values, changes in given.variants:
        fits = [has(key, value) for key, value in values.items()]  # a list, so that every switch is checked
        if all(fits):
            family = replace(family, **changes)
    return family


def _further(family: Family, config: Config, weights: Weights) -> dict[str, list[str]]:
    """Tensor names of each layer that only predicts tokens further on (multi-token prediction).

    Raises UsageError where the number of such layers is no integer of at least 0.
    """
    if not family.further:
        return {}
    count, first = config.get(family.further, family.defaults[family.further]), size(family, config, "layers")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise config.refuse(family.further, "a whole number of at least 0")
    layers = [family.layers.format(first + i) for i in range(count)]
    found = {layer: [n for n in sorted(weights.unread) if n.startswith(f"{layer}.")] for layer in layers}
    return {layer: names for layer, names in found.items() if names}


def renamed(family: Family, weights: Weights) -> Weights:
    """The tensors by their current names, without the family's prefixes."""

    def change(name: str) -> str:
        for pattern, new in family.renames:
            name = re.sub(pattern, new, name)
        for prefix in family.prefixes:
            name = name.removeprefix(prefix)
        return name

    return weights.renamed(change)


def _decoder(family: Family, config: Config, weights: Weights) -> Converted:
    config.architecture(family.architectures, next(iter(family.architectures)))
    count, length = config.size("vocab_size"), size(family, config, "length")
    dims = sizes(family, config, length)
    turned = turned_channels(family, config, dims.head_dim)
    turns = rotary(family, config, turned, length) if family.is_rotary else None
    factors = scales(family, config, dims, turns)
    head, held, scale = decoder_head(family, config, weights, dims.width, factors)
    rows, notes = weights.take(f"{family.rows}.weight", count, dims.width), turns.notes if turns else ()
    if family.embedding_norm:
        norm = linear_norm(weights, family.embedding_norm, dims.width)
        rows, notes = _normed(rows, norm, eps_of(family, config)), (*notes, NORMED_ROWS)
    tensors = {"stem.weight": rows.scaled(factors.embedding)}
    if family.positions:
        skipped = _skipped(family, config)
        tensors["position.weight"] = _positions(family, weights, length + skipped, dims.width, skipped)
    tensors |= below("final_norm", norm_tensors(family, weights, family.final_norm, dims.width, scale))
    tensors |= BlockReader(family, config, weights, dims, factors, turns).tensors()
    arch = ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=count, max_len=turns.max_len if turns else length),
        d_model=dims.width,
        blocks=block_specs(family, config, dims, turns),
        stages=(StageSpec(dims.layers, dims.width),),
        position=turns.position if turns else OpSpec("learned") if family.positions else NONE,
        final_norm=norm_of(family, config),
        head=head,
    )
    return Converted(arch, tensors | held, notes)


def _skipped(family: Family, config: Config) -> int:
    """The number of leading position rows that no text uses."""
    if isinstance(family.skipped, int):
        return family.skipped
    last = config.get(family.skipped, family.defaults[family.skipped])
    if not isinstance(last, int) or isinstance(last, bool) or last < 0:
        raise config.refuse(family.skipped, "a whole number of at least 0")
    return last + 1


def _positions(family: Family, weights: Weights, count: int, width: int, skipped: int) -> Part:
    """The position rows that texts use. [count, width] without the first `skipped` rows."""
    return weights.take(f"{family.positions}.weight", count, width).rows(skipped, count - skipped)


def _text_encoder(family: Family, source: Source, weights: Weights) -> Converted:
    config, (first, *_) = source.config, family.architectures
    assert family.masked is not None
    is_masked = family.masked.shared_bias in weights or f"{family.masked.decoder}.bias" in weights
    default = next(n for n, t in family.architectures.items() if t == "masked_lm") if is_masked else first
    task = config.architecture(family.architectures, default)
    task = "embedding" if source.sentence else task
    count, rows_held = config.size("vocab_size"), size(family, config, "length")
    skipped = _skipped(family, config)
    if rows_held <= skipped:
        raise config.refuse(str(family.key("length")), f"more than the {skipped} positions that no text uses")
    dims = sizes(family, config, rows_held - skipped)
    width = config.size(family.narrow, family.defaults[family.narrow]) if family.narrow else dims.width
    is_projected = bool(family.projected) and (family.is_shared or width != dims.width)
    rows = weights.take(f"{family.rows}.weight", count, width)
    turns = rotary(family, config, dims.head_dim, dims.length) if family.is_rotary else None
    if family.positions:
        positions, notes = _normed_positions(family, config, weights, rows_held, width)
        tensors = {"stem.weight": rows, **positions}
    else:
        norm = norm_tensors(
            family, weights, family.embedding_norm, width, has_shift=has_shift(family, config)
        )
        typed, notes = _with_segment(family, config, weights, rows, width)
        tensors = {"stem.weight": _normed(typed, norm, eps_of(family, config))}
        notes = (*notes, NORMED_ROWS)
    if family.final_norm:
        last = norm_tensors(family, weights, family.final_norm, width, has_shift=has_shift(family, config))
        tensors |= below("final_norm", last)
    factors = scales(family, config, dims, turns)
    held_blocks = BlockReader(family, config, weights, dims, factors, turns).tensors()
    labels: tuple[str, ...] = ()
    if task == "masked_lm":
        head, held = masked_head(family, config, weights, dims, width)
        notes = (*notes, COPIED_ROWS)
    elif task == "embedding":
        head, held = embedding_head(source, dims.width)
    else:
        head, held, labels = classifier_head(
            family, config, weights, dims.width, task == "token_classification"
        )
    enter = NONE
    if is_projected:
        enter = OpSpec("change_width")
        tensors |= below("stages.0.enter.proj", linear(weights, family.projected, dims.width, width))
    blocks = block_specs(family, config, dims, turns)
    if any(block.mixer.op == "disentangled_attention" for block in blocks):
        notes = (*notes, MAPPED_ROWS)
    if not family.is_normed_at_first:
        blocks, held_blocks = without_first_norm(blocks, held_blocks)
    tensors |= held_blocks
    run = dims.layers if family.is_shared else 1
    arch = ArchSpec(
        task="classification" if task == "token_classification" else task,
        stem=OpSpec.of("token_embedding", vocab_size=count, max_len=dims.length),
        d_model=width,
        blocks=blocks[:1] if family.is_shared else blocks,
        stages=(StageSpec(len(blocks) // run, dims.width, enter, repeats=run),),
        position=turns.position
        if turns
        else OpSpec.of("learned_norm", eps=eps_of(family, config))
        if family.positions
        else NONE,
        final_norm=norm_of(family, config) if family.final_norm else NONE,
        head=head,
    )
    return Converted(arch, tensors | held, notes, labels=labels)


def _normed_positions(
    family: Family, config: Config, weights: Weights, rows_held: int, width: int
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """(position rows plus the row of the first segment, and the norm after them; notes)."""
    positions = _positions(family, weights, rows_held, width, _skipped(family, config))
    positions, notes = _with_segment(family, config, weights, positions, width)
    norm = linear_norm(weights, family.embedding_norm, width)
    return {"position.weight": positions, **{f"position.norm_{n}": p for n, p in norm.items()}}, notes


def _with_segment(
    family: Family, config: Config, weights: Weights, rows: Part, width: int
) -> tuple[Part, tuple[str, ...]]:
    """(`rows` of positions or tokens plus the row of the first segment, notes)."""
    if not family.segments:
        return rows, ()
    types = config.size("type_vocab_size", family.defaults["type_vocab_size"])
    segments = weights.take(f"{family.segments}.weight", types, width)
    note = ONE_SEGMENT.format("positions" if family.positions else "rows of tokens")
    return rows.computed(lambda t: t + segments.load()[0].float()), (note,)


def _normed(rows: Part, norm: Mapping[str, Part], eps: float) -> Part:
    """Token rows [V, D] after a LayerNorm whose only input they are."""

    def change(t: Tensor) -> Tensor:
        return F.layer_norm(t, t.shape[-1:], norm["weight"].load().float(), norm["bias"].load().float(), eps)

    return rows.computed(change)


def linear_norm(weights: Weights, name: str, width: int) -> dict[str, Part]:
    """Gain and shift of a LayerNorm in the file, each [width]."""
    return {part: weights.take(f"{name}.{part}", width) for part in ("weight", "bias")}


def _image_encoder(family: Family, source: Source, weights: Weights) -> Converted:
    config = source.config
    task = config.architecture(family.architectures, next(iter(family.architectures)))
    side, patch = config.size("image_size"), config.size("patch_size")
    channels = config.size("num_channels", family.defaults["num_channels"])
    is_second = bool(family.second_token)
    length = 1 + is_second + config.parts("image_size", "patch_size") ** 2
    dims = sizes(family, config, length)
    width, projection = dims.width, "embeddings.patch_embeddings.projection"
    kernels = weights.take(f"{projection}.weight", width, channels, patch, patch)
    tensors = {
        "stem.class_token": weights.take("embeddings.cls_token", 1, 1, width).moved(
            lambda t: t.flatten(), width
        ),
        "stem.proj.weight": kernels.moved(lambda t: t.flatten(1), width, channels * patch * patch),
        "stem.proj.bias": weights.take(f"{projection}.bias", width),
        "position.weight": weights.take("embeddings.position_embeddings", 1, length, width).moved(
            lambda t: t[0], length, width
        ),
    }
    stem = {"image_size": side, "patch_size": patch, "channels": channels}
    if is_second:
        stem["extra_tokens"] = 1
        tensors["stem.extra_tokens"] = weights.take(family.second_token, 1, 1, width).moved(
            lambda t: t[0], 1, width
        )
    tensors |= below("final_norm", norm_tensors(family, weights, family.final_norm, width))
    factors = scales(family, config, dims, None)
    tensors |= BlockReader(family, config, weights, dims, factors, None).tensors()
    (head, held), labels = embedding_head(source, width), tuple[str, ...]()
    if task == "classification":
        head, held, labels = classifier_head(family, config, weights, width, False)
    tensors |= held
    arch = ArchSpec(
        task=task,
        stem=OpSpec.of("class_patch_embedding", **stem),
        d_model=width,
        blocks=block_specs(family, config, dims, None),
        stages=(StageSpec(dims.layers, width),),
        position=OpSpec("learned"),
        final_norm=norm_of(family, config),
        head=head,
    )
    return Converted(arch, tensors, labels=labels)
