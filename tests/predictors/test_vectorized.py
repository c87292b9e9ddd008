"""Many genomes at once give the numbers of one architecture at a time."""

import numpy as np
import pytest

from predictors.lookup import Correction, OperatorTable
from predictors.vectorized import GenomePredictor
from searchspace.load import load_space
from searchspace.spec.genome import Encoding
from searchspace.spec.workload import Workload
from tests.predictors.synthetic import WORKLOAD, roofline_ms, space_profile


@pytest.mark.parametrize("name", ["tiny-lm", "tiny-vision", "lm-hybrid"])
def test_genomes_together_are_predicted_as_their_architectures_alone(name):
    space = load_space(name)
    encoding = Encoding(space)
    table = OperatorTable(
        space_profile(space, roofline_ms), Correction(1.5, 0.25, 3.0, spread=0.1, width=2.0)
    )
    together = GenomePredictor(encoding, table, WORKLOAD)
    for seed in range(2):  # the second time most blocks are known
        genomes = encoding.random(150, np.random.default_rng(seed))
        found = np.array(together.latency(genomes)).T
        for genome, values in zip(genomes, found, strict=True):
            alone = table.latency(encoding.decode(tuple(genome.tolist())), WORKLOAD)
            assert values.tolist() == pytest.approx([alone.value_ms, alone.low_ms, alone.high_ms], rel=1e-12)


def test_another_workload_than_the_table_has_is_refused():
    space = load_space("tiny-lm")
    with pytest.raises(ValueError, match="for the workload forward"):
        GenomePredictor(Encoding(space), OperatorTable(space_profile(space)), Workload(batch_size=2))
