"""Checkpoints to score with."""

import pytest

from tests.tasks.sets import checkpoint


@pytest.fixture(scope="package")
def weights(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("trained") / "checkpoint").weights


@pytest.fixture(scope="package")
def other_weights(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("trained") / "checkpoint", seed=1).weights
