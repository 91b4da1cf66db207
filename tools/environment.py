"""Make the virtual environment of this repository: `python3 tools/environment.py .venv`.

Needs nothing but Python 3.11 or newer. The locked versions come first, then the few that are installed without
dependencies, then the package itself, editable.
"""

import os
import subprocess
import sys
import time

MINIMUM = (3, 11)
OMITTED = "requires torchvision, which is not installed."


def run(*command: str) -> None:
    """Run a command with its output on the terminal; stop with its exit status if it fails."""
    status = subprocess.call(command)
    if status:
        sys.exit(status)


def check(python: str) -> None:
    """Stop where installed packages do not fit together; the one that requirements-nodeps.lock omits may be absent."""
    done = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True)
    wrong = [line for line in done.stdout.splitlines() if not line.endswith(OMITTED)] if done.returncode else []
    if wrong:
        sys.exit("\n".join(wrong))


def main(folder: str) -> None:
    """Make `folder` a virtual environment that holds requirements.lock and this package."""
    if sys.version_info < MINIMUM:
        sys.exit(
            f"Python {MINIMUM[0]}.{MINIMUM[1]} or newer is needed, this is {sys.version.split()[0]}. "
            "Name another one: make PYTHON=python3.12 ..."
        )
    started = time.time()
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        print(f"[1/3] new environment in {folder} (Python {sys.version.split()[0]})", flush=True)
        run(sys.executable, "-m", "venv", folder)
    else:
        print(f"[1/3] environment in {folder} is there", flush=True)
    print("[2/3] installing requirements.lock (the first time takes some minutes)", flush=True)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install")
    run(*pip, "--progress-bar", "off", "-r", "requirements.lock")
    run(*pip, "--quiet", "--progress-bar", "off", "--no-deps", "-r", "requirements-nodeps.lock")
    print("[3/3] installing refimpl, editable", flush=True)
    run(*pip, "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    check(python)
    with open(os.path.join(folder, ".installed"), "w", encoding="utf-8") as stamp:
        stamp.write(f"{time.time() - started:.0f} s\n")
    print(f"environment ready in {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".venv")
