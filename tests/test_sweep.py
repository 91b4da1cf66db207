"""Searching for hyper-parameters: what a trial is worth, what is proposed, who is given up, and workers that share.

Oracles: the closed form of gradient descent on a quadratic, with its best rate 2/(L + mu); the rule of successive
halving written down once more; the series paper's tables typed once more; a study without a break for one with; SQL for
Optuna. The database is a real PostgreSQL, which the tests start for themselves and stop again.
"""

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from refimpl import minimize
from refimpl.arrays import as_generator
from refimpl.experiments import EXPERIMENTS, sweep_spaces
from refimpl.experiments.__main__ import main
from refimpl.experiments.records import read_record
from refimpl.experiments.sweep import Objective, objective_of, run_sweep
from refimpl.experiments.sweep_spaces import SPACES, Knob, Space
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.quasi_newton import LBFGS
from refimpl.optimizers.series_sfn import SeriesSaddleFreeNewton
from refimpl.problems.quadratic import Quadratic

DATA = os.environ.get("REFIMPL_DATA")
pytest.importorskip("optuna", reason="Optuna is not installed")

SMALL, LARGE = 1.0, 10.0
BEST_RATE = 2 / (SMALL + LARGE)
RATES = Space(GradientDescent, {"learning_rate": Knob(1e-3, 1.0, log=True)})


def bowl():
    return Quadratic([[LARGE, 0.0], [0.0, SMALL]])


def corner(problem, seed):
    """Where both curvatures have the same slope, so that 2/(L + mu) is the best rate after any number of steps."""
    return problem.backend.asarray([1 / LARGE, 1 / SMALL])


def loss_of(rate, steps):
    """f after ``steps`` of gradient descent from the corner: each coordinate shrinks by 1 - rate·curvature a step."""
    return sum((1 - rate * curvature) ** (2 * steps) / curvature / 2 for curvature in (LARGE, SMALL))


TOY = Objective("bowl", bowl, 18, "steps", corner, looks=3)
OFTEN = replace(TOY, looks=9)


def sweep(folder, trials=12, name="toy", objective=TOY, space=RATES, **options):
    return run_sweep(objective, "gradient-descent", trials=trials, name=name, folder=folder, space=space, **options)


def told(trials, *keys):
    return [tuple(trial[key] for key in keys) for trial in trials]


# -- what a trial is worth --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.03, BEST_RATE])
def test_a_trial_is_worth_the_loss_after_its_budget(rate):
    seen = []
    loss, status = OFTEN(GradientDescent(rate), lambda look, value, spent: seen.append((look, spent["steps"], value)))
    assert status == "budget"
    assert [(look, steps) for look, steps, _ in seen] == [(k, 2 * k) for k in range(1, 10)]
    np.testing.assert_allclose([value for *_, value in seen], [loss_of(rate, 2 * k) for k in range(1, 10)], rtol=1e-9)
    assert loss == seen[-1][2]


def test_a_trial_pays_for_its_products():
    seen = []
    objective = replace(TOY, unit="work", budget=100.0, looks=4)
    objective(SeriesSaddleFreeNewton(5), lambda *told: seen.append(told))
    # A step costs a gradient and 8 products of two gradients each, so looks fall on steps 2, 3, 5 and 6.
    assert [(look, spent["steps"], spent["work"]) for look, _, spent in seen] == [
        (1, 2, 34.0), (2, 3, 51.0), (3, 5, 85.0), (4, 6, 102.0),
    ]  # fmt: skip


def test_who_gets_lost_is_worth_nothing():
    assert TOY(GradientDescent(1e60), lambda *_: None) == (np.inf, "diverged")
    with pytest.raises(ValueError, match="owns its loop"):
        TOY(LBFGS(), lambda *_: None)


def test_the_test_set_has_no_say():
    class Watched(Quadratic):
        def evaluate(self, x):
            return {"loss": self.loss(x), "test_loss": -self.loss(x)}

    objective = replace(TOY, build=lambda: Watched([[LARGE, 0.0], [0.0, SMALL]]))
    assert objective(GradientDescent(0.1), lambda *_: None) == TOY(GradientDescent(0.1), lambda *_: None)


# -- what is proposed -------------------------------------------------------------------------------------------------


