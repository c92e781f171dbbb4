import pytest
import torch
from open_clip_train.scheduler import cosine_lr

from dcexp.scale import PUBLISHED, Recipe
from dcexp.training.schedule import interval_ends, interval_of, learning_rate


@pytest.mark.parametrize("name", ["tiny", "debug", "small", "large"])
def test_learning_rate_equals_open_clip(name):
    recipe = Recipe(**PUBLISHED[name]["recipe"])
    steps = -(-PUBLISHED[name]["samples_seen"] // recipe.batch_size)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    expected = cosine_lr(optimizer, recipe.lr, recipe.warmup, steps)
    assert all(learning_rate(recipe, s, steps) == expected(s) for s in range(0, steps, 1 + steps // 3000))
    assert learning_rate(recipe, steps - 1, steps) == expected(steps - 1) > 0


def test_full_rate_at_the_last_warmup_step_and_after_it():
    recipe = Recipe(**PUBLISHED["small"]["recipe"])
    assert learning_rate(recipe, 499, 3125) == learning_rate(recipe, 500, 3125) == recipe.lr


@pytest.mark.parametrize(("steps", "intervals"), [(125, 5), (3125, 8), (7, 7), (142_046, 5), (20, 3)])
def test_intervals_cover_the_steps_evenly(steps, intervals):
    ends = interval_ends(steps, intervals)
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    assert ends[-1] == steps
    assert max(lengths) - min(lengths) <= 1
    assert ends == [int(steps * k / intervals + 0.5) for k in range(1, intervals + 1)]


def test_interval_of_a_step():
    assert [interval_of(step, [3, 5, 9]) for step in (0, 2, 3, 8)] == [(0, 0, 3), (0, 0, 3), (1, 3, 5), (2, 5, 9)]
