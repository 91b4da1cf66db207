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
_SERIES, _LANCZOS = "test_series_sfn.py", "test_lanczos_sfn.py"
_ADAPTIVE_SERIES = "test_series_sfn_adaptive.py"


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
    # the series, its accelerators, rules for V
    Mutant("coefficient-index", "curvature/series.py", "c.append(c[-1] * (2 * k - 1) / (2 * k))",
           "c.append(c[-1] * (2 * k + 1) / (2 * k + 2))", "The coefficients are those of the next index.",
           "test_series.py::test_partial_sums_golden"),
    Mutant("forward-recursion", "curvature/series.py",
           "found.append(sum(roots[j] * found[k - j] for j in range(1, k + 1)) / (1.0 + d))",
           "found.append((found[-1] - roots[k]) / (1.0 - d * d + 1e-300))",
           "Damped coefficients come from the unstable two-term recursion.",
           "test_series.py::test_damped_coefficients_against_many_digits"),
    Mutant("root-of-scale", "curvature/series.py", "root = xp.sqrt(v)[..., None]", "root = xp.ones_like(v)[..., None]",
           "The sum is not divided by sqrt(V).", "test_series.py::test_edge_cases_golden"),
    Mutant("square-of-damping", "curvature/series.py", "return squared + delta * delta * z if",
           "return squared + delta * z if", "The damping is added to H^2, not its square.",
           "test_series.py::test_damped_sums_golden"),
    Mutant("products-reused", "curvature/series.py", "first_products if k == 1 else None)", "first_products)",
           "H^2 g is taken for H^2 z in every term.", "test_series.py::test_first_products_are_not_asked_for_again"),
    Mutant("guard-off", "curvature/series.py", "too_small = (ratio > v) & xp.isfinite(ratio)",
           "too_small = (ratio > 1e300) & xp.isfinite(ratio)", "A V that is too small goes unnoticed.",
           "test_series_scale.py::test_the_guard_notices_a_scale_that_is_too_small"),
    Mutant("scale-of-all-runs", "curvature/series.py", "v = xp.where(too_small, MARGIN * ratio, v)",
           "v = MARGIN * ratio", "A restart changes V of every run.",
           "test_series_scale.py::test_the_guard_raises_only_the_scale_of_the_run_that_needs_it"),
    Mutant("uphill", "curvature/series.py",
           "usable = xp.isfinite(norm(direction)) & (dot(direction, gradient) > 0)",
           "usable = xp.isfinite(norm(direction))", "An accelerated direction that points uphill is taken.",
           "test_series_scale.py::test_an_uphill_acceleration_gives_way_to_the_plain_sum"),
    Mutant("shanks-weights", "curvature/acceleration.py", '"sablonniere": lambda c: c // 2 + 1,',
           '"sablonniere": lambda c: 1,', "Sablonnière's weights are Shanks's, as in the released code.",
           "test_acceleration.py::test_sablonniere_is_exact_for_one_over_n"),
    Mutant("sablonniere-plus-two", "curvature/acceleration.py", '"sablonniere": lambda c: c // 2 + 1,',
           '"sablonniere": lambda c: c // 2 + 2,', "Sablonnière's weights begin at 2.",
           "test_acceleration.py::test_limits_golden"),
    Mutant("singular-entry", "curvature/acceleration.py", "self._end(vanished, old if c % 2 == 1 else old_two_back)",
           "self._end(vanished, old)", "A singular entry gives an odd column for the limit.",
           "test_acceleration.py::test_a_table_that_ends_early_gives_its_last_even_entry"),
    Mutant("levin-index", "curvature/last_rows.py", "((n + j) / (n + order)) ** (order - 1)",
           "((n + j + 1) / (n + order + 1)) ** (order - 1)", "Levin's weights belong to the next row.",
           "test_acceleration.py::test_levin_against_its_linear_system"),
    Mutant("stride", "curvature/acceleration.py", "(length - 1) // max(1, needed - 1)", "(length - 1) // needed",
           "Strided sums leave out the beginning.",
           "test_acceleration.py::test_one_antidiagonal_gives_what_the_whole_table_gives"),
    Mutant("keeps-rows", "curvature/acceleration.py", "if self._seen in self._rows:", "if True:",
           "The accelerator takes every row it sees.",
           "test_acceleration.py::test_storage_does_not_grow_with_the_rows_that_were_pushed"),
    Mutant("scale-not-squared", "curvature/scale.py",
           "return safety * magnitude_bound(space.tridiagonal(), space.beta[..., -1]) ** 2",
           "return safety * magnitude_bound(space.tridiagonal(), space.beta[..., -1])",
           "V is |h|, not h^2.", "test_series_scale.py::test_the_lanczos_rule_avoids_the_divergence"),
    Mutant("ratio-falls", "curvature/scale.py", "xp.maximum(previous, ratio), previous)",
           "xp.minimum(previous, ratio), previous)", "The running maximum is a minimum.",
           "test_series_scale.py::test_rules_golden"),
    # Krylov methods and the routes to |H|^{-1} g
    Mutant("orthogonality-lost", "curvature/krylov.py", "for _ in range(2):", "for _ in range(0):",
           "Lanczos does not reorthogonalize.",
           "test_krylov.py::test_without_reorthogonalization_the_basis_is_lost"),
    Mutant("minres-sign", "curvature/krylov.py", "above = cosine * middle + sine * alpha",
           "above = cosine * middle - sine * alpha", "A rotation of MINRES has the wrong sign.",
           "test_krylov.py::test_minres_is_where_scipy_is_after_as_many_steps"),
    Mutant("seed-unshifted", "curvature/krylov.py", "a_d = counting(d) + seed * d", "a_d = counting(d)",
           "The smallest shift is taken to be zero.",
           "test_krylov.py::test_the_smallest_shift_need_not_be_zero_and_makes_a_singular_matrix_solvable"),
    Mutant("largest-seed", "curvature/krylov.py", "seed = xp.min(shifts)", "seed = xp.max(shifts)",
           "The shift that converges first decides when all stop.", "test_krylov.py::test_all_shifts_are_solved"),
    Mutant("sv-of-square-t", "curvature/inverse_abs.py", "extended = space.extended()",
           "extended = space.tridiagonal()",
           "The sv form takes T for the extended T.",
           "test_inverse_abs.py::test_the_sv_form_never_spikes_where_the_plain_form_does"),
    Mutant("pole-shift", "curvature/inverse_abs.py", "[shift + node for node in nodes]", "list(nodes)",
           "The poles forget the damping.", "test_inverse_abs.py::test_quadrature_is_the_sum_over_its_poles"),
    Mutant("budget", "curvature/inverse_abs.py", "terms = products // 2 + 1", "terms = products // 2 + 2",
           "The series spends two products more than it may.",
           "test_inverse_abs.py::test_products_are_those_that_were_asked_for"),
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
    Mutant("trusts-infinity", "optimizers/damping.py", "accepted = xp.isfinite(trial) & (",
           "accepted = (", "A trial whose loss is not finite is taken.",
           f"{_ADAPTIVE}::test_a_trial_that_is_not_finite_is_rejected_and_doubles_the_damping"),
    Mutant("momentum-kept", "optimizers/damping.py", "xp.where(kept, step, xp.zeros_like(step))", "step",
           "A rejected step is remembered as momentum.", f"{_ADAPTIVE}::test_a_rejection_resets_the_momentum"),
    Mutant("damping-not-strict", "optimizers/damping.py", "xp.where(ratio > high,", "xp.where(ratio >= high,",
           "A ratio of exactly 3/4 lowers the damping.", f"{_ADAPTIVE}::test_damping_rule_is_strict_and_ignores_nan"),
    Mutant("always-accepts", "optimizers/levenberg_marquardt.py", "accepted = change < 0.0", "accepted = True",
           "Levenberg–Marquardt takes steps that raise the loss.",
           "test_levenberg_marquardt.py::test_damping_and_rejections_in_the_trace"),
    Mutant("released-weights", "optimizers/series_sfn.py", '**{**damped, "accelerate": "shanks",',
           '**{**damped, "accelerate": "sablonniere",', "The released reading has the weights of the published one.",
           f"{_SERIES}::test_released_has_the_weights_of_shanks_and_published_has_not"),
    Mutant("published-guarded", "optimizers/series_sfn.py", '**{"guard": False, **knobs})',
           '**{"guard": True, **knobs})', "The published reading has the guard.",
           f"{_SERIES}::test_published_and_released_are_these_knobs"),
    Mutant("one-term-damped", "optimizers/series_sfn.py",
           'undamped_first = method.terms == 1 and method.first_term == "undamped"', "undamped_first = False",
           "With one term the released reading is damped.", f"{_SERIES}::test_one_damped_term"),
    Mutant("decay-ignored", "optimizers/series_sfn.py", "method.scale_decay * scale)", "scale)", "V never falls.",
           f"{_SERIES}::test_published_scale_never_falls_and_one_with_decay_does"),
    Mutant("restart-forgotten", "optimizers/series_sfn.py",
           'carried = found.scale if method.scale_rule != "fixed" else scale', "carried = scale",
           "The V of a restart is not carried to the next step.",
           f"{_SERIES}::test_a_restart_is_carried_to_the_next_step_but_not_by_a_fixed_scale"),
    Mutant("series-model", "optimizers/series_sfn.py", "u, -0.5 * dot(gradient, u))",
           "u, -dot(gradient, u))", "The model of the released reading has no curvature.",
           f"{_ADAPTIVE_SERIES}::test_damping_rule_is_strict"),
    Mutant("model-undamped", "optimizers/series_sfn.py", "a_d = point.ggnvp(d) + damping[..., None] * d",
           "a_d = point.ggnvp(d)", "The matrix of the model is not the same for both directions.",
           f"{_ADAPTIVE_SERIES}::test_adaptive_path_against_dense_solves"),
    Mutant("lanczos-model", "optimizers/lanczos_sfn.py",
           "predicted = 0.5 * dot(coordinates, bent) - dot(gradient, step)",
           "predicted = dot(coordinates, bent) - dot(gradient, step)", "The curvature counts twice in the model.",
           f"{_LANCZOS}::test_direction_and_predicted_change_against_dense_arithmetic"),
    Mutant("bounded-is-decrease", "optimizers/lanczos_sfn.py", "(trial - point.loss <= xp.abs(predicted))",
           "(trial <= point.loss)", "A step that raises the loss a little is refused.",
           f"{_LANCZOS}::test_what_is_taken_and_what_becomes_of_the_damping"),
    Mutant("cap-ignored", "optimizers/lanczos_sfn.py", "maximum=self.damping_cap", "maximum=self.maximum_damping",
           "The damping rule knows no cap.", f"{_LANCZOS}::test_the_rule_stops_at_the_cap"),
    Mutant("refusal-forgotten", "optimizers/lanczos_sfn.py", "xp.where(accepted, adapted, raised), info)",
           "adapted, info)", "A refusal does not raise the damping.",
           f"{_LANCZOS}::test_a_refusal_doubles_whatever_omega_is"),
    Mutant("kfac-pi", "optimizers/kfac.py", "+ (root / pi)[..., None]", "+ (root * pi)[..., None]",
           "Both factors are damped by pi.", "test_kfac.py::test_direction_against_a_dense_kronecker_solve"),
    Mutant("kfac-ema", "optimizers/kfac.py", "average_curvature(old, new, ema)", "average_curvature(new, old, ema)",
           "The running mean weights the new factors.", "test_kfac.py::test_mean_of_factors_weights_the_old"),
    # the loop and what it leaves
    Mutant("state-lost", "run.py", "x, state = step.x, step.state", "x = step.x",
           "The method's state is thrown away.", f"{_FIRST_ORDER}::test_same_path_as_torch"),
    Mutant("counts-not-added", "trace.py", "self.counts = self.counts + counts", "self.counts = counts",
           "The counts are those of the last step alone.", "test_run.py::test_rows_of_a_run"),
    Mutant("resumes-anything", "experiments/runner.py",
           'if job not in done or done[job]["settings"] != own[job]]', "if job not in done]",
           "A run with other settings continues from old results.",
           "test_experiments.py::test_other_settings_start_afresh"),
    Mutant("batch-seeds", "experiments/uci_energy.py", "for seed in range(first, first + count)",
           "for seed in range(count)", "Every batch of seeds starts from the first ones.",
           "test_uci_energy.py::test_batched_rows_are_the_single_runs"),
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
