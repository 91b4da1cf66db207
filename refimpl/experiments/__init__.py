"""Named, reproducible runs: which problem, which optimizer, which settings, what is recorded."""

from refimpl.experiments.runner import Experiment
from refimpl.experiments.uci_energy import UciEnergy
from refimpl.experiments.uci_exact import UciExact

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        UciExact("uci-exact-277", hidden=(12, 12)),
        UciExact("uci-exact-1057", hidden=(12,) * 7),
        UciEnergy("uci-energy"),
    )
}
"""Every experiment that ``python -m refimpl.experiments`` knows."""
