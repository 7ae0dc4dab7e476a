"""Small runs."""

import pytest

from tests.train.small import small_config


@pytest.fixture
def config(tmp_path):
  return small_config(tmp_path)
