"""Gives the wheel its version and its platform, for which it contains the library. See build."""

import os

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel


class WithLibrary(Distribution):
    def has_ext_modules(self):
        """Report True, because the library is for one platform."""
        return True


class PlatformWheel(bdist_wheel):
    def get_tag(self):
        """Return a tag for every Python 3 on the platform, because nothing is compiled for Python."""
        return "py3", "none", os.environ.get("LATCHKEY_PLATFORM") or super().get_tag()[2]


setup(version=os.environ.get("LATCHKEY_VERSION", "0.0.0"), distclass=WithLibrary, cmdclass={"bdist_wheel": PlatformWheel})
