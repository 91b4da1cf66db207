"""The planted bugs of ``mutations.py`` in what the full-scale part needs: networks, races, records, leaderboards."""

from __future__ import annotations

from mutants import Mutant

_RESNET, _IMAGES, _LIBRARY = "test_resnet.py", "test_image_problem.py", "test_torch_library.py"
_BOARD, _RACES, _CHECKPOINTS = "test_leaderboard.py", "test_races.py", "test_checkpoints.py"
_SHARED, _SWEEP = "test_data_parallel.py", "test_sweep.py"

MUTANTS_FULL_SCALE = [
    # networks and pictures
    Mutant("resnet-first-stage", "problems/resnet.py", "(1 if stage == 0 else 2, 1)", "(2, 1)",
           "The first stage halves the picture too.",
           f"{_RESNET}::test_outputs_against_the_network_written_by_hand"),
    Mutant("resnet-stem", "problems/resnet.py", "3 if small else 7, 1 if small else 2",
           "3 if small else 7, 2", "The small stem has stride 2.",
           f"{_RESNET}::test_parameters_and_flops_of_the_full_network"),
    Mutant("deviation-one", "problems/image_problem.py", "(count * q - s * s) ** 0.5 / count",
           "(count * q - s * s) ** 0.5 / (count + 1)", "Deviations are those of one pixel more.",
           f"{_IMAGES}::test_scaling_is_numpy_s_mean_and_deviation"),
    Mutant("flat-color", "problems/image_problem.py", "[d or 1.0 for d in spread]", "spread",
           "A color that never changes is divided by zero.",
           f"{_IMAGES}::test_a_color_that_never_changes_has_deviation_one"),
    # methods of other libraries
    Mutant("library-state-shared", "optimizers/torch_library.py", "optimizer.load_state_dict(copy.deepcopy(saved))",
           "optimizer.load_state_dict(saved)", "A step changes the state that it was given.",
           f"{_LIBRARY}::test_state_that_was_put_away_goes_on_the_same_way"),
    Mutant("muon-flattens-matrices", "optimizers/torch_library.py", "(shape[0], -1) if len(shape) > 2",
           "(-1, shape[-1]) if len(shape) > 2", "Muon sees a kernel with the wrong axes joined.",
           f"{_LIBRARY}::test_steps_of_muon_by_hand"),
    # several processes
    Mutant("share-weight", "problems/shared_evaluation.py", "self._problem.summed(self._share.weight * value)",
           "self._problem.summed(value / self._problem.processes)",
           "Shares of different size count alike.", f"{_SHARED}::test_every_process_answers_as_one_alone"),
    # races and their records
    Mutant("tuning-on-full-budget", "experiments/races.py", 'run(f"{job}/tuning@{rate:g}", chosen, TUNING_SEED, '
           'TUNING_SHARE, role="tuning", rate=rate)',
           'run(f"{job}/tuning@{rate:g}", chosen, TUNING_SEED, 1.0, role="tuning", rate=rate)',
           "Rates are tuned with the whole budget.",
           f"{_RACES}::test_rates_are_chosen_by_training_loss_after_a_third_on_a_seed_of_its_own"),
    Mutant("seed-of-the-method", "experiments/races.py", "replace(method, seed=seed) if hasattr",
           "replace(method, seed=0) if hasattr", "All seeds of a method draw the same numbers.",
           f"{_RACES}::test_a_seeded_method_draws_differently_for_every_seed"),
    Mutant("checkpoint-of-others", "experiments/checkpoints.py",
           'if (found["schema"], found["settings"]) != (SCHEMA, self.digest):', 'if found["schema"] != SCHEMA:',
           "A checkpoint of other settings is loaded.",
           f"{_CHECKPOINTS}::test_nothing_is_loaded_where_there_is_none_or_it_is_of_other_settings"),
    Mutant("checkpoint-unchecked", "experiments/checkpoints.py",
           'if found["sha256"] != hashlib.sha256(body).hexdigest():', 'if not found["sha256"]:',
           "A damaged checkpoint goes unnoticed.", f"{_CHECKPOINTS}::test_a_damaged_file_counts_as_none"),
    Mutant("checkpoint-in-place", "experiments/checkpoints.py",
           'write_atomically(self.path, json.dumps(header).encode() + b"\\n" + body)',
           'self.path.write_bytes(json.dumps(header).encode() + b"\\n" + body)',
           "A reader may see half a checkpoint.", f"{_CHECKPOINTS}::test_a_reader_never_sees_half_a_file"),
    # leaderboards
    Mutant("chance-ignored", "experiments/leaderboard.py", "if chance(one.runs, other.runs) > CHANCE + 1e-9:",
           "if chance(one.runs, other.runs) > 1.0:", "Two runs against two decide a race.",
           f"{_BOARD}::test_how_many_runs_decide"),
    Mutant("ties-are-losses", "experiments/leaderboard.py", "(1 + compare(one, other)) / 2",
           "(1 + compare(one, other)) // 2", "A tie costs no rank.", f"{_BOARD}::test_ranks_with_a_chain_of_ties"),
    Mutant("failure-forgotten", "experiments/leaderboard.py", "-math.inf if math.isinf(m) else",
           "0.0 if math.isinf(m) else",
           "A method that fails counts as the baseline.", f"{_BOARD}::test_decades_below_the_baseline"),
    Mutant("first-look", "experiments/leaderboard.py", "np.where(one.work <= budget, one.work, math.inf)",
           "one.work", "An arrival counts beyond what others were given.",
           f"{_BOARD}::test_an_arrival_beyond_what_another_method_was_given_does_not_count"),
]  # fmt: skip
