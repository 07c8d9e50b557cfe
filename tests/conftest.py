"""Fresh random inputs in every run: the seed is printed, and STREAMCHAR_TEST_SEED repeats a run."""
import os
import secrets

import numpy as np
import pytest
import torch

_SEED = int(os.environ.get("STREAMCHAR_TEST_SEED", secrets.randbits(31)))


def pytest_report_header(config):
    return f"STREAMCHAR_TEST_SEED={_SEED}"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(_SEED)


@pytest.fixture
def seeded() -> int:
    """Seeds torch's global generator for the test's random inputs."""
    torch.manual_seed(_SEED)
    return _SEED


@pytest.fixture(scope="session")
def capi(tmp_path_factory):
    """libstreamchar, built and installed once; see capi_support.py."""
    from .capi_support import load

    return load(tmp_path_factory.mktemp("capi"))


@pytest.fixture(scope="session")
def voice() -> str:
    """A true voice's name; skips where nothing speaks with it."""
    from tools.studio.flite import FliteMissingError, flite

    try:
        flite()
    except FliteMissingError as error:
        pytest.skip(str(error))
    return "rms"
