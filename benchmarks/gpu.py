"""A VAE of 784-400-50 pixels, units and latents on a CUDA device: microseconds a step.

    python -m benchmarks.gpu        # half a minute; says so where no CUDA device is visible

The step of `gb.svi(VAE, AmortizedNormal, ..., batch_size=...)` in float32 by pyro.infer.SVI, recorded, and
recorded and compiled, on 8,192 rows of random zeros and ones that lie on the device: the time of 2,100 steps
less that of 100. Correctness there is that of `pytest tests/conformance/test_cuda.py`.
"""

import statistics
import warnings

import pyro
import torch

import guidebook as gb
from benchmarks.timing import machine
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp

PIXELS, HIDDEN, LATENTS, ROWS = 784, 400, 50, 8192
BATCHES = (128, 4096)
FEW, MANY = 100, 2100
PATHS: dict[str, bool | str] = {"pyro.infer.SVI": False, "recorded": "graph", "compiled": True}


def seconds(x: torch.Tensor, steps: int, batch: int, compile: bool | str) -> float:
    """Of a fit of so many steps, compiling and the first look at the pair included."""
    torch.manual_seed(0)
    model = VAE(PIXELS, LATENTS, (HIDDEN,))
    guide = AmortizedNormal(mlp((PIXELS, HIDDEN, 2 * LATENTS)), LATENTS)
    adam = pyro.optim.Adam({"lr": 1e-3})
    fit = gb.svi(
        model, guide, {"x": x}, steps=steps, batch_size=batch, compile=compile, optim=adam,
        progress=False,
    )  # fmt: skip
    return fit.seconds


def step(x: torch.Tensor, batch: int, compile: bool | str) -> float:
    """Microseconds a step, the median of three differences."""
    seconds(x, FEW, batch, compile)  # the compiler's cache and the device's libraries
    differences = [
        seconds(x, MANY, batch, compile) - seconds(x, FEW, batch, compile) for _ in range(3)
    ]
    return 1e6 * statistics.median(differences) / (MANY - FEW)


def main() -> None:
    if not torch.cuda.is_available():
        print("No CUDA device is visible: nothing was measured.")
        return
    warnings.simplefilter("ignore")  # of the reference path, which is slower, and says so
    print(f"{machine()}; {torch.cuda.get_device_name()}")
    ones = torch.rand(ROWS, PIXELS, generator=torch.Generator().manual_seed(0)) > 0.5
    x = ones.float().to("cuda")
    for batch in BATCHES:
        found = {name: step(x, batch, compile) for name, compile in PATHS.items()}
        base = found["pyro.infer.SVI"]
        told = (
            f"{name} {value:.0f} us ({base / value:.1f} times)" for name, value in found.items()
        )
        print(f"batch {batch}: {', '.join(told)}")


if __name__ == "__main__":
    main()
