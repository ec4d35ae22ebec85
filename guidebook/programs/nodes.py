"""The sample statements of a program: which are there, observed, derived or summed out, and their density."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceEnum_ELBO
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.ops.contract import contract_tensor_tree, contract_to_tensor
from pyro.ops.packed import pack, unpack
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor

from guidebook.errors import ModelError
from guidebook.programs.sites import Substitute, is_enumerated


def sample_nodes(model: Callable[..., Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Name to node of one run's sample statements, subsampling left out."""
    with poutine.block(), Substitute():
        trace = poutine.trace(model).get_trace(**data)
    return {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node)
    }


def is_deterministic(node: Any) -> bool:
    """Whether the value follows from others: pyro.deterministic, or a site that pyro.poutine.reparam
    has rewritten, such as the original site of a LocScaleReparam.
    """
    return node["infer"].get("_deterministic", False) or is_rewritten(node)


def is_rewritten(node: Any) -> bool:
    """Whether pyro.poutine.reparam computes the site from others: a Delta without a density, observed."""
    fn = node["fn"]
    masked = isinstance(fn, MaskedDistribution) and fn._mask is False
    return bool(node["is_observed"]) and masked and isinstance(fn.base_dist, Delta)


def constants(
    model: Callable[..., Any], data: Mapping[str, Any], nodes: Mapping[str, Any], size: int
) -> set[str]:
    """Of the rewritten sites those of data: away from the origin in R^size they are what they were."""
    rewritten = [
        n
        for n, node in nodes.items()
        if is_rewritten(node) and "_deterministic" not in node["infer"]
    ]
    if not rewritten:
        return set()
    with poutine.block(), Substitute(torch.full((size,), 0.5)):
        away = poutine.trace(model).get_trace(**data).nodes
    return {n for n in rewritten if torch.equal(nodes[n]["value"], away[n]["value"])}


def depends_on_latents(node: Any) -> bool:
    """Whether the node is a pyro.deterministic statement of a floating-point tensor."""
    value = node["value"]
    return is_deterministic(node) and isinstance(value, Tensor) and value.is_floating_point()


def partial_plates(nodes: Mapping[str, Any], *, latent: bool = False) -> dict[str, tuple[int, int]]:
    """Of the plates that hold fewer rows than they stand for: how many rows, and of how many.

    `latent`: of those around latent sites alone.
    """
    return {
        frame.name: (int(frame.size), int(frame.full_size))
        for node in nodes.values()
        if node["type"] == "sample" and not (latent and node["is_observed"])
        for frame in node["cond_indep_stack"]
        if frame.full_size is not None and int(frame.size) != int(frame.full_size)
    }


def check_all_rows(nodes: Mapping[str, Any]) -> None:
    """ModelError where a plate holds fewer rows than it stands for, though plates hold all they can."""
    for name, (present, size) in partial_plates(nodes).items():
        raise ModelError(
            f"The plate '{name}' is given {present} of its {size} rows (by subsample=, or made outside of "
            f"the model), so log p(x, z) cannot be computed. Give it all {size} rows, with their data; for "
            "mini-batches leave the choice of rows to svi (batch_size=) or to the plate (subsample_size=, "
            "made inside the model)."
        )


def plate_nesting(nodes: Mapping[str, Any]) -> int | None:
    """How deep the plates go, for a model with enumerated sites; None for one without."""
    if not any(is_enumerated(n) and not n["is_observed"] for n in nodes.values()):
        return None
    dims = [f.dim for n in nodes.values() for f in n["cond_indep_stack"] if f.vectorized]
    return -min(dims, default=0)


def sum_out(
    model: Callable[..., Any], data: Mapping[str, Any], trace: Any, held: Collection[str] = ()
) -> None:
    """Sums once over the discrete sites that the model marks, where it marks some, at the values of a run;
    those of `held` are the guide's to sum over.

    What fails in the sum alone, as a product of matrices of two precisions, fails here.
    """
    nodes = {n: s for n, s in trace.nodes.items() if s["type"] == "sample"}
    depth = plate_nesting(nodes)
    summed = {n for n, s in nodes.items() if is_enumerated(s)}.difference(held)
    if depth is None or not summed:
        return
    kept = (n for n, s in nodes.items() if not (s["is_observed"] or n in summed))
    values = {n: nodes[n]["value"] for n in kept if not site_is_subsample(nodes[n])}
    rows = trace.copy()  # the rows that a plate of the guide drew are those of the model's
    for name in [n for n, s in nodes.items() if not site_is_subsample(s)]:
        rows.remove_node(name)
    conditioned = poutine.replay(poutine.condition(model, data=values), trace=rows)
    TraceEnum_ELBO(max_plate_nesting=depth).loss(conditioned, lambda **_: None, **data)


