"""Descriptions of families of pretrained transformers as data: `llamas`, `gpts`, `encoders` and `debertas` hold one for
each family, `convert` reads them.

Tensor names are those of the file without `.weight` and `.bias`. A projection may be part of a larger one or be scaled:

    NAME#q NAME#k NAME#v      rows of one projection to all queries, then all keys, then all values
    NAME#each:q ...           rows of one projection to the queries, key and values of each key head in turn
    NAME#0 NAME#1             the first and the second half of the rows
    NAME#half:0 NAME#half:1   the first and the second half of each head's rows
    NAME*OTHER                outputs times the tensor OTHER, given by its full name
    NAME+OTHER                with the bias OTHER, given by its full name
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Our name of a size or setting -> its usual key in config.json.
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
    """Head of a masked language model: a hidden layer `transform`, its norm, and `decoder` to the vocabulary.

    The decoder's weights are the token rows where the two are tied or `decoder` is "". `shared_bias`: full name of the
    bias that replaces `decoder.bias` where the file lacks that. `activation`: "" to read it from the config.
    `transform_bias`: key that says whether the hidden layer has a bias, "" where it always has one.
    """

    transform: str
    norm: str
    decoder: str
    shared_bias: str = ""
    activation: str = ""
    transform_bias: str = ""


@dataclass(frozen=True)
class Classifier:
    """Head of a classifier. Sequences: the first token's state through `hidden` (if any) and `activation`, then `out`.

    Tokens: each token's state through `tokens`. `activation_key`: key of the activation where the config names it.
    """

    out: str = "classifier"
    hidden: str = ""
    activation: str = "none"
    activation_key: str = ""
    tokens: str = "classifier"


@dataclass(frozen=True)
class Experts:
    """FFNs that are mixtures of experts: keys of the config and names of tensors in a layer.

    count           alternative keys of the number of experts; chosen: key of the number per token
    width           key of the hidden width of an expert
    router          projection from a token to its logits over experts
    parts           our part of an expert -> its projection, with {} for the expert's number
    normalized      key that says whether the weights of the chosen experts sum to 1; "" where they always do
    dense           key of the list of layers with a plain FFN; step: key of the period, whose last layer is a mixture
    first           key of the number of layers before the first mixture
    routing         function from the router's logits to scores: softmax or sigmoid
    stacked         instead of parts: gate_up and down -> one tensor of all experts [N, in, out], with biases [N, out]
                    under its name plus _bias; the columns of gate and up alternate
    shift           tensor added to the router's logits
    limit           key of the bound on an expert's activations
    bias            tensor added to the scores for the choice of experts only
    scale           key of a factor of the sum over the chosen experts
    groups          keys of the number of groups and of the number of groups from which a token chooses
    shared          key of the number of shared experts, which every token uses; shared_width: key of their total width
                    in files that give that instead; shared_parts: their projections, all shared experts in one
    shared_gate     projection from a token to the weight of the shared experts, 0 to 1; "" where the weight is 1
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
    """Multi-head latent attention, whose keys and values come from one latent vector per token: keys of the config and
    names of projections in a layer.

    rank, query_rank   keys of the widths of the latents of keys and values, and of queries; where the config's
                       query_rank is null, queries are projected from the token itself
    turned, values     keys of the numbers of a head's rotary channels, beside its head_dim others, and value channels
    are_adjacent       key that says whether rotary pairs are adjacent channels
    down, norm         projection to the latent and, in its last rows, the rotary key; the norm of the latent
    up                 projection from the latent; its rows are, for each head, the keys and then the values
    query              projection to the queries, each head's rotary channels last; query_down, query_norm and query_up
                       replace it where the config has a query_rank
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
    """Layers with a gated delta rule in place of attention: keys of its sizes and names of its tensors in a layer.

    kind               name of such a layer in layer_types; every: key of the period for configs without layer_types,
                       in which the last layer of each period has attention
    keys, values       keys of the numbers of key and value heads; key_dim, value_dim: of the channels of one
    taps               key of the convolutions' length in tokens
    inputs             one projection whose rows are, for each key head, its query, key, values and their output gates
    gates              one projection to, for each key head, the betas and steps of its values; step: bias of the steps;
                       rate: logarithm of the decay rates
    conv               one convolution over all queries, keys and values
    norm, out          norm of the outputs, and the projection to the network's width
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
    """DeBERTa's disentangled attention: content scores against relative embeddings from one table for all layers.

    table              name of the table; norm: of its LayerNorm, used where the key norm_key lists "layer_norm"
    keys, queries      a layer's projections of the table; is_key_biased: whether that to keys has a bias
    shared             key that says whether the tokens' projections also project the table; "" where they never do
    buckets            key of the rows on each side of distance 0 where far distances are in logarithmic buckets
    convolution        key of the length of a convolution beside the first layer, which is not supported
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
    """The description of one family. The field defaults describe a Llama.

    architectures   class name in transformers -> task; the first is used where the config names no class
    prefixes        prefixes that tensor names may have in the file, omitted in all names below
    renames         (regular expression, replacement) for tensor names of older or other files
    keys            entries that differ from KEYS; None where the family has no such key
    defaults        key -> the value that the family's config class has where the file lacks the key
    only            key -> the only value supported; the key may be missing
    same            key -> another key whose value it must have
    harmless        keys that do not change what the model computes
    left_out        regular expressions of tensors that are not imported and that a note names
    computed        regular expression of tensors that follow from the config
    rows            the token embedding; projected: its projection to the network's width, where it is narrower
    narrow          key of the token embedding's width
    positions       learned position rows; `skipped`: number of leading rows to skip, or the key of the last such row
    segments        token type rows, the first of which is added to every position
    embedding_norm  norm of the summed embeddings, in decoders of the token embedding
    is_shared       whether all layers share the weights of one
    layers          name of a layer with {} for its number
    parts           our part of a block -> the file's projection or norm in a layer
    relative        table of a score bias by distance, shared by all layers
    norm            operator of every norm; norm_offset: constant added to its gains
    final_norm      name of the final norm, "" for none
    placement       placement of the norms in a block
    parallel        whether attention and FFN read the same input, each through its own LayerNorm, or the key that says
                    so; gains and shifts of these norms are folded into the projections after them
    is_gated        whether the FFN has a gate
    biases          qkv, o, ffn, or one role such as k -> True, False, or the key that says so
    is_transposed   whether projections are stored as [in, out]
    is_rotary       whether queries and keys have rotary positions
    has_alibi       whether scores have ALiBi's bias
    partial         keys of the share of a head's channels that are rotated; turning: key of their number
    are_adjacent    whether rotary pairs are adjacent channels; otherwise they are half the rotated channels apart
    qk_norm         operator that normalizes queries and keys, "" for none
    sliding         which layers have a window: all; late: from max_window_layers on; every N: all but each N-th;
                    after N: all but the first and each N-th after it; types: those "local" in attention_types; "": none
    window          key of the window's length
    experts         mixtures of experts in place of FFNs
    latent          multi-head latent attention; head_dim is then the number of a head's channels that are not rotated
    delta           layers with a gated delta rule among those with attention
    disentangled    DeBERTa's disentangled attention
    sinks           name of a vector with one attention sink logit per head; "" for none
    output_gate     whether attention's output is gated by the projection mixer.gate_proj
    further         key of the number of extra layers, after those that run, for multi-token prediction; not imported
    norm_bias       key that says whether LayerNorms have a shift, "" where they always have
    has_gains       whether norms have a gain and a shift
    d_ff_ratio      FFN width over network width where the config lacks the FFN width
    is_normed_at_first   whether the first layer's attention has a norm
    is_tied         whether the head shares the token embedding by default
    scales          embedding, residual, logits (which are divided), scores -> key of a factor, or a rule: sqrt_width,
                    query_scalar, undivided (scores without 1/sqrt(K))
    second_token    full name of an image encoder's token after the class token
    head            name of the projection to the vocabulary; has_head_bias: whether it has a bias
    masked, classifier   heads of encoders
    variants        (values of keys, fields that replace these for a config with all of these values)
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
        """The family's config key for `name`, one of KEYS; None where it has none."""
        return self.keys.get(name, KEYS[name])


def words(text: str) -> frozenset[str]:
    """The set of words in `text`, which spaces separate."""
    return frozenset(text.split())


EVERYWHERE = {"qkv": True, "o": True, "ffn": True}  # biases
NO_ENCODER = {"is_encoder_decoder": False, "add_cross_attention": False, "pruned_heads": {}}
ROTARY_MAPS = r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"  # frequencies that older files hold
# Our part of a block -> its name in most decoders since Llama.
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
