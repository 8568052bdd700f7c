"""What pyproject.toml cannot say: the folder conf lies beside the package in a checkout, in it when installed."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["refexp*", "hydra_plugins*"]), "refexp.conf"],
    package_dir={"refexp.conf": "conf"},
    package_data={"refexp.conf": ["*.yaml", "**/*.yaml"], "refexp.show.page": ["templates/*"]},
)
