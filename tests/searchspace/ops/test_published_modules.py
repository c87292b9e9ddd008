"""Operators against the modules of transformers that implement the same papers, in float32, as those compute."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DeepseekV3Config, KimiLinearConfig, Mamba2Config, MixtralConfig, Qwen3NextConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

from tests.searchspace.ops.identities import D, activations, build, output

HEAD_DIM, EPS = 4, 1e-6
SETTINGS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 1, "head_dim": HEAD_DIM, "conv_taps": 4}
QUERY_SCALE = EPS / HEAD_DIM  # theirs divide queries by sqrt(K), which the norm undoes but for its epsilon


@torch.no_grad()
def drawn(module: Any) -> Any:
    """In float32, with random weights also where it starts at 0 or holds what was in memory."""
    torch.manual_seed(0)
    module = module.float().eval()
    for tensor in module.parameters():
        tensor.copy_(0.4 * torch.randn_like(tensor))
    return module


def assert_computes(module: Any, theirs: nn.Module, T: int = 40) -> None:
    x = activations(T).float()
    with torch.no_grad():
        wanted = theirs(x)
        torch.testing.assert_close(
            output(module, x), wanted[0] if isinstance(wanted, tuple) else wanted, rtol=1e-5, atol=1e-5
        )


def copy(target: Tensor, *sources: Tensor) -> None:
    """The rows of `sources`, one below the other."""
    with torch.no_grad():
        target.copy_(torch.cat([s.reshape(-1, *target.shape[1:]) for s in sources]))


def taps(theirs: nn.Module, *convs: Any) -> None:
    """Theirs are stored from the oldest token on."""
    copy(theirs.conv1d.weight, *(conv.weight.flip(1).unsqueeze(1) for conv in convs))  # type: ignore[union-attr,arg-type]


def experts(theirs: Any, module: Any) -> None:
    for i, expert in enumerate(module.experts):
        copy(theirs.gate_up_proj[i], expert.gate.weight, expert.up.weight)
        copy(theirs.down_proj[i], expert.down.weight)


def test_mixtral_is_softmax_routing_without_a_shared_expert_and_without_bias():
    items: dict[str, Any] = {"num_experts": 6, "top_k": 2, "d_expert": 5, "d_shared": 0}
    module = drawn(build("ffn", "moe", **items, routing="softmax"))
    module.router_bias.data.zero_()
    theirs = MixtralSparseMoeBlock(
        MixtralConfig(hidden_size=D, intermediate_size=5, num_local_experts=6, num_experts_per_tok=2)
    ).eval()
    copy(theirs.gate.weight, module.router_weight)
    experts(theirs.experts, module)
    assert_computes(module, theirs)


def test_deepseek_v3_is_sigmoid_routing_with_a_bias_and_a_shared_expert():
    items: dict[str, Any] = {"num_experts": 6, "top_k": 3, "d_expert": 5, "d_shared": 10}
    module = drawn(build("ffn", "moe", **items, routing="sigmoid", scale=2.5))
    config = DeepseekV3Config(
        hidden_size=D,
        moe_intermediate_size=5,
        n_routed_experts=6,
        num_experts_per_tok=3,
        n_shared_experts=2,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=2.5,
    )
    theirs = DeepseekV3MoE(config).eval()
    copy(theirs.gate.weight, module.router_weight)
    theirs.gate.e_score_correction_bias.copy_(module.router_bias.detach())
    experts(theirs.experts, module)
    shared = theirs.shared_experts
    for name in ("gate_proj", "up_proj", "down_proj"):
        copy(getattr(shared, name).weight, getattr(module, name).weight)
    assert_computes(module, theirs)


def test_mamba2_of_heads_that_fill_twice_the_width():
    items: dict[str, Any] = {
        "num_groups": 2,
        "heads_per_group": 3,
        "head_dim": HEAD_DIM,
        "num_states": 5,
        "conv_taps": 4,
    }
    module = drawn(build("mixer", "mamba2", **items))
    config = Mamba2Config(
        hidden_size=D,
        num_heads=6,
        head_dim=HEAD_DIM,
        expand=2,
        state_size=5,
        n_groups=2,
        conv_kernel=4,
        layer_norm_epsilon=1e-5,
        num_hidden_layers=1,
        chunk_size=16,
    )
    theirs: Any = Mamba2Mixer(config, 0).eval()
    parts = [projection.weight for _, projection, _ in module.paths()]
    copy(theirs.in_proj.weight, module.ssd_gate_proj.weight, *parts, module.ssd_step_weight)
    taps(theirs, *(conv for _, _, conv in module.paths()))
    copy(theirs.conv1d.bias, module.ssd_u_bias, module.ssd_B_bias, module.ssd_C_bias)
    for target, source in (
        (theirs.dt_bias, module.ssd_step_bias),
        (theirs.A_log, module.ssd_log_rate),
        (theirs.D, module.ssd_skip),
        (theirs.norm.weight, module.ssd_norm_weight),
        (theirs.out_proj.weight, module.ssd_down_proj.weight),
    ):
        copy(target, source)
    assert_computes(module, theirs)


def test_qwen3_next_has_two_values_for_each_key():
    module = drawn(build("mixer", "gated_deltanet", **SETTINGS, beta_max=1, values_per_key=2, expand_v=2))
    config = Qwen3NextConfig(
        hidden_size=D,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=HEAD_DIM,
        linear_value_head_dim=2 * HEAD_DIM,
        linear_conv_kernel_dim=4,
        rms_norm_eps=QUERY_SCALE,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = Qwen3NextGatedDeltaNet(config, 0).eval()
    mapped = (module.q_proj, module.k_proj, module.wide_v_proj, module.wide_gate_proj)
    copy(theirs.in_proj_qkvz.weight, *(p.weight.chunk(2)[g] for g in range(2) for p in mapped))
    gates = (module.wide_beta_weight, module.wide_step_weight)
    copy(theirs.in_proj_ba.weight, *(w.chunk(2)[g] for g in range(2) for w in gates))
    taps(theirs, *(conv for _, _, conv in module.paths()))
    for target, source in (
        (theirs.dt_bias, module.wide_step_bias),
        (theirs.A_log, module.wide_log_rate),
        (theirs.norm.weight, module.wide_norm_weight),
        (theirs.out_proj.weight, module.wide_o_proj.weight),
    ):
        copy(target, source)
    assert_computes(module, theirs)


def test_kimi_linear_has_a_decay_for_each_channel():
    module = drawn(build("mixer", "kimi_delta", **SETTINGS, beta_max=1))
    config = KimiLinearConfig(
        hidden_size=D,
        linear_num_heads=2,
        linear_head_dim=HEAD_DIM,
        linear_conv_kernel_dim=4,
        rms_norm_eps=QUERY_SCALE,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = KimiLinearDeltaAttention(config, 0).eval()
    gate = theirs.forget_gate
    for target, source in (
        (theirs.q_proj.weight, module.q_proj.weight),
        (theirs.k_proj.weight, module.k_proj.weight),
        (theirs.v_proj.weight, module.v_proj.weight),
        (gate.f_a_proj.weight, module.fade_reduce),
        (gate.f_b_proj.weight, module.fade_expand),
        (gate.dt_bias, module.fade_bias),
        (theirs.b_proj.weight, module.beta_weight),
        (theirs.g_a_proj.weight, module.gate_reduce),
        (theirs.g_b_proj.weight, module.gate_expand),
        (theirs.o_norm.weight, module.norm_weight),
        (theirs.o_proj.weight, module.o_proj.weight),
    ):
        copy(target, source)
    with torch.no_grad():
        gate.A_log.copy_(module.log_rate.view_as(gate.A_log))
    taps(theirs, *(conv for _, _, conv in module.paths()))
    assert_computes(module, theirs)
