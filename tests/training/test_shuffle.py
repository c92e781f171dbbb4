"""The shuffle draws what webdataset's draws, and goes on from wherever it was cut."""

from itertools import count, islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.filters import shuffle as webdataset_shuffle

from dcexp.training.shuffle import SIZE, START, Shuffle

SIZES = st.integers(1, 40)
# Any seed that random takes: training seeds with a text.
SEEDS = st.one_of(st.integers(), st.text(max_size=8))


@st.composite
def buffers(draw):
    """Size of a buffer, and how full it is at the start: no more than that."""
    size = draw(SIZES)
    return size, draw(st.integers(0, size))


@given(buffer=buffers(), seed=SEEDS, draws=st.integers(0, 150))
def test_it_draws_what_webdataset_draws(buffer, seed, draws):
    size, start = buffer
    theirs, ours = Random(seed), Random(seed)
    wanted = list(islice(webdataset_shuffle(size, initial=start, rng=theirs)(count()), draws))
    assert list(islice(Shuffle(count(), ours, [], size, start), draws)) == wanted
    assert ours.getstate() == theirs.getstate()


@given(buffer=buffers(), seed=SEEDS, cuts=st.lists(st.integers(0, 60), max_size=4))
def test_it_goes_on_from_wherever_it_is_cut(buffer, seed, cuts):
    size, start = buffer
    drawn, items = [], count()
    shuffle = Shuffle(items, Random(seed), [], size, start)
    for cut in cuts:
        drawn += islice(shuffle, cut)
        rng = Random(0)
        rng.setstate(shuffle.rng.getstate())
        shuffle = Shuffle(items, rng, list(shuffle.buffer), size, start)
    drawn += islice(shuffle, 60)
    assert drawn == list(islice(webdataset_shuffle(size, initial=start, rng=Random(seed))(count()), len(drawn)))


@pytest.mark.parametrize("seed", [0, "shuffle 7692698082559361259"])
def test_it_does_so_with_a_buffer_of_the_size_that_training_has(seed):
    draws = SIZE - START + 500  # the buffer is full for the last of them
    wanted = list(islice(webdataset_shuffle(SIZE, initial=START, rng=Random(seed))(count()), draws))
    shuffle = Shuffle(count(), Random(seed), [])
    assert list(islice(shuffle, draws)) == wanted
    assert len(shuffle.buffer) == SIZE - 1
