"""Numbers of papers, obtained here: `--part mnist`, `--part sprites`, `--part gumbel`.

    python -m benchmarks.headlines --part mnist --data FOLDER     # FOLDER holds MNIST's IDX files
    python -m benchmarks.headlines --part sprites
    python -m benchmarks.headlines --part gumbel

Each fit is written to benchmarks/HEADLINES.md as it comes, beside what the source reports, with its
seconds. `--time` measures a step of each fit of MNIST and says how long all would take.
"""

import argparse
from pathlib import Path

from benchmarks import timing

CORE = timing.one_core()

import torch

from benchmarks.headlines.gumbel import part_gumbel
from benchmarks.headlines.mnist import part_mnist
from benchmarks.headlines.sprites import part_sprites


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["mnist", "sprites", "gumbel"], required=True)
    parser.add_argument("--data", type=Path, default=Path("mnist"), help="MNIST's folder")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--fits", nargs="*", help="of MNIST: 'VAEk=1' 'IWAEk=50' ...; all if none")
    parser.add_argument("--time", action="store_true", help="of MNIST: how long it would take")
    parser.add_argument("--steps", type=int, default=4000, help="of the other parts")
    parser.add_argument("--seeds", type=int, default=5, help="of the other parts")
    parser.add_argument("--seed", type=int, default=0, help="of MNIST")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}")
    {"mnist": part_mnist, "sprites": part_sprites, "gumbel": part_gumbel}[options.part](options)


if __name__ == "__main__":
    main()
