"""A checkpoint that is not as it was written is refused, or is the same to the fit that goes on from it."""

from collections import Counter

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.errors import FileError
from guidebook.inference.fits.files import read, write_atomically
from guidebook.inference.gradient import checkpoint as checkpoints
from guidebook.inference.gradient import run as loop
from guidebook.models.hierarchical import eight_schools
from guidebook.programs.values.fingerprint import fingerprint
from tests.mutations import mutated, torn


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """The step of a fit, its signature, and its checkpoint."""
    steps, usual = [], loop.run_captured
    path = tmp_path_factory.mktemp("taken") / "fit.checkpoint"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run_captured", lambda *given: steps.append(given[0]) or usual(*given))
        gb.svi(
            eight_schools, gb.guides.mean_field(eight_schools), gb.datasets.eight_schools(),
            steps=20, compile="graph", progress=False, checkpoint=path,
        )  # fmt: skip
    return steps[0], checkpoints.signature(steps[0]), path.read_bytes()


def held(step):
    """All that a step goes on with."""
    return fingerprint((step.state, dict(step.joined.named_buffers()), torch.get_rng_state()))


def check_mutations(taken, path, count, rightly):
    """`rightly`: with a checksum that goes along with the change."""
    step, told, whole = taken
    path.write_bytes(whole)
    rng, found = np.random.default_rng(0), Counter()
    content = read(path, checkpoints.FORMAT) if rightly else torch.load(path, weights_only=True)
    assert checkpoints.restore(path, told, step) == 20
    wanted = held(step)
    for _ in range(count):
        if rightly:
            write_atomically(mutated(content, rng), path)
        elif rng.random() < 0.3:
            path.write_bytes(torn(whole, rng))
        else:
            torch.save(mutated(content, rng), path)
        try:
            checkpoints.restore(path, told, step)
            found["the same" if held(step) == wanted else "another"] += 1
        except FileError as error:
            found[
                "refused" if str(path) in str(error) and "\n" not in str(error) else str(error)
            ] += 1
            assert rightly or held(step) == wanted, "a refusal changed the step"
    return found


@pytest.mark.parametrize("rightly", [False, True])
def test_changes_are_refused_or_mean_nothing(rightly, taken, tmp_path):
    found = check_mutations(taken, tmp_path / "fit.checkpoint", 60, rightly)
    assert set(found) <= {"refused", "the same", *(["another"] if rightly else [])}
    assert found["refused"] > 60 * (0.5 if rightly else 0.8)


@pytest.mark.slow
@pytest.mark.parametrize("rightly", [False, True])
def test_ten_thousand_changes(rightly, taken, tmp_path):
    found = check_mutations(taken, tmp_path / "fit.checkpoint", 10_000, rightly)
    print(rightly, found)
    assert set(found) <= {"refused", "the same", *(["another"] if rightly else [])}
