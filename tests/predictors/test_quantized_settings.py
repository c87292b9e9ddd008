"""Operators in number formats as entries of a latency table."""

from predictors.operator_grid import measure_settings, operator_row, settings
from searchspace.load import resolve
from searchspace.spec.workload import Workload
from tests.searchspace.quantization.test_space import quantized_space

WORKLOAD = Workload(seq_len=16)


def test_a_table_has_an_entry_for_each_format_of_each_operator():
    quant = {
        "qkv": ["native", "int8_dynamic"],
        "up_gate": ["native", "bf16"],
        "down": ["native", "int8_static"],
    }
    keys = [s.key for s in settings(resolve(quantized_space(quant=quant)))]
    assert len(set(keys)) == len(keys)
    at_16 = [k for k in keys if "d_model=16" in k]
    assert sum(k.startswith("mixer softmax_attention") for k in at_16) == 2
    assert sum("q_format=int8_dynamic" in k and "v_format=int8_dynamic" in k for k in at_16) == 1
    assert sum(k.startswith("ffn mlp") for k in at_16) == 2 * 4
    assert sum(k.startswith("mixer lmu") for k in at_16) == 1  # without linear maps, so without formats
    assert not any("down_format" in k for k in keys if k.startswith("norm"))


def test_an_entry_moves_the_bytes_that_its_format_stores():
    found = {s.key: s for s in settings(resolve(quantized_space(quant={"down": ["native", "int8_dynamic"]})))}
    rows = {
        k: operator_row(s, WORKLOAD) for k, s in found.items() if k.startswith("ffn mlp") and "d_ff=32" in k
    }
    (native,) = (r for k, r in rows.items() if "format" not in k and "d_model=16" in k)
    (quantized,) = (r for k, r in rows.items() if "down_format=int8_dynamic" in k and "d_model=16" in k)
    assert native.flops == quantized.flops
    assert native.bytes - quantized.bytes == 16 * 32 * (4 - 1) - 4 * 16


def test_what_would_be_simulated_is_not_timed():
    space = resolve(quantized_space(quant={"down": ["fp8"], "state": ["int8"]}))
    chosen = [s for s in settings(space) if "format" in s.key]
    assert len(chosen) > 2
    timed, failures = measure_settings(chosen, Workload("decode", context_len=8))
    assert timed == []
    reasons = " ".join(failures.values())
    assert "fp8 has no kernel on cpu for 1 tokens at once, so its latency would be simulated" in reasons
    assert "a state as int8 has no kernel on cpu" in reasons


def test_training_has_no_formats():
    space = resolve(quantized_space(quant={"down": ["bf16"]}))
    (setting, *_) = (s for s in settings(space) if "down_format" in s.key)
    _, failures = measure_settings([setting], Workload("train", seq_len=16))
    assert "formats are for inference" in failures[setting.key]
