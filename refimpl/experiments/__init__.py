"""Named, reproducible runs: which problem, which optimizer, which settings, what is recorded."""

from refimpl.experiments.char_transformer import CharTransformer
from refimpl.experiments.char_tuning import CharTuning
from refimpl.experiments.cifar_kryball import CifarKryBall
from refimpl.experiments.curvature_shift import CurvatureShift
from refimpl.experiments.curveball_table import CurveballTable
from refimpl.experiments.eigenarc_study import EigenArcStudy
from refimpl.experiments.fosi_study import FosiStudy
from refimpl.experiments.kryball_table import KryballTable
from refimpl.experiments.mnist1d_kryball import Mnist1dKryBall
from refimpl.experiments.mnist_mlp import MnistMLP
from refimpl.experiments.random_architectures import RandomArchitectures
from refimpl.experiments.resnet18 import ResNet18
from refimpl.experiments.runner import Experiment
from refimpl.experiments.small_convnets import SmallConvnets
from refimpl.experiments.transformer_race import TransformerRace
from refimpl.experiments.uci_energy import UciEnergy
from refimpl.experiments.uci_exact import UciExact

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        UciExact("uci-exact-277", hidden=(12, 12)),
        UciExact("uci-exact-1057", hidden=(12,) * 7),
        UciEnergy("uci-energy"),
        CurveballTable("curveball-table"),
        MnistMLP("mnist-mlp"),
        SmallConvnets("small-convnets"),
        RandomArchitectures("random-architectures"),
        KryballTable("kryball-table"),
        Mnist1dKryBall("mnist1d-kryball"),
        CifarKryBall("cifar-kryball"),
        EigenArcStudy("eigenarc"),
        CurvatureShift("curvature-shift"),
        CharTuning("char-tuning"),
        CharTransformer("char-transformer"),
        FosiStudy("fosi"),
        ResNet18("resnet18-cifar10"),
        TransformerRace("transformer-race"),
    )
}
"""Every experiment that ``python -m refimpl.experiments`` knows."""
