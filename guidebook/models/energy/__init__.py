"""Models of units -1 and +1 with an energy: Ising, Boltzmann, Hopfield."""
