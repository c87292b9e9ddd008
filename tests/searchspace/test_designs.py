"""Published designs: layers, weights and state by the formulas of their papers, and where a space holds one."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest

import nas
from nas.searchers.base import Problem
from searchspace.cost import cost
from searchspace.designs import design, members
from searchspace.load import designs, load_space
from searchspace.spec.arch import ArchSpec, BlockSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid

# Of every design here: width, vocabulary, channels of a head, taps of a convolution; bytes of a number.
D, W, K, J, BYTES = 64, 256, 16, 4, 4
SEEN = 512


@dataclass(frozen=True)
class Layer:
    """weights; numbers kept of every token, and kept at all times"""

    weights: int
    of_a_token: int = 0
    always: int = 0


def attention(
    G: int, H: int, window: int = 0, gated: bool = False, normed: bool = False, sink: bool = False
) -> Layer:
    """W_q, W_o of H heads, W_k, W_v of G; a gate as large as W_q; norms of q and k; a logit for each head."""
    weights = 2 * D * H * K + 2 * D * G * K + gated * D * H * K + normed * 2 * K + sink * H
    held = 2 * G * K
    return Layer(weights, 0, held * (window - 1)) if window else Layer(weights, held)


def latent(H: int, P: int, Q: int, E: int) -> Layer:
    """c = norm(W_c x) of P, a turned key of E; q by way of norm(W_u x) of Q, or at once; U and V; W_o."""
    queries = D * Q + Q + Q * H * (K + E) if Q else D * H * (K + E)
    return Layer(queries + D * (P + E) + P + 2 * P * H * K + H * K * D, P + E)


def gated_delta(H: int, values: int) -> Layer:
    """q and k of H heads, v, z and W_o of `values`, a and b of each of these; taps; A, b of a; a norm of a head."""
    keys, wide = H * K, values * K
    weights = 2 * D * keys + 3 * D * wide + 2 * D * values + J * (2 * keys + wide) + 2 * values + K
    return Layer(weights, 0, values * K * K + (J - 1) * (2 * keys + wide))


def kimi_delta(H: int) -> Layer:
    """q, k, v, W_o; taps; b; both gates by way of K channels; the decay's bias and A; a norm of a head."""
    inner = H * K
    weights = 4 * D * inner + 3 * J * inner + D * H + 2 * (D * K + K * inner) + inner + H + K
    return Layer(weights, 0, H * K * K + (J - 1) * 3 * inner)


def mamba2(H: int, N: int) -> Layer:
    """x and z of H heads, B and C of N states, a step for each head; taps with bias; A, D, bias of steps; norm; out."""
    inner = H * K
    mixed = inner + 2 * N
    weights = D * (2 * inner + 2 * N + H) + (J + 1) * mixed + 3 * H + inner + inner * D
    return Layer(weights, 0, H * N * K + (J - 1) * mixed)


def jet(H: int) -> Layer:
    """q, k, v, gate, W_o; a and b; A and bias; norm; the generator of taps, D to D / 8 to J for each channel."""
    inner, rank = H * K, D // 8
    weights = 5 * D * inner + 2 * D * H + 2 * H + K + rank * D + inner * J * rank + inner * J
    return Layer(weights, 0, H * K * K + (J - 1) * inner)


def lightning(H: int) -> Layer:
    """q, k, v, W_o, and a gate by way of 16 channels."""
    return Layer(4 * D * H * K + 2 * D * 16, 0, H * K * K)


def experts(width: int, shared: int = 0, gated: bool = False, N: int = 8) -> int:
    """N experts of three matrices, the router, a bias for each to keep them equally busy, one for all and its gate."""
    return N * 3 * D * width + D * N + N + 3 * D * shared + gated * D


