"""Fixtures that the tests share; CIFAR100_DIR names the folder of the real data, if any."""

import os

import matplotlib.pyplot as plt
import pytest

# Here JAX compiles longer than it computes. (Before the backend is loaded.)
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

from cifar100_helpers.data import load_cifar100, load_synthetic

import keras  # isort: skip  (after the package, which sets how its backend computes)


@pytest.fixture(scope="session")
def real_data_dir():
    """The folder of the official files; tests that need it are skipped if it is not named."""
    folder = os.environ.get("CIFAR100_DIR")
    if not folder:
        pytest.skip("CIFAR100_DIR is not set: this check needs the real CIFAR-100")
    return folder


@pytest.fixture(scope="session")
def real_data(real_data_dir):
    """The real CIFAR-100."""
    return load_cifar100(real_data_dir)


@pytest.fixture(scope="session")
def synthetic():
    """A small synthetic data set: 2,000 training and 500 test images."""
    return load_synthetic(train_size=2_000, test_size=500, seed=0)


@pytest.fixture(autouse=True)
def close_figures():
    """Leave no figure, and no stamp on figures, to the next test."""
    yield
    plt.close("all")
    plt.rcParams["figure.hooks"] = []


@pytest.fixture
def fresh_keras():
    """Start a test from the same seed, and clean up after it.

    Before the next one would be too late: a module's fixtures are made before this one.
    """
    keras.utils.set_random_seed(0)
    yield
    keras.utils.clear_session()
    keras.config.set_dtype_policy("float32")
