"""Breaks the package on purpose, one bug at a time, and sees that the test that should notice does.

    python tests/mutations.py            all mutants, two at a time
    python tests/mutations.py ID [ID …]  some of them

Package and tests are copied to a temporary folder, so the checkout is never touched. The exit status is 1 where a
mutant survives, where its text is not found exactly once, or where a named test fails without any mutant.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 2
_ORACLE, _NETWORK = "test_oracle_against_differences.py", "test_mlp_against_torch.py"
_ADAPTIVE, _FIRST_ORDER = "test_adaptive_saddle_free.py", "test_first_order_against_torch.py"


class Mutant(NamedTuple):
    """A bug: ``text`` in ``file`` becomes ``replacement``; ``test`` (file::function in tests/) must notice."""

    id: str
    file: str
    text: str
    replacement: str
    bug: str
    test: str


MUTANTS = [
    # arrays
    Mutant("draws-by-dtype", "arrays.py", "return self.asarray(rng.standard_normal(shape))",
           "return self.asarray(rng.standard_normal(shape, dtype=self.dtype_name))",
           "Random draws differ between float32 and float64.",
           "test_arrays.py::test_the_same_seed_gives_the_same_draws_on_every_backend"),
    Mutant("symmetry-unchecked", "arrays.py", "if gap > math.sqrt(machine_epsilon(matrix)) * max(size, 1e-300):",
           "if gap > size + 1e300:", "An asymmetric matrix is accepted.", "test_arrays.py::test_check_symmetric"),
    Mutant("dtype-promoted", "arrays.py", '    return float(value)\n\n\ndef check_between',
           "    return value\n\n\ndef check_between",
           "A NumPy float64 scalar among the knobs promotes float32 arrays.",
           "test_optimizers_on_every_backend.py::test_numpy_scalars_among_the_knobs_keep_float32"),
    # oracle
    Mutant("stale-point", "oracle.py", "return Point(self, self.copy(x), sample)", "return Point(self, x, sample)",
           "A Point sees later changes of x.", f"{_ORACLE}::test_a_point_cannot_go_stale"),
    Mutant("other-sample", "oracle.py", "return self.problem.loss(x_trial, self.sample)",
           "return self.problem.loss(x_trial)", "The trial loss is taken on another sample.",
           f"{_ORACLE}::test_loss_at_the_same_place_is_the_loss"),
    Mutant("wrong-loss-curvature", "oracle.py", "self.vjp(self._evaluation.output_hvp(self.jvp(v)))",
           "self.vjp(self.jvp(v))", "The Gauss–Newton product lacks the curvature of the loss.",
           f"{_NETWORK}::test_gauss_newton_is_the_dense_product_and_has_no_negative_eigenvalue"),
    Mutant("work-of-products", "oracle.py", "+ 2 * self.hvp + 2 *", "+ self.hvp + 2 *",
           "Hessian products are counted as one gradient.", f"{_ORACLE}::test_work_follows_its_documented_weights"),
    Mutant("uncounted-trial", "oracle.py", "self._extra += Counts(loss=1)", "self._extra += Counts()",
           "A trial loss costs nothing.", f"{_ORACLE}::test_counts_are_exact"),
    # problems
    Mutant("toy-gradient-sign", "problems/toy.py", "[2.0 * place[..., 0], -2.0 * place[..., 1]]",
           "[2.0 * place[..., 0], 2.0 * place[..., 1]]", "The horse saddle's gradient points up along y.",
           "test_toy_problems.py::test_derivatives_against_torch_autograd_of_the_formula"),
    Mutant("residual-factor-two", "problems/closed_form.py", "product + self._bend(self.x, 2.0 * self._r, v)",
           "product + self._bend(self.x, self._r, v)", "The curvature of the residuals counts half.",
           "test_toy_problems.py::test_rosenbrock_against_scipy"),
    Mutant("vjp-is-jvp", "problems/closed_form.py", "return self._vjp(self.x, u)", "return self._jvp(self.x, u)",
           "jvp and vjp are swapped.", f"{_ORACLE}::test_jvp_and_vjp_are_adjoint"),
    Mutant("sum-not-mean", "problems/losses.py", "return lambda u: u / samples", "return lambda u: u",
           "1/n is missing in the curvature of the squared error.",
           "test_losses.py::test_value_gradient_and_hvp_against_torch_autograd"),
    Mutant("softmax-diagonal", "problems/losses.py",
           "(weighted - probability * xp.sum(weighted, axis=-1, keepdims=True)) / samples", "weighted / samples",
           "The softmax curvature lacks -p p^T.",
           "test_losses.py::test_value_gradient_and_hvp_against_torch_autograd"),
    Mutant("r-operator-term", "problems/mlp_evaluation.py",
           "down += self._transposed(directions[layer][..., :-1]) @ deltas[layer]", "down += 0.0",
           "The R-operator drops V^T delta.", f"{_NETWORK}::test_derivatives_against_torch_autograd"),
    Mutant("activation-curvature", "problems/activations.py", "lambda value, first: -2.0 * value * first",
           "lambda value, first: 2.0 * value * first", "The second derivative of tanh has the wrong sign.",
           f"{_NETWORK}::test_derivatives_against_torch_autograd"),
    Mutant("batch-norm-twice", "problems/torch_evaluation.py", "@cached_property\n    def _forward",
           "@property\n    def _forward", "BatchNorm's statistics advance with every question.",
           "test_batch_norm.py::test_statistics_advance_once_per_point"),
    Mutant("batch-norm-trial", "problems/torch_net.py",
           "return self.loss_value(self.call(x, inputs, advance=False), targets)",
           "return self.loss_value(self.call(x, inputs, advance=True), targets)",
           "A trial loss moves BatchNorm's statistics.",
           "test_batch_norm.py::test_nothing_but_a_point_moves_the_statistics"),
    # curvature
    Mutant("h-for-abs-h", "curvature/spectrum.py", "magnitudes = xp.abs(eigenvalues)\n    undamped",
           "magnitudes = eigenvalues\n    undamped", "Eigenvalues keep their signs: Newton's method.",
           "test_saddle_free_invariants.py::test_the_horse_saddle_is_left_in_one_exact_step"),
    Mutant("damped-h", "curvature/spectrum.py", 'magnitudes + damping if mode == "abs"',
           'xp.abs(eigenvalues + damping) if mode == "abs"', "Damping is added to H, not to |H|.",
           "test_spectrum.py::test_inverse_abs_golden"),
    Mutant("threshold-reversed", "curvature/spectrum.py", "xp.where(magnitudes <= cut, xp.full_like",
           "xp.where(magnitudes >= cut, xp.full_like", "Large eigenvalues are replaced, small ones kept.",
           "test_spectrum.py::test_threshold_is_inclusive_and_replacement_is_an_eigenvalue"),
    Mutant("zero-eigenvalue", "curvature/spectrum.py", "dropped = xp.abs(values) <= cut",
           "dropped = xp.abs(values) < cut", "An eigenvalue of zero is inverted.",
           "test_spectrum.py::test_the_zero_matrix_gives_the_zero_direction"),
    # methods
    Mutant("momentum-sign", "optimizers/gradient_descent.py",
           "self.momentum * state + self.learning_rate * point.gradient",
           "-self.momentum * state + self.learning_rate * point.gradient", "Heavy-ball momentum pulls back.",
           f"{_FIRST_ORDER}::test_same_path_as_torch"),
    Mutant("adam-bias", "optimizers/adam.py", "(1.0 - self.beta2**t) ** 0.5", "1.0",
           "Adam's running scale is not corrected for its start.", f"{_FIRST_ORDER}::test_same_path_as_torch"),
    Mutant("ema-swapped", "optimizers/adaptive_saddle_free.py", "mixed = ema * average + (1.0 - ema) * hessian",
           "mixed = (1.0 - ema) * average + ema * hessian",
           "The weights of old and new curvature are swapped (as printed).",
           "test_saddle_free_against_golden.py::test_moving_average_of_the_curvature"),
    Mutant("model-averaged", "optimizers/adaptive_saddle_free.py",
           "_apply_model(here, damping, u), _apply_model(here, damping, d)",
           "_apply_model(averaged, damping, u), _apply_model(averaged, damping, d)",
           "The model is the preconditioner, so (eta, mu) is always (1, 0).",
           f"{_ADAPTIVE}::test_with_averaging_it_is_not"),
    Mutant("trusts-infinity", "optimizers/adaptive_saddle_free.py", "accepted = xp.isfinite(trial) & (",
           "accepted = (", "A trial whose loss is not finite is taken.",
           f"{_ADAPTIVE}::test_a_trial_that_is_not_finite_is_rejected_and_doubles_the_damping"),
    Mutant("momentum-kept", "optimizers/adaptive_saddle_free.py",
           "xp.where(accepted[..., None], step, xp.zeros_like(step))", "step",
           "A rejected step is remembered as momentum.", f"{_ADAPTIVE}::test_a_rejection_resets_the_momentum"),
    Mutant("damping-not-strict", "optimizers/damping.py", "xp.where(ratio > 0.75,", "xp.where(ratio >= 0.75,",
           "A ratio of exactly 3/4 lowers the damping.", f"{_ADAPTIVE}::test_damping_rule_is_strict_and_ignores_nan"),
    Mutant("always-accepts", "optimizers/levenberg_marquardt.py", "accepted = change < 0.0", "accepted = True",
           "Levenberg–Marquardt takes steps that raise the loss.",
           "test_levenberg_marquardt.py::test_damping_and_rejections_in_the_trace"),
    # the loop and what it leaves
    Mutant("state-lost", "run.py", "x, state = step.x, step.state", "x = step.x",
           "The method's state is thrown away.", f"{_FIRST_ORDER}::test_same_path_as_torch"),
    Mutant("counts-not-added", "trace.py", "self.counts = self.counts + counts", "self.counts = counts",
           "The counts are those of the last step alone.", "test_run.py::test_rows_of_a_run"),
    Mutant("resumes-anything", "experiments/runner.py", 'if job in done and done[job]["settings"] == own:',
           "if job in done:", "A run with other settings continues from old results.",
           "test_experiments.py::test_other_settings_start_afresh"),
    # verification
    Mutant("oracle-check-blind", "verify/oracle.py", "return self.error <= self.tolerance",
           "return not self.error > 1e300", "check_oracle passes whatever it finds.",
           "test_verify.py::test_missing_mean_is_named"),
    Mutant("golden-nan", "verify/golden.py", "if not np.array_equal(np.isnan(wanted), np.isnan(found)):",
           "if wanted.shape != found.shape:", "An answer of NaN agrees with everything.",
           "test_verify.py::test_relative_error"),
]  # fmt: skip


def mutated(mutant: Mutant, package: Path) -> str:
    """The text of the mutant's file with its bug; a ValueError unless the place is there exactly once."""
    source = (package / mutant.file).read_text(encoding="utf-8")
    if source.count(mutant.text) != 1:
        raise ValueError(f"{mutant.id}: its text is in {mutant.file} {source.count(mutant.text)} times, not once")
    return source.replace(mutant.text, mutant.replacement)