def test_the_best_rate_of_a_quadratic_is_found(tmp_path):
    found = sweep(tmp_path, 24, pruner="none")
    assert len(found.trials) == 24
    rate = found.best["parameters"]["learning_rate"]
    assert abs(rate / BEST_RATE - 1) < 0.1
    np.testing.assert_allclose(found.best["loss"], loss_of(rate, 18), rtol=1e-9)
    assert found.best["loss"] == min(trial["loss"] for trial in found.trials)
    # The closed form has its minimum there, and chance alone would rarely come as close.
    assert loss_of(BEST_RATE, 18) < min(loss_of(BEST_RATE * factor, 18) for factor in (0.99, 1.01))


def test_a_seed_decides_the_trials_and_a_break_changes_nothing(tmp_path):
    keys = ("number", "parameters", "loss", "status")
    whole = sweep(tmp_path, 12, "whole", seed=3)
    sweep(tmp_path, 6, "broken", seed=3)
    assert told(sweep(tmp_path, 12, "broken", seed=3).trials, *keys) == told(whole.trials, *keys)
    other = sweep(tmp_path, 1, "other", seed=4)
    assert other.trials[0]["parameters"] != whole.trials[0]["parameters"]
    again = sweep(tmp_path, 12, "whole", seed=3)
    assert told(again.trials, *keys) == told(whole.trials, *keys)


