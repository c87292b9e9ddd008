"""Heads of described models: causal LM, masked LM, classifier, or embedding (hidden states)."""

from __future__ import annotations

import torch

from nas.errors import UsageError
from nas.importing.blocks import Scales, Sizes, activation_of, capping, eps_of, has_shift
from nas.importing.config import Config
from nas.importing.description import Family
from nas.importing.parts import below
from nas.importing.source import Source
from nas.importing.weights import Part, Weights
from searchspace.spec.arch import OpSpec

COPIED_ROWS = "the head has a copy of the token rows"
HIDDEN = {"gelu": "gelu_erf", "tanh": "tanh", "relu": "relu"}  # activations of a classifier's hidden layer
DEFAULT_CLASSES = 2  # number of classes where the config gives none


def linear(weights: Weights, name: str, d_out: int, d_in: int) -> dict[str, Part]:
    """Weight [d_out, d_in] and bias [d_out] of a linear layer."""
    return {
        "weight": weights.take(f"{name}.weight", d_out, d_in),
        "bias": weights.take(f"{name}.bias", d_out),
    }


def is_tied(config: Config, weights: Weights, rows: str, head: str, default: bool, *shape: int) -> bool:
    """Whether the head shares the token rows; the tensors `head` and `rows` have shape [*shape].

    Raises UsageError where the config says that they are tied and the file holds a different `head`.
    """
    tied = config.flag("tie_word_embeddings", default)
    if tied and head in weights and not weights.take(head, *shape).equals(weights.take(rows, *shape)):
        raise config.refuse("tie_word_embeddings", f"false where {head} differs from {rows}, as it does here")
    return tied


def decoder_head(
    family: Family, config: Config, weights: Weights, width: int, factors: Scales
) -> tuple[OpSpec, dict[str, Part], float]:
    """(head, its tensors, factor of the final norm that replaces the scaling of the logits)."""
    shape = (config.size("vocab_size"), width)
    cap = capping(family, config, "final_logit_softcapping")
    items: dict[str, float] = {"vocab_size": shape[0], **({"softcap": cap} if cap else {})}
    rows, own = f"{family.rows}.weight", f"{family.head}.weight"
    tied = is_tied(config, weights, rows, own, family.is_tied, *shape)
    has_bias = family.has_head_bias
    if tied and not family.embedding_norm and not has_bias:
        scale = 1 / (factors.logits * factors.embedding)  # the shared rows hold the embedding's factor
        return OpSpec.of("tied_head", **items), {}, scale
    held = weights.take(rows if tied else own, *shape)  # without the embedding norm in the stem's rows
    tensors = {"head.proj.weight": held}
    if has_bias:
        items["bias"] = True
        tensors["head.proj.bias"] = weights.take(f"{family.head}.bias", shape[0]).scaled(1 / factors.logits)
    return OpSpec.of("lm_head", **items), tensors, 1 / factors.logits


def masked_head(
    family: Family, config: Config, weights: Weights, dims: Sizes, width: int
) -> tuple[OpSpec, dict[str, Part]]:
    """(head, its tensors); `width` is that of a token row. A tied decoder uses the token rows and the shared bias.

    Raises UsageError where the config says that they are tied and the two biases differ.
    """
    assert family.masked is not None
    names, count = family.masked, config.size("vocab_size")
    head = OpSpec.of(
        "mlm_head",
        vocab_size=count,
        activation=names.activation or activation_of(family, config),
        bias=True,
        d_hidden=width if family.narrow else 0,
        eps=eps_of(family, config),
    )
    rows, decoder, bias = f"{family.rows}.weight", f"{names.decoder}.weight", f"{names.decoder}.bias"
    tied = not names.decoder or is_tied(config, weights, rows, decoder, True, count, width)
    if bias not in weights and names.shared_bias:
        bias = names.shared_bias
    elif names.shared_bias in weights:
        shared = weights.take(names.shared_bias, count)
        if tied and not weights.take(bias, count).equals(shared):
            raise config.refuse(
                "tie_word_embeddings",
                f"false where {bias} differs from {names.shared_bias}, as it does here",
            )
    has_bias = not names.transform_bias or config.flag(names.transform_bias, False)
    biases = {
        part: weights.take(f"{part}.bias", width) if has_one else Part.of(torch.zeros(width))
        for part, has_one in ((names.transform, has_bias), (names.norm, has_shift(family, config)))
    }
    return head, {
        "head.transform_proj.weight": weights.take(f"{names.transform}.weight", width, dims.width),
        "head.transform_proj.bias": biases[names.transform],
        "head.weight": weights.take(f"{names.norm}.weight", width),
        "head.bias": biases[names.norm],
        "head.proj.weight": weights.take(rows if tied else decoder, count, width),
        "head.proj.bias": weights.take(bias, count),
    }


def class_names(config: Config) -> tuple[str, ...]:
    """The class names of a classifier in the order of its outputs. Raises UsageError where it is no classifier of at
    least two classes."""
    kind, names = config.get("problem_type"), config.get("id2label")
    if kind not in (None, "single_label_classification"):
        raise config.refuse("problem_type", "'single_label_classification': one of several classes")
    given = list(names) if isinstance(names, dict) else None
    count = config.size("num_labels", len(given) if given else DEFAULT_CLASSES)
    config.get("label2id"), config.get("_num_labels")
    if given is not None and (len(given) != count or {str(i) for i in range(count)} != set(map(str, given))):
        raise config.refuse("id2label", f"a name for each number from 0 to {count - 1}")
    if count < 2:
        raise UsageError(
            f"{config.path}: the model has one label, a number and no class; the importer takes classifiers of "
            "at least 2 classes"
        )
    found = {int(i): str(name) for i, name in names.items()} if names else {}
    return tuple(found.get(i, f"LABEL_{i}") for i in range(count))


def classifier_head(
    family: Family, config: Config, weights: Weights, width: int, of_tokens: bool
) -> tuple[OpSpec, dict[str, Part], tuple[str, ...]]:
    """(head, its tensors, class names)."""
    assert family.classifier is not None
    names, labels = family.classifier, class_names(config)
    out = names.tokens if of_tokens else names.out
    tensors = below("head.proj", linear(weights, out, len(labels), width))
    items = {"num_classes": len(labels), "pooling": "none" if of_tokens else "first", "bias": True}
    if names.hidden and not of_tokens:
        items["hidden"] = names.activation
        if names.activation_key:
            key = names.activation_key
            items["hidden"] = config.one_of(key, HIDDEN, family.defaults[key])
        tensors |= below("head.hidden_proj", linear(weights, names.hidden, width, width))
    return OpSpec.of("classifier", **items), tensors, labels


def embedding_head(source: Source, width: int) -> tuple[OpSpec, dict[str, Part]]:
    """(head, its tensors) of a sentence embedding; without modules.json the head returns hidden states.

    Pooled vectors pass a projection to the model's width, so that narrower networks have outputs of this width too. It
    is the identity in the model itself. Raises UsageError where the pooling has another width.
    """
    sentence = source.sentence
    if sentence is None:
        return OpSpec.of("embedding", pooling="none", normalize=False), {}
    if sentence.width not in (None, width):
        raise source.config.refuse("hidden_size", f"what pooling takes, {sentence.width}")
    head = OpSpec.of("embedding", pooling=sentence.pooling, normalize=sentence.normalize, width=width)
    return head, {"head.proj.weight": Part.of(torch.eye(width))}
