"""The list: every program, by kind."""

from tests.programs.laws.arguments import ARGUMENTS
from tests.programs.laws.autoguides import AUTOGUIDES
from tests.programs.laws.climbing import CLIMBING
from tests.programs.laws.enumeration import ENUMERATION
from tests.programs.laws.handlers import HANDLERS
from tests.programs.laws.parameters import PARAMETERS
from tests.programs.laws.plates import PLATES
from tests.programs.laws.program import Program
from tests.programs.laws.reparameterised import REPARAMETERISED
from tests.programs.laws.wholes import WHOLES

KINDS: dict[str, tuple[Program, ...]] = {
    "Handlers and statements": HANDLERS,
    "Plates": PLATES,
    "Parameters and modules": PARAMETERS,
    "Discrete latents": ENUMERATION,
    "Reparameterisation": REPARAMETERISED,
    "Guides of Pyro": AUTOGUIDES,
    "Objectives and optimisers": CLIMBING,
    "Arguments": ARGUMENTS,
    "Models of the examples": WHOLES,
}
PROGRAMS = {program.name: program for programs in KINDS.values() for program in programs}
