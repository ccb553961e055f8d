"""`tools/install.sh` on machines that lack something, played by commands on PATH; no download."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from swamp_dist.doctor.software import TESTED_TORCH

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
echo "python $*" >> {log}
case "$*" in
    *version_info*) echo {version} ;;
    *torch.version*) echo "2.13.0+cpu for CPUs" ;;
    *"import torch"*) [ -n "{site}" ] && echo "{site}" ;;
    *ensurepip*) exit {venv_module} ;;
    "-m venv "*)
        mkdir -p "$3/bin"; cp {made} "$3/bin/python"
        printf '#!/bin/sh\\nexit 0\\n' > "$3/bin/uv"; chmod +x "$3/bin/uv" ;;
    *"pip install"*) exit {pip} ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "checkout" / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "install.sh", tmp_path / "checkout" / "tools")
    return tmp_path / "checkout"


def install(
    checkout: Path,
    *,
    version: str = "3.11.2",
    venv_module: int = 0,
    pip: int = 0,
    site: str = "",
    torch: str = "",
    sees_site: bool = True,
    commands: tuple[str, ...] = ("git", "make", "python3"),
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The script on a machine with these commands; what it did, and the calls of Python."""
    path, log = checkout.parent / "bin", checkout.parent / "calls"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for tool in ("sh", "rm", "mkdir", "cp", "chmod", "touch", "dirname"):
        (path / tool).symlink_to(shutil.which(tool) or "")
    for command in commands:
        file = path / command
        made = '"$0"' if sees_site else path / "blind"
        played = {"log": log, "version": version, "venv_module": venv_module, "pip": pip, "made": made}
        file.write_text(PYTHON.format(site=site, **played) if command == "python3" else "#!/bin/sh\n")
        if command == "blind":
            file.write_text(PYTHON.format(site="", **played))
        file.chmod(0o755)
    done = subprocess.run(
        [checkout / "tools" / "install.sh"],
        env={"PATH": str(path), "TORCH": torch},
        capture_output=True,
        text=True,
    )
    return done, log.read_text().splitlines() if log.exists() else []


def test_a_whole_machine_gets_a_marked_environment(checkout: Path) -> None:
    done, calls = install(checkout)
    assert done.returncode == 0, done.stderr
    assert (checkout / ".venv" / ".ready").is_file()
    assert any("pip install" in call and f"torch=={TESTED_TORCH}" in call for call in calls)
    assert f"torch: torch=={TESTED_TORCH} is installed, the version that the tests run with" in done.stdout
    assert "torch: 2.13.0+cpu for CPUs is in .venv" in done.stdout


def test_a_cpu_build_on_a_machine_with_a_gpu_is_noted(checkout: Path) -> None:
    done, _ = install(checkout, commands=("git", "make", "python3", "nvidia-smi"))
    assert done.returncode == 0
    assert "note: this machine has nvidia-smi, and this torch uses CPUs only" in done.stderr


def test_another_build_of_torch_is_asked_for_as_given(checkout: Path) -> None:
    done, calls = install(checkout, torch="torch==2.13.0 --index-url https://example.org/cu")
    assert "--index-url https://example.org/cu is installed, as TORCH says" in done.stdout
    assert any(call.endswith("-check torch==2.13.0 --index-url https://example.org/cu") for call in calls)


def test_the_torch_of_the_site_is_kept(checkout: Path) -> None:
    done, calls = install(checkout, torch="site", site="2.12.1+cu126")
    assert done.returncode == 0, done.stderr
    assert "torch: 2.12.1+cu126 of " in done.stdout
    assert any("-m venv .venv --system-site-packages" in call for call in calls)
    (asked,) = [call for call in calls if "pip install" in call]
    assert "-c .venv/torch.txt -e" in asked
    assert (checkout / ".venv" / "torch.txt").read_text() == "torch==2.12.1+cu126\n"


def test_an_environment_that_does_not_see_the_torch_of_the_site_is_removed(checkout: Path) -> None:
    commands = ("git", "make", "python3", "blind")
    done, calls = install(checkout, torch="site", site="2.12.1", sees_site=False, commands=commands)
    assert done.returncode == 1
    assert "does not see its torch" in done.stderr
    assert not (checkout / ".venv").exists()
    assert not any("pip install" in call for call in calls)


def test_a_site_without_torch_is_refused_before_anything_is_made(checkout: Path) -> None:
    done, _ = install(checkout, torch="site")
    assert done.returncode == 1
    assert "TORCH=site takes the torch of" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("version", ["2.7.18", "3.9.2", "3.10.14"])
def test_an_old_python_is_refused_before_anything_is_made(checkout: Path, version: str) -> None:
    done, calls = install(checkout, version=version)
    assert done.returncode == 1
    assert f"is Python {version}; Python 3.11 or newer is needed" in done.stderr
    assert len(calls) == 1, calls
    assert not (checkout / ".venv").exists()


def test_everything_that_is_missing_is_named_at_once(checkout: Path) -> None:
    done, calls = install(checkout, venv_module=1, commands=("python3",))
    assert done.returncode == 1
    assert "apt-get install git make python3-venv" in done.stderr
    assert not any("pip install" in call or "-m venv" in call for call in calls)
    done, _ = install(checkout, commands=("git", "make"))
    assert "apt-get install python3 python3-venv" in done.stderr


def test_a_failed_install_leaves_no_environment(checkout: Path) -> None:
    done, _ = install(checkout, pip=1)
    assert done.returncode == 1
    assert "nothing was installed" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_environment_that_a_killed_install_left_is_made_anew(checkout: Path) -> None:
    half = checkout / ".venv" / "bin"
    half.mkdir(parents=True)
    (half / "leftover").touch()
    done, _ = install(checkout)
    assert done.returncode == 0, done.stderr
    assert not (half / "leftover").exists()


def test_an_update_that_fails_keeps_the_old_environment_to_be_updated_again(checkout: Path) -> None:
    install(checkout)
    mark = checkout / ".venv" / ".ready"
    before = mark.stat().st_mtime_ns
    (checkout / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    done, _ = install(checkout)
    assert done.returncode == 1
    assert mark.stat().st_mtime_ns == before
