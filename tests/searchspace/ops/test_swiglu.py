"""SwiGLU is a gate times a linear map."""

import torch

from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = (
    'gated_activation(self.gate_proj(x), self.up_proj(x), "silu")',
    "F.silu(self.gate_proj(x))",
)


def test_it_is_linear_in_the_gated_branch():
    ffn, x = build("ffn", "swiglu", d_ff=16), activations()
    before = output(ffn, x)
    ffn.up_proj.weight.data.mul_(2.5)
    assert_equal(output(ffn, x), 2.5 * before)


def test_a_closed_gate_lets_nothing_through():
    ffn, x = build("ffn", "swiglu", d_ff=16), activations()
    torch.nn.init.zeros_(ffn.gate_proj.weight)
    assert not output(ffn, x).any()


def test_it_holds_the_narrower_ones():
    wide, narrow = build("ffn", "swiglu", d_ff=32), build("ffn", "swiglu", d_ff=8)
    narrow.load_state_dict(
        {n: w[:, :8] if n.startswith("down") else w[:8] for n, w in wide.state_dict().items()}
    )
    wide.down_proj.weight.data[:, 8:] = 0
    x = activations()
    assert_equal(output(narrow, x), output(wide, x))
