"""The two TensorRT libraries a target may need: what each is called, where NVIDIA says how to install it, and loading it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from ingot.errors import DependencyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """`package` is what pip installs and what is imported."""

    target: str
    title: str
    package: str
    install: str  # a sentence: what to type, and the page to follow

    def check_present(self) -> None:
        """Raises DependencyError where the package is not installed. Imports nothing."""
        if find_spec(self.package) is None:
            raise DependencyError(
                f"Target {self.target} needs {self.title}: the package {self.package} is not installed.",
                mend=self.install,
            )

    def load(self) -> ModuleType:
        """Raises DependencyError also where the package is there and its shared libraries are not."""
        self.check_present()
        try:
            return import_module(self.package)
        except (ImportError, OSError, RuntimeError) as error:
            raise DependencyError(
                f"Target {self.target} needs {self.title}: the package {self.package} does not load ({error}).",
                mend=self.install,
            ) from error


LIBRARIES = {
    "tensorrt": Library(
        target="tensorrt",
        title="TensorRT 11",
        package="tensorrt",
        install=(
            "Install it: pip install 'ingot[tensorrt]' (tensorrt-cu13-libs comes from NVIDIA's own index, https://pypi.nvidia.com); "
            "see https://docs.nvidia.com/deeplearning/tensorrt/11.4.0/installing-tensorrt/install-pip.html."
        ),
    ),
    "tensorrt-rtx": Library(
        target="tensorrt-rtx",
        title="TensorRT-RTX",
        package="tensorrt_rtx",
        install=(
            "Install it: pip install 'ingot[tensorrt-rtx]' (all of it is on PyPI); "
            "see https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/installing-tensorrt-rtx/installation-overview.html."
        ),
    ),
}
