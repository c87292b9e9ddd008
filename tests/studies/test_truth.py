"""Truth tables as files: what is written is read, a cut line is dropped, and the noise is that of the seeds."""

from dataclasses import replace
from pathlib import Path

import pytest

from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec
from studies.errors import StoreError
from studies.truth import NEEDED, TruthRow, append, noise, read_shard, read_table, repair


def network(d_model: int) -> ArchSpec:
    block = BlockSpec(NONE, OpSpec.of("mlp", d_ff=16, activation=OpSpec("gelu")), OpSpec("rmsnorm"))
    return ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=16, max_len=8),
        d_model=d_model,
        blocks=(block,),
        stages=(StageSpec(1, d_model),),
        head=OpSpec.of("lm_head", vocab_size=16),
    )


def row(d_model: int, seed: int, loss: float, group: str = "100") -> TruthRow:
    return TruthRow(network(d_model), group, seed, 100, 200, loss, 0.25, (3.0, 2.5), 1.5, (2.75, 2.625))


def test_what_is_written_is_read_once_for_each_network_and_seed(tmp_path: Path):
    append(tmp_path / "shard-0.csv", [row(8, 0, 2.0), row(8, 1, 2.1)])
    append(tmp_path / "shard-1.csv", [row(8, 0, 9.0), row(16, 0, 1.9)])
    assert read_table(tmp_path) == [row(8, 0, 2.0), row(8, 1, 2.1), row(16, 0, 1.9)]


def test_a_line_cut_by_a_kill_is_dropped(tmp_path: Path):
    shard = tmp_path / "shard-0.csv"
    append(shard, [row(8, 0, 2.0), row(16, 0, 1.9)])
    shard.write_bytes(shard.read_bytes()[:-40])
    repair(shard)
    assert read_shard(shard) == [row(8, 0, 2.0)]


def test_a_shard_without_the_losses_at_rungs_is_read_and_goes_on_in_its_own_columns(tmp_path: Path):
    shard = tmp_path / "shard-0.csv"
    older = ",".join(NEEDED) + "\r\n"
    shard.write_bytes(older.encode())
    repair(shard)
    append(shard, [row(8, 0, 2.0)])
    assert shard.read_bytes().startswith(older.encode())
    assert read_shard(shard) == [replace(row(8, 0, 2.0), rungs=())]


def test_another_file_of_that_name_is_refused_and_stays(tmp_path: Path):
    shard = tmp_path / "shard-0.csv"
    for text in (b"a,b\r\n1,2", b"my notes"):
        shard.write_bytes(text)
        with pytest.raises(StoreError, match="no shard"):
            repair(shard)
        assert shard.read_bytes() == text


def test_a_header_cut_by_a_kill_is_written_again(tmp_path: Path):
    shard = tmp_path / "shard-0.csv"
    shard.write_bytes(b"arch_id,gro")
    repair(shard)
    append(shard, [row(8, 0, 2.0)])
    assert read_shard(shard) == [row(8, 0, 2.0)]


def test_an_architecture_that_is_not_its_id_is_refused(tmp_path: Path):
    shard = tmp_path / "shard-0.csv"
    append(shard, [row(8, 0, 2.0)])
    shard.write_text(shard.read_text().replace(network(8).id, "0" * 16))
    with pytest.raises(StoreError, match=f"architecture {'0' * 16} has the content of {network(8).id}"):
        read_shard(shard)


def test_a_folder_without_shards_is_no_table(tmp_path: Path):
    with pytest.raises(StoreError, match="no file shard"):
        read_table(tmp_path)


def test_noise_compares_the_spread_of_seeds_with_that_of_networks():
    # Seeds 2.0 and 2.2: variance 0.02. First seeds of the group 2.0, 3.0: variance 0.5, of which 0.02 is the seeds'.
    found = noise([row(8, 0, 2.0), row(8, 1, 2.2), row(16, 0, 3.0)])
    assert found.seed_sd == pytest.approx(0.02**0.5)
    assert found.groups == {"100": pytest.approx(0.5**0.5)}
    assert found.ratio == pytest.approx((0.5 - 0.02) / 0.02)
