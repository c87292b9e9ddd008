"""Two lookups with a norm between them: the second by more signs to a chunk."""

import torch

from tests.searchspace.ops.identities import activations, build, output

DEFINING_TERM = ('spec["bits"] + spec["extra_bits"]', 'spec["bits"]')


def test_it_is_the_two_lookups_of_the_paper():
    """Chunk by chunk: the row whose number has the signs as digits, times the product of sigmoid(2 |z|)."""
    module, x = build("ffn", "memory_ffn", bits=4, extra_bits=2, d_ff=18), activations()
    module.memory_bias.data.normal_()

    def looked_up(z: torch.Tensor, tables: torch.Tensor, bits: int) -> torch.Tensor:
        y = torch.zeros(*z.shape[:-1], tables.shape[1], dtype=z.dtype)
        for c in range(z.shape[-1] // bits):
            chunk = z[..., c * bits : (c + 1) * bits]
            row = sum((chunk[..., i] >= 0).long() << i for i in range(bits)) + (c << bits)
            y = y + torch.sigmoid(2 * chunk.abs()).prod(-1, keepdim=True) * tables[row]
        return y

    hidden = looked_up(x, module.up_lookup.tables, 4)
    hidden = torch.nn.functional.layer_norm(hidden, (18,), module.memory_weight, module.memory_bias)
    expected = looked_up(hidden, module.down_lookup.tables, 6)
    torch.testing.assert_close(output(module, x), expected, rtol=1e-9, atol=1e-9)
