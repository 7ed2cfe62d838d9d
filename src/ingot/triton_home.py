"""Where a local Triton lives: the real tritonserver out of the PyTriton wheel, with a Python of its own for its stubs.

Fetches only when asked to install. Knows how the server is started, and nothing of models or requests.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ingot
from ingot.errors import DependencyError

WHEEL = "nvidia-pytriton==0.7.0"  # tritonserver 2.51, the 24.10 generation
STUB_NUMPY = "numpy==1.26.4"  # the stub of that generation misreads tensors under numpy 2
STUB_PYTHONS = ((3, 11), (3, 12))
STUB_PATHS = "INGOT_STUB_PATHS"
INSTALL = "Run `ingot triton --install` (55 MB from the package index)."

# PYTHONPATH does not reach a stub, so its environment takes our packages from a variable; its own numpy stays in front.
PATH_FILE = f"""\
import os, site; list(map(site.addsitedir, filter(None, os.environ.get({STUB_PATHS!r}, "").split(os.pathsep))))
"""


@dataclass(frozen=True, slots=True)
class TritonHome:
    """The folder of one installation."""

    root: Path

    @property
    def server(self) -> Path:
        return self.root / "wheel" / "pytriton" / "tritonserver"

    @property
    def binary(self) -> Path:
        return self.server / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        return self.root / "backends"

    @property
    def stub(self) -> Path:
        return self.backends / "python" / "triton_python_backend_stub"

    @property
    def stub_env(self) -> Path:
        return self.root / f"python{python_version()}"

    def missing(self) -> list[str]:
        """What keeps this Triton from starting, a sentence each; empty when nothing does."""
        found = machine_lacks()
        if not self.binary.is_file() or not self.stub.is_file():
            found.append(f"There is no Triton in {self.root}. {INSTALL}")
        elif not (self.stub_env / "bin" / "python").exists():
            found.append(
                f"The Triton in {self.root} was installed for another Python than {python_version()}. {INSTALL}"
            )
        return found

    def check(self) -> None:
        """Raises DependencyError with the first thing that is missing."""
        if found := self.missing():
            what, _, mend = found[0].partition(". ")
            raise DependencyError(f"{what}.", mend=mend)

    def environment(self) -> dict[str, str]:
        """The server's environment: its stubs run this interpreter's packages and this ingot."""
        own = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        paths = [*map(os.path.abspath, own), Path(ingot.__file__).parents[1], Path(sysconfig.get_path("purelib"))]
        libraries = [self.root / "wheel" / "nvidia_pytriton.libs", libpython_folder()]
        return os.environ | {
            "PATH": f"{self.stub_env / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": os.pathsep.join(str(folder) for folder in libraries if folder is not None),
            STUB_PATHS: os.pathsep.join(map(str, paths)),
        }


def default_home() -> TritonHome:
    """Under INGOT_TRITON_HOME, or in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return TritonHome(Path(os.environ.get("INGOT_TRITON_HOME") or cache / "ingot" / "triton"))


def install(home: TritonHome, *, say: Callable[[str], None]) -> None:
    """Fetches the wheel and numpy with pip and lays out the stub's Python. A second run mends a half-made home."""
    if found := machine_lacks():
        what, _, mend = found[0].partition(". ")
        raise DependencyError(f"{what}.", mend=mend)
    home.root.mkdir(parents=True, exist_ok=True)
    say(f"fetching {WHEEL} into {home.root}")
    # A folder of its own and no dependencies: the wheel's metadata would take our numpy away.
    pip("install", "--no-deps", "--upgrade", "--target", str(home.root / "wheel"), WHEEL)
    say(f"making the stub's Python in {home.stub_env}")
    venv.create(home.stub_env, with_pip=False, clear=True)
    python = home.stub_env / "bin" / "python"
    pip("--python", str(python), "install", STUB_NUMPY)
    packages = home.stub_env / "lib" / f"python{python_version()}" / "site-packages"
    (packages / "ingot_paths.pth").write_text(PATH_FILE)
    lay_out_backend(home)


def lay_out_backend(home: TritonHome) -> None:
    folder = home.backends / "python"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy2(home.server / "backends" / "python" / name, folder / name)
    stub = home.server / "python_backend_stubs" / python_version() / home.stub.name
    draft = home.stub.with_suffix(".new")
    shutil.copy2(stub, draft)
    draft.chmod(0o755)
    draft.replace(home.stub)


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise DependencyError(
            f"pip could not do `{' '.join(arguments)}`: {last}.", mend="Mend that, then run it again."
        )


def machine_lacks() -> list[str]:
    """What this machine or interpreter lacks for the wheel, a sentence and its mend each."""
    found = []
    if sys.platform != "linux" or platform.machine() != "x86_64":
        found.append("The PyTriton wheel is for Linux on x86_64. Use the NGC container there: docs/triton.md.")
    if sys.version_info[:2] not in STUB_PYTHONS:
        found.append(
            f"The PyTriton stub does not run on Python {python_version()}. Use Python 3.11: make PYTHON=python3.11."
        )
    if sysconfig.get_config_var("Py_ENABLE_SHARED") == 0 or libpython_folder() is None:
        found.append("This Python has no shared libpython, which the stub loads. Use one built with --enable-shared.")
    return found


def libpython_folder() -> Path | None:
    """The folder of the running Python's shared library; the stub must load exactly that one."""
    name = sysconfig.get_config_var("INSTSONAME")
    roots = [sysconfig.get_config_var("LIBDIR"), "/usr/lib", "/usr/local/lib"]
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    places = [Path(root) / part for root in roots if root for part in ("", multiarch)]
    return next((place for place in places if (place / str(name)).is_file()), None)


def python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
