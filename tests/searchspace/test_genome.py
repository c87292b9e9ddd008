"""Genomes: a vector of small integers for each architecture of a space, and back."""

from itertools import product

import numpy as np
import pytest

from searchspace.load import load_space, resolve
from searchspace.spec.genome import Encoding
from tests.searchspace.archs import decoder, tiny_space


@pytest.mark.parametrize("name", ["tiny-lm", "tiny-vision"])
def test_reading_and_writing_an_architecture_gives_it_back(name: str):
    encoding = Encoding(load_space(name))
    genomes = np.random.default_rng(0).integers(0, encoding.num_values, size=(300, len(encoding)))
    canonical = encoding.canonical(genomes)
    assert np.array_equal(encoding.canonical(canonical), canonical)
    for raw, genome in zip(genomes.tolist(), canonical.tolist(), strict=True):
        arch = encoding.decode(tuple(raw))
        assert encoding.decode(tuple(genome)) == arch
        assert encoding.decode(encoding.encode(arch)) == arch


def test_the_size_is_what_counting_one_by_one_gives():
    encoding = Encoding(resolve(tiny_space()))
    every = np.array(list(product(*(range(n) for n in encoding.num_values))))
    assert encoding.size() == len(np.unique(encoding.canonical(every), axis=0))


def test_random_genomes_are_canonical_and_the_same_for_one_seed():
    encoding = Encoding(load_space("tiny-lm"))
    first, second = (encoding.random(50, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(encoding.canonical(first), first)


def test_a_shared_slot_is_the_same_in_every_block():
    encoding = Encoding(resolve(tiny_space()))
    for genome in encoding.random(100, np.random.default_rng(0)).tolist():
        assert len({b.norm for b in encoding.decode(tuple(genome)).blocks if b.is_active}) <= 1


def test_what_is_outside_the_space_is_refused_by_name():
    encoding = Encoding(resolve(tiny_space()))
    with pytest.raises(ValueError, match="d_model offers \\[8, 16\\], the architecture has 24"):
        encoding.encode(decoder(d_model=24))
    with pytest.raises(ValueError, match=r"a genome of tiny has \d+ genes, got 1"):
        encoding.decode((0,))
    with pytest.raises(ValueError, match="d_model has 2 values, got index 2"):
        encoding.decode((2,) + (0,) * (len(encoding) - 1))
