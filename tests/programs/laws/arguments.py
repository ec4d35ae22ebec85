"""Arguments that a model is called with: containers, words, functions, tables, ragged and missing values."""

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from tests.programs.laws.handlers import DATA, X, Y, by, line
from tests.programs.laws.program import UNRECORDED, Program


def of_shape(y, shape):
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(z.sum(), 1.0), obs=y)


def of_words(y, kind="wide", options=None, link=None):
    scale = {"wide": 3.0, "narrow": 0.5}[kind]
    z = pyro.sample("z", dist.Normal(0.0, scale))
    mean = link(z) if link is not None else z
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, (options or {}).get("noise", 1.0)), obs=y)


def of_lists(groups):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    for i, group in enumerate(groups):
        with pyro.plate(f"group_{i}", len(group)):
            pyro.sample(f"y_{i}", dist.Normal(mean, 1.0), obs=group)


def of_packed(sequences):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    padded, lengths = pad_packed_sequence(sequences, batch_first=True)
    there = torch.arange(padded.shape[1]) < lengths[:, None]
    with pyro.plate("row", len(padded)), poutine.mask(mask=there.all(-1)):
        pyro.sample("y", dist.Normal(mean, 1.0).expand([padded.shape[1]]).to_event(1), obs=padded)


def of_covariates(x, y):
    weights = pyro.sample("weights", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(level + x @ weights, 1.0), obs=y)


def with_missing(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)), poutine.mask(mask=~y.isnan()):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y.nan_to_num())


def no_arguments():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z, 0.5), obs=torch.tensor(0.7))


def twice(z):
    return 2 * z


MISSING = torch.tensor([0.4, float("nan"), 1.1, float("nan"), -0.3])
RAGGED = [torch.tensor([0.3, 1.0]), torch.tensor([0.7]), torch.tensor([0.1, -0.4, 0.5])]
TABLE = pd.DataFrame({"x": X.double().numpy(), "y": Y.double().numpy()})
ROW = {"y": Y}
ARGUMENTS = (
    Program("positional tuple", "`svi.step(x, y)`: a tuple", by(line), (X, Y), gets=DATA),
    Program("DataFrame", "a pandas DataFrame: its columns", by(line), TABLE, gets=DATA),
    Program("Series and list", "a pandas Series, a list of numbers", by(line),
            {"x": X.tolist(), "y": TABLE["y"]},
            gets={"x": torch.tensor(X.tolist(), dtype=torch.float64), "y": Y.double()}),
    Program("NumPy", "NumPy arrays", by(line), {"x": X.double().numpy(), "y": Y.double().numpy()}),
    Program("shape", "a tuple as an argument", by(of_shape), ROW | {"shape": (2, 3)}),
    Program("string", "a string", by(of_words), ROW | {"kind": "narrow"}),
    Program("dict", "a dict of settings", by(of_words), ROW | {"options": {"noise": 0.5}}),
    Program("function", "a function", by(of_words), ROW | {"link": twice}),
    Program("None", "None", by(of_words), ROW | {"options": None}),
    Program("ragged list", "a list of tensors of different lengths", by(of_lists), {"groups": RAGGED}),
    Program("PackedSequence", "a `PackedSequence`", by(of_packed),
            {"sequences": pack_sequence([r.double() for r in RAGGED], enforce_sorted=False)},
            "reference", "pad_packed_sequence", unsampled=UNRECORDED,
            note="`pad_packed_sequence` inside the model"),
    Program("empty covariates", "a matrix without columns", by(of_covariates, AutoNormal),
            {"x": torch.zeros(5, 0), "y": Y}),
    Program("missing values", "NaN that the model masks", by(with_missing), {"y": MISSING}),
    Program("no arguments", "a model without arguments", by(no_arguments), {}),
)  # fmt: skip
