"""Three files list the dependencies; they agree, and the Dockerfile never touches the image's torch."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_and_range(requirement: str) -> tuple[str, str]:
    name, versions = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*(.*)", requirement.strip()).groups()
    return name.lower(), versions.replace(" ", "")


def as_dict(requirements: list[str]) -> dict[str, str]:
    return dict(map(name_and_range, requirements))


def docker_commands() -> list[str]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def test_environment_yml_holds_pyproject_dependencies():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    assert as_dict(pip) == as_dict(PROJECT["dependencies"])
    conda = as_dict([entry for entry in listed if isinstance(entry, str)])
    assert conda["python"] == PROJECT["requires-python"]
    assert "pytorch" not in conda


def test_dockerfile_holds_pyproject_dependencies_but_torch():
    install = next(line for line in docker_commands() if "pip install" in line and "transformers" in line)
    expected = as_dict(PROJECT["dependencies"])
    expected.pop("torch")
    assert as_dict(re.findall(r'"([^"]+)"', install)) == expected


def test_dockerfile_never_installs_torch():
    installs = [line for line in docker_commands() if "pip install" in line]
    assert installs
    for line in installs:
        assert not re.search(r"(?<![\w/-])torch\w*\s*(?:[<>=!~\"']|\s|$)", line), line
        assert "--constraint /opt/torch-constraints.txt" in line or "--no-deps" in line


def test_dockerfile_pins_its_image():
    (image,) = [line for line in docker_commands() if line.startswith("ARG IMAGE=")]
    assert re.fullmatch(r"ARG IMAGE=nvcr\.io/nvidia/pytorch:\d\d\.\d\d-py3", image)


@pytest.mark.parametrize("name", [".gitignore", ".dockerignore"])
def test_what_is_fetched_stays_out_of_git_and_of_the_image(name):
    """An image that is built beside 16 GB of weights would hold them."""
    ignored = {line.strip("/") for line in (ROOT / name).read_text().splitlines()}
    assert {"weights", "data", ".venv"} <= ignored


def test_constraints_pin_torch_within_the_range():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().split()
    assert as_dict(PROJECT["dependencies"])["torch"] == ">=2.11,<2.14"


def test_setup_files_name_no_package_host():
    for name in ("Makefile", "Dockerfile", "environment.yml", "constraints.txt", "pyproject.toml", ".ci/run"):
        content = (ROOT / name).read_text()
        assert not re.search(r"index-url|trusted-host|find-links|https?://", content), name
