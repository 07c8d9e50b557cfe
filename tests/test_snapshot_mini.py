"""Snapshot files of the shipped model."""
from __future__ import annotations

import numpy as np
import pytest

from streamchar_rt import Engine, Snapshot
from streamchar_rt.bundle import MANIFEST, SHIPPED
from tests.schedules import content, perform

pytestmark = pytest.mark.skipif(not (SHIPPED / "mini" / MANIFEST).is_file(), reason="the mini model is not in this tree")


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_the_shipped_model_goes_on_byte_for_byte(kernels, rng):
    with Engine.load("mini", max_sessions=2, kernels=kernels) as engine:
        name, before = engine.characters()[int(rng.integers(8))], int(rng.integers(0, 4))
        with engine.session(name, seed=int(rng.integers(1 << 30)), steps=2) as session:
            perform(session, [("push_text", "Good [pause 0.5] morning, [pause 0.2] my fr"), ("step", before), ("listen",)])
            data = session.snapshot().to_bytes()
            after = [("push_text", "iend. [happy] One two"), ("step", 2), ("end_turn",), ("step", 2)]
            truth = content(perform(session, after))
            assert all(np.isfinite(chunk.audio).all() for chunk in perform(session, [("step", 1)]))
            # What the session holds, boundaries to go back to included, is what was stated.
            assert session._live.stream.state.cache.nbytes <= engine.session_bytes
        with engine.session(name, seed=1, steps=2) as other:
            snapshot = Snapshot.from_bytes(data)
            other.restore(snapshot)
            state, fresh = other._live.stream.state, engine.new_state(other._character, 0)
            assert set(vars(state)) == set(vars(fresh))
            for attribute, value in vars(fresh).items():
                if attribute != "previous_latent":
                    assert type(vars(state)[attribute]) is type(value), attribute
            again = Snapshot.from_bytes(data)
            assert again.to_bytes() == data
            assert content(perform(other, after)) == truth