def judge(mutant: Mutant, copy: Path) -> str:
    """``caught``, ``SURVIVED``, or what else happened, with the mutant applied to ``copy``."""
    path = copy / "refimpl" / mutant.file
    original = path.read_text(encoding="utf-8")
    try:
        path.write_text(mutated(mutant, copy / "refimpl"), encoding="utf-8")
        status, output = run_tests([mutant.test], copy)
    except ValueError as error:
        return f"NOT APPLIED ({error})"
    finally:
        path.write_text(original, encoding="utf-8")
    # Only failed tests count: 2 and more mean that pytest could not import or find them.
    return {0: "SURVIVED", 1: "caught"}.get(status, f"BROKEN (pytest says {status}: {output.strip()[-300:]})")


def run_tests(tests: Sequence[str], copy: Path) -> tuple[int, str]:
    """Exit status and output of pytest on the named tests of ``copy``."""
    environment = os.environ | {
        "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg",
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def make_copy(folder: Path) -> Path:
    """Package and tests in ``folder``, without compiled files, which would hide a mutant."""
    for name in ("refimpl", "tests", "tools", "book/_static"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def main(arguments: Sequence[str]) -> int:
    """Judge the named mutants, or all."""
    unknown = set(arguments) - {m.id for m in MUTANTS}
    if unknown:
        print(f"unknown mutants {sorted(unknown)}; choose among {[m.id for m in MUTANTS]}", file=sys.stderr)
        return 2
    chosen = [m for m in MUTANTS if not arguments or m.id in arguments]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(AT_ONCE) as pool:
        copies: Queue[Path] = Queue()
        for i in range(AT_ONCE):
            copies.put(make_copy(Path(scratch) / str(i)))

        def on_a_copy(task, given):
            copy = copies.get()
            try:
                return task(given, copy)
            finally:
                copies.put(copy)

        tests = sorted({m.test for m in chosen})
        parts = [part for part in (tests[i::AT_ONCE] for i in range(AT_ONCE)) if part]
        for status, output in pool.map(lambda part: on_a_copy(run_tests, part), parts):
            if status != 0:
                print(f"the named tests fail without any mutant:\n{output}", file=sys.stderr)
                return 1
        verdicts = list(tqdm(pool.map(lambda m: on_a_copy(judge, m), chosen), total=len(chosen), unit="mutant"))
    width = max(len(m.id) for m in chosen)
    for mutant, verdict in zip(chosen, verdicts, strict=True):
        print(f"{mutant.id.ljust(width)}  {verdict.ljust(8)}  {mutant.test}\n{' ' * width}            {mutant.bug}")
    caught = verdicts.count("caught")
    print(f"{caught} of {len(chosen)} mutants caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
