"""A graph as a script: the results of the graph, for every kind of argument that operations take."""

import pytest
import torch

from guidebook.programs.graphs.script import NoScript, scripted
from guidebook.programs.graphs.tape import taped
from guidebook.scope import precision

X = torch.tensor([0.3, 1.2, 2.0])

FUNCTIONS = {
    "numbers": lambda x: (x.pow(2), x.pow(0.5), x.clamp(min=1), x.add(x, alpha=2), x.lt(1)),
    "empty lists": lambda x: (x.sum().reshape(()), x.new_zeros(()), x[0].expand(())),
    "lists": lambda x: (torch.cat([x, x]), torch.stack([x, X]), x.expand(2, 3).permute(1, 0)),
    "lists with gaps": lambda x: x.expand(2, 3)[:, torch.tensor([2, 0])],
    "several results": lambda x: (*x.sort(), *x.split([1, 2])[:1], x.max(0), x.unbind()[1]),
    "dtypes": lambda x: (x.double(), x.to(torch.bfloat16).float(), x.long(), x > 1),
    "factories": lambda x: x + torch.arange(3) + torch.full((3,), 2) + torch.eye(3).sum(0),
    "formats": lambda x: x.expand(2, 3).clone(memory_format=torch.contiguous_format) + 1,
    "draws": lambda x: x + torch.randn(3) + torch.rand_like(x),
    "writes": lambda x: (x.mul_(2), x[0].add_(1), x.clone()),
    "dicts": lambda x: {"a": x * 2, "b": (x.exp(), {"c": -x})},
    "one": lambda x: x.sin(),
    "words": lambda x: torch.nn.functional.gelu(x, approximate="tanh") + x.div(2, rounding_mode="floor"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_graph(name, dtype):
    with precision(dtype), torch.no_grad():
        graph = taped(FUNCTIONS[name], X.to(dtype, copy=True))
        found = []
        for call in (graph, scripted(graph)):
            torch.manual_seed(0)
            x = X.to(dtype) + 0.25
            found.append(torch.utils._pytree.tree_flatten((call(x), x)))
    (one, shape), (other, same_shape) = found
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert str(shape).replace("list", "tuple") == str(same_shape).replace("list", "tuple")


def test_what_is_no_tensor_is_refused():
    with pytest.raises(NoScript, match="int"):
        scripted(taped(lambda x: (3, x * 2), X))