def test_orders_fit_their_terms(tmp_path):
    space = SPACES["series-sfn"]
    found = sweep(tmp_path, 12, objective=replace(TOY, budget=1, looks=1), space=space)
    drawn = [trial["parameters"] for trial in found.trials]
    assert all(1 <= one["terms"] <= 20 and 0 <= one["order"] <= (one["terms"] - 1) // 2 for one in drawn)
    assert len({one["terms"] for one in drawn}) > 5


def test_ranges_are_those_of_the_tables():
    series = {"learning_rate": (1e-3, 5), "momentum": (1e-3, 0.95), "damping": (1e-8, 1), "terms": (1, 20)}
    adam = {"learning_rate": (1e-6, 1), "epsilon": (1e-10, 10), "forget1": (1e-3, 1), "forget2": (1e-4, 1)}
    printed = {
        "series-sfn": series,
        "adaptive-series-sfn": {"initial_damping": (1e-8, 10), "terms": (1, 20)},
        "gradient-descent": {"learning_rate": (1e-6, 1e-1)},
        "adam": adam,
        "adaptive-kfac": {"initial_damping": (1e-8, 1)},
        "kfac": {"learning_rate": (1e-6, 10), "momentum": (1e-3, 0.95), "damping": (1e-8, 1)},
        "heavy-ball": {"learning_rate": (1e-4, 1), "momentum": (0.8, 0.99)},
        "kryball-published": {"dimension": (1, 10), "refresh": (1, 10)},
    }
    for method, ranges in printed.items():
        knobs = {name: knob for name, knob in SPACES[method].knobs.items() if not callable(knob.high)}
        assert {name: (knob.low, knob.high) for name, knob in knobs.items()} == ranges


@pytest.mark.parametrize("method", sorted(SPACES))
def test_every_corner_of_a_space_is_a_method(method):
    space = SPACES[method]
    for share in (0.0, 0.5, 1.0):
        chosen = {}
        for name, knob in space.knobs.items():
            high = knob.high(chosen) if callable(knob.high) else knob.high
            value = knob.low + share * (high - knob.low)
            chosen[name] = int(value) if knob.whole else value
        assert hasattr(space.build(**chosen), "step")


# -- who is given up --------------------------------------------------------------------------------------------------


def test_halving_gives_up_whom_two_thirds_have_beaten(tmp_path):
    found = sweep(tmp_path, 16, objective=OFTEN, seed=1)
    rungs = {1: [], 3: []}
    expected = []
    for trial in found.trials:
        values, end = dict(zip(trial["curve"]["look"], trial["curve"]["loss"], strict=True)), "budget"
        for look, seen in rungs.items():
            if look not in values:
                break
            seen.append(values[look])
            if values[look] > sorted(seen)[max(len(seen) // 3 - 1, 0)]:
                end = "pruned"
                break
        if trial["status"] != "diverged":
            expected.append((trial["number"], end))
    kept = [trial for trial in found.trials if trial["status"] != "diverged"]
    assert told(kept, "number", "status") == expected
    given_up = [trial for trial in kept if trial["status"] == "pruned"]
    assert len(given_up) >= 6
    assert max(trial["steps"] for trial in given_up) <= 6
    assert found.best["status"] == "budget"


def test_hyperband_gives_up_too(tmp_path):
    found = sweep(tmp_path, 9, objective=OFTEN, pruner="hyperband")
    assert {"pruned", "budget"} <= {trial["status"] for trial in found.trials}


# -- storage and records ----------------------------------------------------------------------------------------------


def test_a_study_is_not_mixed_with_another(tmp_path):
    sweep(tmp_path, 2)
    with pytest.raises(ValueError, match=r"other settings.*budget.*18.*12"):
        sweep(tmp_path, 2, objective=replace(TOY, budget=12))


def test_record(tmp_path):
    found = sweep(tmp_path, 3)
    found.write(tmp_path)
    record = read_record("toy", tmp_path)
    assert record["settings"]["database"] == "sqlite"
    assert record["settings"]["space"] == {"learning_rate": "log 0.001 … 1"}
    assert "optuna" in record["provenance"]["versions"]
    assert told(record["runs"], "key", "status") == told(found.trials, "key", "status")


def test_command_line(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("refimpl.experiments.sweep.objective_of", lambda *a, **k: asked.append((a, k)) or TOY)
    options = ["--optimizer", "heavy-ball", "--budget", "4", "--looks", "2", "--scale", "smoke", "--case", "minibatch"]
    given = ["--trials", "2", "--study", "named", "--out", str(tmp_path), "--storage", f"sqlite:///{tmp_path}/x.db"]
    assert main(["sweep", "mnist1d-kryball", *options, *given]) == 0
    assert "best of 2 trials: trial/" in capsys.readouterr().out
    expected = {"scale": "smoke", "device": "cpu", "budget": 4.0, "unit": "work", "looks": 2}
    assert asked == [(("mnist1d-kryball", "minibatch"), expected)]
    assert (tmp_path / "x.db").is_file()
    record = read_record("named", tmp_path)
    assert [set(run["parameters"]) for run in record["runs"]] == 2 * [{"learning_rate", "momentum"}]


def test_wrong_requests_on_the_command_line(capsys):
    assert main(["sweep", "nothing", "--optimizer", "kryball"]) == 2
    assert "nothing to tune" in capsys.readouterr().err


@pytest.mark.skipif(
    not DATA or not Path(DATA, "uci_energy", "data.txt").is_file(), reason="REFIMPL_DATA has no uci_energy"
)
def test_a_network_of_the_book(tmp_path):
    objective = objective_of("uci-energy", scale="smoke", budget=60, looks=2)
    found = run_sweep(objective, "lanczos-sfn", trials=2, name="energy", folder=tmp_path)
    for trial in found.trials:
        problem = objective.build()
        start = problem.initial(as_generator([objective.seed, 0]))
        result = minimize(problem, LanczosSaddleFreeNewton(**trial["parameters"]), start, steps=trial["steps"])
        assert trial["loss"] == pytest.approx(result.loss, rel=1e-12)
        assert trial["work"] >= objective.budget / objective.looks


def test_every_study_can_be_tuned():
    for name in ("mnist1d-kryball", "small-convnets", "mnist-mlp", "uci-energy"):
        assert name in EXPERIMENTS
        assert objective_of(name, scale="smoke").budget > 0
    with pytest.raises(ValueError, match="unknown case"):
        objective_of("small-convnets", "huge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "trials must be"),
        ({"workers": 0}, "workers must be"),
        ({"seed": -1}, "seed must be"),
        ({"pruner": "random"}, "unknown pruner"),
        ({"storage": "sweep.db"}, "no URL of a database"),
        ({"storage": "nothing://there"}, "no URL of a database"),
        ({"storage": "sqlite:////no/such/folder/x.db"}, "cannot be opened"),
        ({"space": None, "method": "newton"}, "no search space"),
    ],
)
def test_malformed_requests(tmp_path, change, message):
    given = {"method": "gradient-descent", "trials": 1, "name": "x", "folder": tmp_path, "space": RATES} | change
    with pytest.raises(ValueError, match=message):
        run_sweep(TOY, given.pop("method"), **given)


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(TOY, budget=0),
        lambda: replace(TOY, unit="hours"),
        lambda: replace(TOY, looks=0),
        lambda: Knob(1.0, 1.0),
        lambda: Knob(0.0, 1.0, log=True),
        lambda: sweep_spaces.space_of("adagrad"),
    ],
)
def test_malformed_objectives_and_spaces(make):
    with pytest.raises(ValueError):
        make()


# -- workers on a PostgreSQL ------------------------------------------------------------------------------------------


def binaries():
    """Where PostgreSQL's programs are, or None."""
    found = [shutil.which(name) for name in ("initdb", "postgres")]
    if all(found):
        return Path(found[0]).parent
    config = shutil.which("pg_config")
    folders = [subprocess.check_output([config, "--bindir"], text=True).strip()] if config else []
    folders += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    return next((Path(one) for one in folders if Path(one, "initdb").exists() and Path(one, "postgres").exists()), None)


def as_whom():
    """What makes a child of this process an account that PostgreSQL accepts: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    return None


@pytest.fixture
def postgres():
    """URL of an empty database on a server of its own: a socket in a folder, no network."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs, account = binaries(), as_whom()
    if programs is None or account is None:
        pytest.skip("PostgreSQL is not installed" if programs is None else "no account to run PostgreSQL as")
    folder = Path(
        tempfile.mkdtemp(prefix="pg", dir="/tmp" if Path("/tmp").is_dir() else None)
    )  # sockets need short names
    server = None
    try:
        if account:
            os.chown(folder, account["user"], account["group"])
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": folder, **account}
        fast = ["--no-sync", "--auth=trust", "--username=sweep", "--encoding=UTF8", "--locale=C"]
        made = subprocess.run([programs / "initdb", "-D", folder / "data", *fast], check=False, **quiet)
        if made.returncode:
            pytest.skip(f"PostgreSQL cannot be set up here: {made.stderr.strip()[-300:]}")
        options = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "shared_buffers": "16MB"}
        settings = [f"-c{name}={value}" for name, value in options.items()]
        server = subprocess.Popen([programs / "postgres", "-D", folder / "data", *settings], **quiet)
        ready, tries = folder / ".s.PGSQL.5432", 0
        while not answers(folder):
            tries += 1
            if server.poll() is not None or tries > 150:
                server.kill()
                pytest.skip(f"PostgreSQL does not start here ({ready.exists()=}): {server.communicate()[1][-300:]}")
            time.sleep(0.1)
        yield f"postgresql+psycopg://sweep@/postgres?host={folder}"
    finally:
        if server is not None and server.poll() is None:
            server.send_signal(signal.SIGINT)  # a fast shutdown: sessions are ended
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        if server is not None:
            server.stderr.close()
        shutil.rmtree(folder, ignore_errors=True)