WINDOW, FULL = attention(1, 4, 32, normed=True), attention(1, 4, normed=True)
QWEN, KIMI, DEEPSEEK = experts(32, 32, gated=True), experts(32, 32), experts(32, 32)
OSS = {window: attention(2, 4, window, sink=True) for window in (128, 0)}
# name: layers of (mixer, weights of the ffn), norms of a part, whether the embedding reads out
PUBLISHED: dict[str, tuple[list[tuple[Layer, int]], int, bool]] = {
    "qwen3-next": (
        [(gated_delta(4, 8), QWEN)] * 3 + [(attention(2, 8, gated=True, normed=True), QWEN)],
        1,
        False,
    ),
    "kimi-linear": (
        [(kimi_delta(4), 3 * D * 256), *[(kimi_delta(4), KIMI)] * 2, (latent(4, 32, 0, 8), KIMI)],
        1,
        False,
    ),
    "gemma-3": ([(WINDOW, 3 * D * 384)] * 5 + [(FULL, 3 * D * 384)], 2, True),
    "gpt-oss": ([(OSS[128], experts(64)), (OSS[0], experts(64))] * 2, 1, False),
    "nemotron-h": (
        [
            (mamba2(8, 32), 2 * D * 256),
            (mamba2(8, 32), 0),
            (attention(2, 4), 2 * D * 256),
            *[(mamba2(8, 32), 2 * D * 256)] * 2,
        ],
        1,
        False,
    ),
    "minimax-01": ([(lightning(4), experts(96))] * 7 + [(attention(1, 4), experts(96))], 1, False),
    "jet-nemotron": (
        [
            *[(jet(4), 3 * D * 384)] * 2,
            (attention(2, 4), 3 * D * 384),
            (attention(2, 4, 128), 3 * D * 384),
            *[(jet(4), 3 * D * 384)] * 2,
        ],
        1,
        False,
    ),
    "deepseek-v3": (
        [(latent(4, 32, 32, 8), 3 * D * 256), *[(latent(4, 32, 32, 8), DEEPSEEK)] * 3],
        1,
        False,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_and_state_are_those_of_the_paper(name: str) -> None:
    layers, norms, is_tied = PUBLISHED[name]
    parts = sum(1 + (ffn > 0) for _, ffn in layers)
    weights = sum(m.weights + ffn for m, ffn in layers) + parts * norms * D
    found, longer = (cost(design(name), Workload(seq_len=n)) for n in (SEEN, SEEN + 1))
    assert found.parameters == weights + W * D * (1 if is_tied else 2) + D
    of_a_token, always = (sum(getattr(m, part) for m, _ in layers) for part in ("of_a_token", "always"))
    assert longer.state_bytes - found.state_bytes == BYTES * of_a_token
    assert found.state_bytes == BYTES * (always + SEEN * of_a_token)


def mixers(*short: str) -> Callable[[BlockSpec], str]:
    """The mixer by its initial, then the items of these names."""
    return lambda block: block.mixer.op[0] + "".join(f" {block.mixer.get(name, '')}" for name in short)


PATTERNS = {
    "qwen3-next": (mixers("output_gate", "rotary_share"), ["g  "] * 3 + ["s element 0.25"]),
    "kimi-linear": (mixers("rotary"), ["k "] * 3 + ["l none"]),
    "gemma-3": (mixers("window", "rotary"), ["s 32 local"] * 5 + ["s 0 global"]),
    "gpt-oss": (mixers("window", "sink_logit"), ["s 128 True", "s 0 True"] * 2),
    "nemotron-h": (mixers("rotary"), ["m ", "m ", "s none", "m ", "m "]),
    "minimax-01": (mixers("rotary_share"), ["l "] * 7 + ["s 0.5"]),
    "jet-nemotron": (mixers("window"), ["j ", "j ", "s 0", "s 128", "j ", "j "]),
    "deepseek-v3": (mixers("rotary", "queries"), ["l global compressed"] * 4),
}
FFNS = {
    "qwen3-next": ["moe softmax"] * 4,
    "kimi-linear": ["swiglu ", *["moe sigmoid"] * 3],
    "gemma-3": ["glu "] * 6,
    "gpt-oss": ["moe softmax"] * 4,
    "nemotron-h": ["mlp ", "none ", *["mlp "] * 3],
    "minimax-01": ["moe softmax"] * 8,
    "jet-nemotron": ["swiglu "] * 6,
    "deepseek-v3": ["swiglu ", *["moe sigmoid"] * 3],
}
PLACEMENTS = dict.fromkeys(PUBLISHED, "pre") | {"gemma-3": "peri", "minimax-01": "post"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_follow_each_other_as_published(name: str) -> None:
    arch = design(name)
    words, pattern = PATTERNS[name]
    assert list(map(words, arch.blocks)) == pattern
    assert [f"{b.ffn.op} {b.ffn.get('routing', '')}" for b in arch.blocks] == FFNS[name]
    assert {b.placement for b in arch.blocks} == {PLACEMENTS[name]}
    assert why_invalid(arch) is None


def test_every_design_that_is_shipped_has_its_formulas() -> None:
    assert designs() == sorted(PUBLISHED)


def held(space: str, allowed: Callable[[ArchSpec], str | None] = why_invalid) -> tuple[Encoding, list[str]]:
    encoding = Encoding(load_space(space))
    found = members(encoding, allowed)
    for name, genome in found.items():
        arch = encoding.decode(genome)
        assert encoding.encode(arch) == genome
        used = [b for b in arch.blocks if b.is_active]
        assert [b.mixer.op for b in used] == [b.mixer.op for b in design(name).blocks]
        assert cost(arch, Workload()).flops > 0
    return encoding, list(found)


def test_a_space_holds_the_designs_that_it_can_express_and_no_others() -> None:
    assert held("hybrid-2026")[1] == ["deepseek-v3", "gpt-oss", "jet-nemotron", "kimi-linear", "nemotron-h"]
    assert held("tiny-lm")[1] == []
    assert held("vision")[1] == []


@pytest.mark.parametrize("name", ["gemma-3", "qwen3-next"])
def test_a_design_is_the_one_network_of_its_own_space(name: str) -> None:
    encoding, found = held(name)
    assert (encoding.size(), found) == (1, [name])
    assert encoding.decode(members(encoding, why_invalid)[name]) == design(name)


def test_a_member_has_the_cost_of_the_design_where_stem_and_head_are_the_same() -> None:
    encoding = Encoding(load_space("hybrid-2026"))
    for name, genome in members(encoding, why_invalid).items():
        both = [cost(arch, Workload(seq_len=64)) for arch in (encoding.decode(genome), design(name))]
        assert both[0] == both[1]


def test_a_design_that_breaks_a_bound_is_not_proposed() -> None:
    too_large = cost(design("jet-nemotron"), Workload()).parameters

    def small(arch: ArchSpec) -> str | None:
        return "too large" if cost(arch, Workload()).parameters >= too_large else None

    assert held("hybrid-2026", small)[1] == ["deepseek-v3", "gpt-oss", "kimi-linear", "nemotron-h"]


def test_designs_come_early_between_the_plain_networks() -> None:
    encoding = Encoding(load_space("hybrid-2026"))
    found = members(encoding, why_invalid)
    shared = next(iter(found.values()))
    problem = Problem(encoding, 2, 0, why_invalid, plain=((0,), (1,)), designs=found, first=(shared, (2,)))
    opening = [problem.opening[number][1] for number in sorted(problem.opening)]
    names = [f"design {name}" for name in found]
    assert opening == ["plain", names[0], "plain", *names[1:], "first"]


def test_a_search_on_a_space_that_holds_a_design_proposes_it_early(tmp_path: Path) -> None:
    text = files("searchspace").joinpath("spaces", "designs", "gemma-3.toml").read_text(encoding="utf-8")
    wider = text.replace('placement = "peri"', 'placement = ["pre", "peri"]')
    (tmp_path / "wider.toml").write_text(wider, encoding="utf-8")
    result = nas.search(
        space=str(tmp_path / "wider.toml"),
        objectives=["size"],
        evaluate=lambda arch: {"size": cost(arch, Workload()).parameters},
        searcher="random",
        trials=3,
        db=f"sqlite:///{tmp_path / 'nas.db'}",
    )
    first, second, _ = sorted(result.trials, key=lambda trial: trial.number)
    assert (first.origin, second.origin) == ("plain", "design gemma-3")
    assert ArchSpec.from_json(second.arch) == design("gemma-3")
