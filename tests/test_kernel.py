"""The kernel in a container: what is registered starts, is interrupted and ends, with a stand-in for docker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from huggingface_hub import constants
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from refusals import refused

from lumo.__main__ import main
from lumo.params import ROOT
from lumo.workbook import WorkbookError, kernel

# Runs the command after the image's name here, as far from its caller as a container is: a session and an environment of its own, in which
# a Ctrl-C doesn't arrive. It refuses files that aren't mounted.
DOCKER = f"""#!{sys.executable}
import os, pathlib, signal, subprocess, sys
rest = sys.argv[2:]
options = []
while rest[0].startswith("--"):
    options.append(rest.pop(0))
image, python, *command = rest
assert (sys.argv[1], image, python) == ("run", "an-image", "python"), sys.argv
pathlib.Path(sys.argv[0] + ".options").write_text("\\n".join(options))
variables = [option.removeprefix("--env=") for option in options if option.startswith("--env=")]
given = dict(v.split("=", 1) if "=" in v else (v, os.environ.get(v, "")) for v in variables)
mounts = [dict(p.partition("=")[::2] for p in o.removeprefix("--mount=").split(",")) for o in options if o.startswith("--mount=")]
assert all(os.path.exists(m["source"]) and m["source"] == m["target"] for m in mounts), mounts
assert any(m["source"] == command[-1] for m in mounts), command
place = next(o.removeprefix("--workdir=") for o in options if o.startswith("--workdir="))
child = subprocess.Popen([sys.executable, *command], cwd=place, start_new_session=True,
                         env={{"PATH": os.environ["PATH"], **given, "HOME": os.path.dirname(sys.argv[0])}})
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
sys.exit(child.wait())
"""


@pytest.fixture(autouse=True)
def jupyter(tmp_path, monkeypatch):
    """An empty Jupyter of one's own, and no hub's cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))
    monkeypatch.delenv("LUMO_REPORTS", raising=False)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    return tmp_path / "jupyter" / "kernels"


@pytest.fixture
def docker(tmp_path, monkeypatch):
    path = tmp_path / "bin" / "docker"
    path.parent.mkdir()
    path.write_text(DOCKER)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


def said_by(client, code: str) -> tuple[dict, str]:
    """The reply to a cell, and what it printed."""
    printed = []
    reply = client.execute_interactive(
        code, timeout=60, output_hook=lambda m: printed.append(m["content"].get("text", ""))
    )
    return reply["content"], "".join(printed).strip()


def test_a_kernel_starts_is_interrupted_restarted_and_ends(docker, tmp_path, monkeypatch):
    monkeypatch.setenv("LUMO_PROFILE", "smoke")
    kernel.install("my-spark", "an-image")
    manager = KernelManager(kernel_name="my-spark")
    manager.start_kernel()
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        code = "import os, lumo; print(1 + 1, os.environ['LUMO_PROFILE'], os.path.dirname(lumo.__file__), os.getcwd(), os.getpid())"
        reply, printed = said_by(client, code)
        assert reply["status"] == "ok"
        *shown, pid = printed.split()
        assert shown == ["2", "smoke", str(ROOT / "lumo"), str(ROOT / "notebooks")]
        # a cell that fails would have the kernel refuse what comes right after it
        client.execute("print('begun', flush=True); import time; time.sleep(60)", stop_on_error=False)
        while client.get_iopub_msg(timeout=30)["content"].get("text", "").strip() != "begun":
            pass
        manager.interrupt_kernel()
        assert client.get_shell_msg(timeout=30)["content"]["ename"] == "KeyboardInterrupt"
        assert said_by(client, "2")[0]["status"] == "ok"  # it goes on
        manager.restart_kernel()
        client.wait_for_ready(timeout=60)
        assert not Path(f"/proc/{pid}").exists()
        # by a file: what a cell prints just after an interrupt or a restart may pass for another's
        said_by(client, f"import os, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))")
        pid = (tmp_path / "pid").read_text()
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    assert not Path(f"/proc/{pid}").exists()