def summed_log_joint(trace: Any) -> Tensor:
    """log p(x, z) of a trace whose enumerated sites y are summed out, as TraceEnum_ELBO sums them:

        sum of log p of all that no y enters  +  s log sum_y p(y) prod p(x' | y)^m.

    A mask m leaves out densities inside of the sum, and not p(y): a y that counts for nothing sums to one.
    The scale s is around the sum: a power of a mixture is the power of the whole. ValueError of Pyro where
    the scales of what is summed differ.

    Source: Obermeyer et al. 2019, "Tensor variable elimination for plated factor graphs".
    """
    _, costs, factors, _, dims, scale = _factors(trace)
    apart = sum(term.sum() for terms in costs.values() for term in terms)
    summed: Tensor = apart + scale * contract_to_tensor(factors, dims)
    return summed


def _factors(trace: Any) -> tuple[Any, ...]:
    trace = prune_subsample_sites(trace)
    trace.compute_log_prob()
    trace.pack_tensors()
    return trace, *_compute_model_factors(trace, poutine.Trace())


def scaled_log_prob(node: Any) -> Tensor:
    """The site's log density with its mask and plate scale."""
    return scale_and_mask(_log_prob(node), node["scale"], node["mask"])


def _is_summed(node: Any) -> bool:
    """Whether all values of the site are there, to be summed over: a mask does not count them."""
    return node["infer"].get("_enumerate_dim") is not None


def _log_prob(node: Any) -> Tensor:
    log_prob: Tensor = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
    return log_prob


def log_likelihoods(
    trace: Any, observed: Collection[str], depth: int | None = None
) -> dict[str, Tensor]:
    r"""log p(x_i | z) of every value of the observed sites, 0 where it is masked; nothing scales it.

    `depth`: of the plates, where discrete sites are summed out and the trace is an enumerated one. Observed
    sites x_1, x_2, ... that hang on the same of those have, in the order of the model,

    .. math:: \log p(x_k \mid x_1, ..., x_{k-1}, z),

    which add up to their log density. A plate whose rows share a site that is summed out has size 1.
    """
    nodes = {
        n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)
    }
    logs = {n: scale_and_mask(_log_prob(s), mask=None if _is_summed(s) else s["mask"])
            for n, s in nodes.items() if n in observed or depth is not None}  # fmt: skip
    found = {n: logs[n] for n in observed}
    if depth is None:
        return found
    trace.symbolize_dims()
    symbols: dict[str, str] = trace.plate_to_symbol
    summed = set(trace.symbol_to_dim) - set(symbols.values())
    packed = {
        n: pack(v, nodes[n]["infer"]["_dim_to_symbol"]) for n, v in logs.items() if v.dim() > depth
    }
    plates = {n: [f for f in nodes[n]["cond_indep_stack"] if f.vectorized] for n in packed}
    ordinals = {n: frozenset(symbols[f.name] for f in frames) for n, frames in plates.items()}
    for group in _connected({n: summed.intersection(v._pyro_dims) for n, v in packed.items()}):
        names = [n for n in packed if n in group and n in found]
        values = _in_turn({n: packed[n] for n in packed if n in group}, ordinals, names, summed)
        for name, value in zip(names, values, strict=True):
            rank = -min((f.dim for f in plates[name]), default=0)
            whole = unpack(value, trace.symbol_to_dim)
            found[name] = whole.reshape([1] * (rank - whole.dim()) + list(whole.shape))
    return found


def _connected(dims: Mapping[str, set[str]]) -> list[set[str]]:
    """The names in groups; in a group each shares a dimension with another, different groups share none."""
    groups: list[set[str]] = []
    for name, own in dims.items():
        joined = [g for g in groups if any(own & dims[other] for other in g)]
        groups = [g for g in groups if g not in joined] + [{name}.union(*joined)]
    return groups


def _in_turn(
    terms: Mapping[str, Any], ordinals: Mapping[str, Any], names: list[str], summed: set[str]
) -> list[Tensor]:
    """What each of `names` adds to the sum over `summed` of all terms, packed: the sums with its first 0, 1,
    2, ... in place are taken side by side.
    """
    dims = ""

    def total(count: Tensor) -> Tensor:
        nonlocal dims
        tree: OrderedDict[Any, list[Any]] = OrderedDict()
        for name, term in terms.items():
            counted: Any = term
            if name in names:
                here = count > names.index(name)
                counted = torch.where(here, term, torch.zeros_like(term))
                counted._pyro_dims = term._pyro_dims
            tree.setdefault(ordinals[name], []).append(counted)
        ((found,),) = contract_tensor_tree(tree, summed).values()
        dims = found._pyro_dims
        plain: Tensor = found[...]
        return plain

    if not names:
        return []
    device = terms[names[0]].device
    totals = torch.func.vmap(total)(torch.arange(len(names) + 1, device=device))
    added = list((totals[1:] - totals[:-1]).unbind())
    for one in added:
        one._pyro_dims = dims  # type: ignore[attr-defined]
    return added