def answers(folder):
    import psycopg

    try:
        psycopg.connect(host=str(folder), user="sweep", dbname="postgres", connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def deadly(folder):
    """A bowl whose builder is killed once: the first process to build its third one dies in the middle of a trial."""
    own = Path(folder, f"{os.getpid()}.built")
    built = int(own.read_text()) + 1 if own.exists() else 1
    own.write_text(str(built))
    time.sleep(0.05)  # so that nobody is through before the other has begun
    if built == 3:
        try:
            Path(folder, "killed").symlink_to(str(os.getpid()))  # made by one process only
        except FileExistsError:
            return bowl()
        os.kill(os.getpid(), signal.SIGKILL)
    return bowl()


def test_two_workers_share_a_study_and_one_is_killed(postgres, tmp_path):
    import psycopg

    objective = replace(TOY, build=partial(deadly, str(tmp_path)))
    found = sweep(tmp_path, 12, objective=objective, storage=postgres, workers=2, heartbeat=1)
    dead = int(os.readlink(tmp_path / "killed"))
    lost = [trial for trial in found.trials if trial["status"] == "lost"]
    done = [trial for trial in found.trials if trial["status"] != "lost"]
    assert len(done) == 12
    assert len({trial["number"] for trial in found.trials}) == len(found.trials)
    # Both have done their part, and what the dead one left was done again by the other, with the same rate.
    workers = {trial["worker"] for trial in done}
    assert len(workers) == 2
    assert dead in workers
    assert told(lost, "worker") == [(dead,)]
    again = [trial for trial in done if trial["parameters"] == lost[0]["parameters"]]
    assert len(again) == 1
    assert again[0]["number"] > lost[0]["number"]
    assert again[0]["worker"] != dead
    assert len({trial["parameters"]["learning_rate"] for trial in done}) == 12
    with psycopg.connect(postgres.replace("+psycopg", "")) as connection:
        smallest, count = connection.execute(
            "select min(value), count(*) from trials join trial_values using (trial_id) where state = 'COMPLETE'"
        ).fetchone()
    assert smallest == found.best["loss"]
    assert count == sum(trial["status"] != "pruned" for trial in done)
    np.testing.assert_allclose(smallest, loss_of(found.best["parameters"]["learning_rate"], 18), rtol=1e-9)
    assert sweep(tmp_path, 12, objective=objective, storage=postgres).trials == found.trials
    found.write(tmp_path)
    assert str(tmp_path) not in (tmp_path / "toy.json").read_text()
