"""The sample statements of a program: which are there, observed, derived or summed out, and their density."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceEnum_ELBO
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
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


def summed_log_likelihood(trace: Any, observed: Collection[str]) -> dict[str, Tensor]:
    """log p(x' | z) of observed sites, in the shape of their plates, masked and without scale.

    Rows of x' are independent given z where x' is all that the y enter and every y is in its plates.
    Elsewhere, as in a Markov chain, sites have no density of their own: they are left out.
    """
    trace, _, factors, ordering, dims, _ = _factors(trace)
    nodes = {n: node for n, node in trace.nodes.items() if node["type"] == "sample"}
    summed = {n for n, s in nodes.items() if s["infer"].get("_enumerate_dim") is not None}
    entered = {n for n, s in nodes.items() if dims & set(s["packed"]["log_prob"]._pyro_dims)}
    found = {
        n: scale_and_mask(nodes[n]["unscaled_log_prob"], mask=nodes[n]["mask"])
        for n in observed
        if n not in entered
    }
    for name in entered - summed:
        place = ordering[name]
        if entered - summed == {name} and all(ordering[n] >= place for n in summed):
            row = contract_to_tensor(factors, dims, target_ordinal=place)
            node = nodes[name]
            shape = node["value"].shape[: node["value"].dim() - node["fn"].event_dim]
            found[name] = packed.unpack(row, trace.symbol_to_dim).expand(shape)
    return found


def _factors(trace: Any) -> tuple[Any, ...]:
    trace = prune_subsample_sites(trace)
    trace.compute_log_prob()
    trace.pack_tensors()
    return trace, *_compute_model_factors(trace, poutine.Trace())


def scaled_log_prob(node: Any) -> Tensor:
    """The site's log density with its mask and plate scale."""
    log_prob = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
    return scale_and_mask(log_prob, node["scale"], node["mask"])
