"""A cluster file against what played commands say of partitions, nodes and accounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.backends.slurm.site import check_site, minutes
from swamp_dist.config import SlurmCluster
from swamp_dist.records import Finding
from tests.runs.written_runs import calls, fake_command

PARTITIONS = """\
PartitionName=gpu AllowAccounts=lab,team AllowQos=ALL Default=YES MaxNodes=2 MaxTime=1-00:00:00 MinNodes=0 \
State=UP TotalNodes=4
PartitionName=long AllowAccounts=ALL DenyQos=short Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=UP \
TotalNodes=4
PartitionName=old AllowAccounts=ALL Default=NO MaxTime=60 State=DOWN TotalNodes=1
"""
NODES = "2|64|512000|gpu:h100:8(S:0-1),fs:1|idle\n1|64|512000|gpu:h100:8|drained*\n1|16|64000|(null)|mixed\n"
ACCOUNTS = "lab|normal,long\nteam|normal\n"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that say the above; nothing else is on PATH."""
    folder = tmp_path / "bin"
    for name, said in (("scontrol", PARTITIONS), ("sinfo", NODES), ("sacctmgr", ACCOUNTS)):
        folder.mkdir(exist_ok=True)
        (tmp_path / name).write_text(said)
        fake_command(folder, name, f'while read -r line; do echo "$line"; done < {tmp_path / name}')
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("SBATCH_PARTITION", raising=False)
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    return folder


def trouble(**settings: object) -> list[tuple[str, str, str]]:
    """Check, message and fix of all that is not well."""
    found = list(check_site(SlurmCluster.model_validate({"backend": "slurm", **settings})))
    assert all(bool(f.fix) == (f.level != "ok") for f in found)
    return [(f.check, f.message, f.fix) for f in found if f.level != "ok"]


def test_a_cluster_file_that_fits_is_well(commands: Path) -> None:
    settings = {"nodes": 2, "tasks_per_node": 8, "gpus_per_node": 8, "cpus_per_task": 8, "gpu_type": "h100"}
    assert trouble(**settings, memory_gb=400, time_limit=1440, account="lab", qos="long") == []
    found = list(check_site(SlurmCluster()))
    assert [f.check for f in found] == ["partition", "limits", "nodes", "account", "qos"]
    assert found[0].message == "partition gpu, the cluster's default, is up"
    assert all("show" in line for line in calls(commands, "scontrol") + calls(commands, "sacctmgr"))
    assert "user=ada" in calls(commands, "sacctmgr")[0]


@pytest.mark.parametrize(
    ("settings", "check", "said", "fix"),
    [
        ({"partition": "gpux"}, "partition", "no partition gpux", "one of gpu, long"),
        ({"partition": "old"}, "partition", "old is DOWN", "one of gpu, long"),
        ({"time_limit": 1441}, "limits", "ends jobs at 1440", "time_limit: 1440 or less"),
        ({"nodes": 3}, "limits", "at most 2", "nodes: 2 or fewer"),
        ({"account": "guest"}, "limits", "closed to account guest", "one of lab,team"),
        ({"partition": "long", "qos": "short"}, "limits", "closed to qos short", "another partition"),
        ({"cpus_per_task": 65}, "nodes", "65 CPUs on each of 1 nodes", "cpus_per_task: 64 or fewer"),
        ({"tasks_per_node": 4, "cpus_per_task": 20}, "nodes", "= 80 CPUs", "cpus_per_task: 16 or fewer"),
        ({"memory_gb": 600}, "nodes", "have 62, 500 GiB", "memory_gb: 500 or less"),
        ({"memory_gb": 9, "memory_per": "cpu", "cpus_per_task": 64}, "nodes", "576 GiB", "memory_gb: 7 or"),
        ({"tasks_per_node": 9, "gpus_per_node": 9}, "nodes", "9 GPUs", "as listed"),
        ({"tasks_per_node": 8, "gpus_per_node": 8, "gpu_type": "a100"}, "nodes", "have 8 h100", "as listed"),
        ({"partition": "long", "nodes": 3, "cpus_per_task": 64}, "nodes", "2 of them are up", "waits"),
        ({"account": "guest"}, "account", "may not charge account guest", "account in the cluster file: one"),
        ({"account": "team", "qos": "long"}, "qos", "account team may not use qos long", "one of normal"),
        ({"qos": "gold"}, "qos", "your accounts may not use qos gold", "one of normal, long"),
    ],
)
@pytest.mark.usefixtures("commands")
def test_what_does_not_fit_has_its_fix_and_the_valid_values(
    settings: dict[str, object], check: str, said: str, fix: str
) -> None:
    found = [(message, mend) for name, message, mend in trouble(**settings) if name == check]
    assert any(said in message and fix in mend for message, mend in found), found


def test_no_default_partition(commands: Path) -> None:
    script = "echo PartitionName=gpu State=UP Default=NO"
    fake_command(commands, "scontrol", script)
    assert trouble()[0][:2] == ("partition", "partition is null, and the cluster has no default")


def test_a_users_own_default_partition_counts(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "old")
    assert "partition old is DOWN" in trouble()[0][1]


def test_commands_that_are_missing_or_refuse_are_named_in_one_line_each(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_command(commands, "sacctmgr", "echo 'a\nUnable to contact slurmdbd' >&2; exit 1")
    fake_command(commands, "sinfo", "exit 1")
    assert [check for check, _, _ in trouble()] == ["nodes", "account"]
    monkeypatch.setenv("PATH", str(commands / "nowhere"))
    found: list[Finding] = list(check_site(SlurmCluster()))
    assert [(f.check, f.level) for f in found] == [("partition", "warning"), ("account", "warning")]
    assert all("not on this machine's PATH" in f.message and "\n" not in f.message for f in found)


@pytest.mark.parametrize(
    "script",
    ["exit 0", "echo \"Only 'accounting_storage/slurmdbd' is supported.\" >&2; exit 1"],
)
def test_a_cluster_without_accounts_is_no_trouble(commands: Path, script: str) -> None:
    fake_command(commands, "sacctmgr", script)
    assert trouble(account="lab") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1-00:00:00", 1440), ("2-12", 3600), ("1-00:30", 1470), ("12:30:00", 750), ("30:30", 30.5), ("90", 90),
     ("UNLIMITED", None), ("NONE", None), ("", None), ("1:2:3:4", None)],
)  # fmt: skip
def test_times(text: str, expected: float | None) -> None:
    assert minutes(text) == expected