def test_papermill_runs_a_notebook_in_it(docker, tmp_path):
    assert main(["kernel", "install", "--name", "my-spark", "--image", "an-image"]) == 0
    cells = [nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell("n + 1")]
    language = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=language), tmp_path / "in.ipynb")
    command = [sys.executable, "-m", "papermill", "-k", "my-spark", "-p", "n", "41", "in.ipynb", "out.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    last = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1]
    assert last.outputs[0].data["text/plain"] == "42"
    assert docker.with_name("docker.options").exists()


def test_what_the_container_is_given(jupyter, tmp_path, docker):
    assert kernel.install("my-spark", "an-image", [tmp_path]) == jupyter / "my-spark"
    spec = KernelSpecManager().get_kernel_spec("my-spark")
    assert spec.interrupt_mode == "message" and spec.argv[:2] == ["docker", "run"]
    end = spec.argv[spec.argv.index("an-image") :]
    assert end == ["an-image", "python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert {"--rm", "--pull=never", "--gpus=all", "--network=host", f"--user={os.getuid()}:{os.getgid()}"} < set(
        spec.argv
    )
    mounted = [option for option in spec.argv if option.startswith("--mount")]
    assert mounted == [
        f"--mount=type=bind,source={ROOT},target={ROOT}",
        f"--mount=type=bind,source={tmp_path},target={tmp_path}",
        "--mount=type=bind,source={connection_file},target={connection_file},readonly",
    ]


def test_reports_and_the_hubs_cache_outside_the_project_are_mounted(jupyter, tmp_path, docker, monkeypatch):
    cache, reports = tmp_path / "cache", tmp_path / "reports"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("LUMO_REPORTS", str(reports))
    options = kernel.spec("an-image", [reports])["argv"]
    mounted = [option for option in options if option.startswith("--mount") and str(tmp_path) in option]
    assert mounted == [
        f"--mount=type=bind,source={reports},target={reports}",
        f"--mount=type=bind,source={cache},target={cache},readonly",
    ]
    assert reports.is_dir() and f"--env=HF_HUB_CACHE={cache}" in options and "--env=LUMO_REPORTS" in options


def test_what_lies_in_the_project_or_isnt_there_is_not_mounted_again(jupyter, tmp_path, docker, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("LUMO_REPORTS", "reports")
    mounted = [option for option in kernel.spec("an-image")["argv"] if option.startswith("--mount")]
    assert len(mounted) == 2 and mounted[0] == f"--mount=type=bind,source={ROOT},target={ROOT}"


def test_lumos_own_is_replaced_and_anothers_is_not(jupyter, tmp_path, docker):
    kernel.install("my-spark", "an-image")
    kernel.install("my-spark", "another")
    assert KernelSpecManager().get_kernel_spec("my-spark").argv.count("another") == 1
    before = (jupyter / "my-spark" / "kernel.json").read_text()
    (jupyter / "my-spark" / "kernel.json").write_text(json.dumps(json.loads(before) | {"metadata": {}}))
    for name in ("my-spark", "python3"):
        with refused(WorkbookError, f"kernel '{name}' is there already", "choose another --name"):
            kernel.install(name, "an-image")


def test_below_a_prefix(tmp_path, docker, capsys):
    assert main(["kernel", "install", "--prefix", str(tmp_path / "venv")]) == 0
    assert (tmp_path / "venv" / "share" / "jupyter" / "kernels" / "lumo-spark" / "kernel.json").is_file()
    assert "papermill -k lumo-spark" in capsys.readouterr().out


def test_another_programs_kernel_below_a_prefix_is_left_alone(tmp_path, docker):
    theirs = tmp_path / "share" / "jupyter" / "kernels" / "lumo-spark"
    theirs.mkdir(parents=True)
    for content in ('{"argv": ["x"], "display_name": "theirs", "language": "python"}', "{", "[]"):
        (theirs / "kernel.json").write_text(content)
        with refused(WorkbookError, "kernel 'lumo-spark' is there already and not lumo's"):
            kernel.install("lumo-spark", "an-image", prefix=tmp_path)
        assert (theirs / "kernel.json").read_text() == content


def test_without_docker_it_is_registered_and_said(tmp_path, monkeypatch, capsys, jupyter):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["kernel", "install"]) == 0
    assert "warning: no docker on PATH" in capsys.readouterr().err
    assert (jupyter / "lumo-spark" / "kernel.json").is_file()


@pytest.mark.parametrize(
    ("name", "mount", "words"),
    [
        ("a name", None, ("kernel 'a name' can't be registered", "choose another --name")),
        ("../up", None, ("kernel '../up' can't be registered", "choose another --name")),
        ("mine", "none", ("none: expected a folder that is there", "give another --mount")),
        ("mine", "a,b", ("without a comma in its name",)),
    ],
)
def test_what_cant_be_registered_is_one_line(name, mount, words, tmp_path, docker, jupyter):
    (tmp_path / "a,b").mkdir()
    with refused(WorkbookError, *words):
        kernel.install(name, "an-image", [tmp_path / mount] if mount else [])
    assert not jupyter.exists()


def test_a_folder_that_cant_be_written_is_one_line(tmp_path, docker):
    (tmp_path / "file").touch()
    with refused(WorkbookError, "can't be registered", "choose another --name or --prefix"):
        kernel.install("mine", "an-image", prefix=tmp_path / "file")
