"""What tells one family of pretrained transformers from another, as data: `llamas`, `gpts` and `encoders` hold one
description for each, `convert` reads them.

Names of tensors are theirs without `.weight` and `.bias`. A map may lie in a larger one or be scaled:

    NAME#q NAME#k NAME#v      rows of one map to queries, then keys, then values
    NAME#each:q ...           the same where each key has its queries, itself and its values one below the other
    NAME#0 NAME#1             the first and the second half of its rows
    NAME#half:0 NAME#half:1   the same where every head has its rows of both one below the other
    NAME*OTHER                its outputs times the tensor OTHER, whose name is whole
    NAME+OTHER                with the bias OTHER, whose name is whole
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Our name of a size or setting -> the key of config.json that usually holds it.
KEYS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "groups": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_ff": "intermediate_size",
    "vocabulary": "vocab_size",
    "length": "max_position_embeddings",
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
}


@dataclass(frozen=True)
class MaskedHead:
    """Of a masked language model: a hidden layer, its norm, the map to the vocabulary and its bias.

    The map is the token rows where they are tied, or where `decoder` is ""; `shared_bias` is the whole name of the bias
    beside `decoder`'s.
    `activation` is "" where the config says it; `transform_bias` is the key of whether the hidden layer has a bias, ""
    where it has one.
    """

    transform: str
    norm: str
    decoder: str
    shared_bias: str = ""
    activation: str = ""
    transform_bias: str = ""


@dataclass(frozen=True)
class Classifier:
    """Of whole sequences: the first token's state, through `hidden` and `activation` where there is one, to `out`.

    Of tokens: each one's state to `tokens`. `activation_key` is the key of the activation where the config says it.
    """

    out: str = "classifier"
    hidden: str = ""
    activation: str = "none"
    activation_key: str = ""
    tokens: str = "classifier"


@dataclass(frozen=True)
class Experts:
    """Of FFNs that are mixtures: keys of how many there are, one of several, how many a token takes, how wide each is.

    router          the map from a token to its experts, in a layer
    parts           our part of an expert -> its map, with {} for the expert's number
    normalized      key that says whether the weights of the chosen ones sum to 1; "" where they always do
    dense           key of the layers that have an FFN instead, and step: of how many the last is a mixture
    first           key of how many layers come before the first mixture
    routing         how a router's outputs become scores: softmax, sigmoid
    stacked         instead of parts: gate_up and down -> the tensor of all experts [N, in, out], whose biases [N, out]
                    are called like it with _bias; columns of gate and up lie by turns
    shift           name of what is added to the router's outputs
    limit           key of the bound on what an expert computes
    bias            name of what is added to the scores for the choice alone
    scale           key of a factor on what the chosen ones give together
    groups          keys of how many groups there are, and from how many of them a token chooses
    shared          key of how many more experts every token runs, and shared_parts: their maps, all in one;
                    shared_width: key of how wide they are together, where that is what the file says
    shared_gate     the map from a token to what these count, 0 to 1; "" where they always count
    """

    count: tuple[str, ...]
    chosen: str
    width: str
    router: str
    parts: Mapping[str, str] = field(default_factory=dict)
    stacked: Mapping[str, str] = field(default_factory=dict)
    shift: str = ""
    limit: str = ""
    normalized: str = ""
    dense: str = ""
    step: str = ""
    first: str = ""
    routing: str = "softmax"
    bias: str = ""
    scale: str = ""
    groups: tuple[str, str] | None = None
    shared: str = ""
    shared_width: str = ""
    shared_gate: str = ""
    shared_parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Latent:
    """Of attention whose keys and values come from one short vector for each token; the maps' names in a layer.

    rank, query_rank   keys of the widths of the short vectors; without the second, queries come from the token itself
    turned, values     keys of how many channels of a head turn beside those that don't, and of how wide its values are
    are_adjacent       key that says whether the channels that turn together are neighbours
    down, norm         to the short vector and, in the last rows, the rotary key; the norm of the short vector
    up                 from it to what each head's keys and, behind them, values are
    query              of all heads, those that turn behind the others; query_down, query_norm, query_up where there is
                       a query_rank
    """

    rank: str
    query_rank: str
    turned: str
    values: str
    are_adjacent: str
    down: str
    norm: str
    up: str
    query: str
    query_down: str
    query_norm: str
    query_up: str


@dataclass(frozen=True)
class Delta:
    """Of layers that have a gated delta rule in place of attention: keys of its sizes, and its maps' names in a layer.

    kind               what layer_types calls such a layer; every: where no list says it, of so many the last is another
    keys, values       keys of how many of either there are; key_dim, value_dim: of how wide one is
    taps               key of how many tokens the convolutions see
    inputs             for each key: its query, itself, its values and their gates
    gates              for each key: strengths and steps of its values; step: what is added to these; rate: log of decay
    conv               one convolution of all queries, keys and values
    norm, out          behind the state, and back to the width
    """

    kind: str
    every: str
    keys: str
    values: str
    key_dim: str
    value_dim: str
    taps: str
    inputs: str
    gates: str
    step: str
    rate: str
    conv: str
    norm: str
    out: str


@dataclass(frozen=True)
class Disentangled:
    """Of attention whose scores look at distances by content, in rows of one table for all layers.

    table              its name, and norm: that of the LayerNorm on it, where the key norm_key asks for one
    keys, queries      the maps from it, in a layer, and is_key_biased: whether the first has a bias
    shared             key that says whether those of the tokens serve, too; "" where they never do
    buckets            key of how many rows a side has of which the farther ones are logarithmic
    convolution        key of the taps of a convolution beside the first layer, which is not taken
    """

    table: str
    keys: str
    queries: str
    is_key_biased: bool = False
    shared: str = ""
    buckets: str = ""
    norm: str = ""
    norm_key: str = ""
    convolution: str = ""


@dataclass(frozen=True)
class Family:
    """One description. Where nothing is said, it is a Llama.

    architectures   the classes of transformers and the task that each ends in; the first where the config names none
    prefixes        what the names of tensors may begin with, left out below
    renames         (regular expression, replacement) of names of older or other files
    keys            what differs from KEYS; None where the family has no such key
    defaults        by their keys, of the family's config class where the file says nothing
    only            keys that may have this value alone, or be missing
    same            keys that may have the value of another key alone
    harmless        keys that change nothing here
    left_out        tensors that are read by nothing here and said to be left out; regular expressions
    computed        regular expression of tensors that follow from the config
    rows            the token rows; projected: the map from them to the width, where they are narrower
    narrow          the key of the rows' width
    positions       rows of learned positions; `skipped` of them come first, a number or the key of the last one
    segments        rows of token types, the first of which is added to every position
    embedding_norm  the norm on their sum, of a decoder on the token rows
    is_shared       whether one layer runs for all
    layers          name of one layer with {} for its number
    parts           our part of a block -> their map or norm
    relative        table of a bias by distance, one for all layers
    norm            operator of every norm; norm_offset: what is added to its gains
    final_norm      "" where there is none
    placement       of the norms in a block
    parallel        whether attention and FFN read the same input, each through its own norm, or the key that says so;
                    these norms, LayerNorms, differ by a gain and a shift alone, which become parts of the maps behind
                    them
    is_gated        whether the FFN has a gate
    biases          qkv, o, ffn, or one of q, k, v by itself -> True, False, or the key that says so
    is_transposed   whether maps are stored as [in, out]
    is_rotary       whether queries and keys are turned by their positions
    has_alibi       whether scores fall with the distance by fixed slopes
    partial         keys that say which share of a head's channels turns; turning: the key of how many do
    are_adjacent    whether the channels that turn together are neighbours, not halves of a head
    qk_norm         operator that norms queries and keys, "" for none
    sliding         which layers see a window alone: all, late (from max_window_layers on), every N-th not or, counted
                    from the first one, after N; those that the key attention_types calls local: types; "" none
    window          the key of its length
    experts         FFNs that are mixtures
    latent          attention through short vectors; head_dim is then the part of a head that does not turn
    delta           layers with a delta rule among those with attention
    disentangled    attention that looks at distances by content
    sinks           name of a number for each head that is one more score of each token; "" none
    output_gate     whether what attention gives is gated, by the map mixer.gate_proj
    further         key of how many layers, behind those that run, only guess tokens further on; they are left out
    norm_bias       key that says whether norms have a shift; where it is "", a LayerNorm has
    has_gains       whether norms have a gain and a shift
    d_ff_ratio      how many times the width an FFN is where the file does not say
    is_normed_at_first   whether the first layer's attention has its norm, too
    is_tied         whether head and token rows are one by default
    scales          embedding, residual, logits (divided by), scores -> key of a factor, or a rule: sqrt_width,
                    query_scalar, undivided (scores by nothing)
    second_token    of an image, behind the class token; the whole name
    head            name of the map to the vocabulary; has_head_bias: whether it has a bias
    masked, classifier   of encoders
    variants        (values of keys, what differs from this description for a config that has all of them)
    """

    architectures: Mapping[str, str]
    layers: str
    parts: Mapping[str, str]
    prefixes: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    keys: Mapping[str, str | None] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()
    computed: str = ""
    rows: str = "embed_tokens"
    projected: str = ""
    narrow: str = ""
    positions: str = ""
    skipped: int | str = 0
    segments: str = ""
    embedding_norm: str = ""
    is_shared: bool = False
    relative: str = ""
    norm: str = "rmsnorm"
    norm_offset: float = 0.0
    final_norm: str = "norm"
    placement: str = "pre"
    parallel: bool | str = False
    is_gated: bool = True
    biases: Mapping[str, bool | str] = field(default_factory=dict)
    is_transposed: bool = False
    is_rotary: bool = True
    has_alibi: bool = False
    partial: tuple[str, ...] = ()
    turning: str = ""
    are_adjacent: bool = False
    qk_norm: str = ""
    sliding: str = ""
    window: str = "sliding_window"
    experts: Experts | None = None
    latent: Latent | None = None
    delta: Delta | None = None
    disentangled: Disentangled | None = None
    sinks: str = ""
    output_gate: bool = False
    further: str = ""
    norm_bias: str = ""
    has_gains: bool = True
    d_ff_ratio: int = 0
    is_normed_at_first: bool = True
    is_tied: bool = False
    scales: Mapping[str, str] = field(default_factory=dict)
    second_token: str = ""
    head: str = "lm_head"
    has_head_bias: bool = False
    masked: MaskedHead | None = None
    classifier: Classifier | None = None
    variants: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = ()

    def key(self, name: str) -> str | None:
        """Theirs of one of KEYS."""
        return self.keys.get(name, KEYS[name])


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


EVERYWHERE = {"qkv": True, "o": True, "ffn": True}  # biases
NO_ENCODER = {"is_encoder_decoder": False, "add_cross_attention": False, "pruned_heads": {}}
ROTARY_MAPS = r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"  # frequencies that older files keep
# What most decoders since Llama call the parts of a layer.
LAYER = {
    "mixer_norm_in": "input_layernorm",
    "ffn_norm_in": "post_attention_layernorm",
    "mixer.q_proj": "self_attn.q_proj",
    "mixer.k_proj": "self_attn.k_proj",
    "mixer.v_proj": "self_attn.v_proj",
    "mixer.o_proj": "self_attn.o_proj",
    "ffn.gate_proj": "mlp.gate_proj",
    "ffn.up_proj": "mlp.up_proj",
    "ffn.down_proj": "mlp.down_proj",
}
