"""Nothing that a file or a command line says runs as a command of a batch script, or asks for an option."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from swamp_dist.backends.slurm.batch_script import batch_script, command_script
from swamp_dist.backends.slurm.script_text import script_text, shell_words
from swamp_dist.config import SlurmCluster
from swamp_dist.errors import UserError
from swamp_dist.runs.folder import RunDir

PIECES = [
    "\n", "\r", "\0", "\x0b", "\x85", "\u2028", "'", '"', "\\", "`touch MARK`", "$(touch MARK)", "touch MARK",
    "; touch MARK #", "| touch MARK", "a[$(touch MARK)]", "\n#SBATCH --uid=0", "${HOME}", "!", "*", "%j", "%",
    "#", " ", "=", "a", "\u00e9", "gpu[07,12]", "\x1b[31m",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)
FIELDS = {
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint",
    "exclude": "exclude", "reservation": "reservation", "licenses": "licenses", "cluster": "clusters",
    "gpu_type": "gpus-per-node",
}  # fmt: skip
"""Settings that are texts, and the options that say them."""
BASHS_OWN = ("RANDOM", "SRANDOM", "OPTIND", "HISTCMD", "BASH_ENV")
"""Variables that bash evaluates when they are set or when it starts."""


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run scripts in: no command is on PATH but what plays srun and Python, and `touch`."""
    folder = tmp_path_factory.mktemp("play")
    (folder / "bin").mkdir()
    note = '#!/bin/bash\nfor word; do printf "%s\\0" "$word"; done >> CALLS\n'
    for name, text in {"srun": note, "python": note, "touch": "#!/bin/bash\nprintf x > MARK\n"}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return folder


def run(script: str, folder: Path) -> list[str]:
    """What the script called; it must be sound, and nothing else may have run."""
    for left in ("CALLS", "MARK"):
        (folder / left).unlink(missing_ok=True)
    text = script.replace(sys.executable, str(folder / "bin" / "python"))
    checked = subprocess.run(["/bin/bash", "-n", "-c", text], cwd=folder, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, ""), script
    done = subprocess.run(
        ["/bin/bash", "-c", text],
        cwd=folder,
        env={"PATH": str(folder / "bin")},
        capture_output=True,
        text=True,
    )
    assert not (folder / "MARK").exists(), script
    assert "not found" not in done.stderr, (done.stderr, script)
    return os.fsdecode((folder / "CALLS").read_bytes()).split("\0")[:-1]


def asked(script: str) -> dict[str, str | None]:
    """The options that sbatch would read: every line that it might take for one."""
    lines = [x for x in script.replace("\r", "\n").split("\n") if x.lstrip().startswith("#SBATCH")]
    found: dict[str, str | None] = {}
    for line in lines:
        (word,) = shlex.split(line.removeprefix("#SBATCH "))
        name, equals, value = word.removeprefix("--").partition("=")
        found[name] = value if equals else None
    assert len(found) == len(lines)
    return found


PLAIN = set(asked(batch_script("s", SlurmCluster(), RunDir(Path("run")))))


def check_field(play: Path, fields: dict[str, str]) -> None:
    with suppress(ValidationError):
        cluster = SlurmCluster(gpus_per_node=1, **fields)  # type: ignore[arg-type]
        script = batch_script("s", cluster, RunDir(Path("run")))
        found = asked(script)
        assert set(found) == PLAIN | {"gpus-per-node"} | {FIELDS[name] for name in fields}
        said = fields | ({"gpu_type": f"{fields['gpu_type']}:1"} if "gpu_type" in fields else {})
        assert {name: found[FIELDS[name]] for name in fields} == said
        assert len(run(script, play)) > 5


def check_more_options(play: Path, words: tuple[str, str]) -> None:
    name, value = words
    for option in (f"mail-user={value}", f"{name}={value}", name):
        with suppress(ValidationError):
            script = batch_script("s", SlurmCluster(sbatch=(option,)), RunDir(Path("run")))
            assert len(asked(script)) == len(PLAIN) + 1
            run(script, play)


def check_variable(play: Path, words: tuple[str, str]) -> None:
    name, value = words
    for key in ("OWN", name):
        with suppress(ValidationError):
            cluster = SlurmCluster(environment={key: value}, setup=(f'srun "${key}"',))
            script = batch_script("s", cluster, RunDir(Path("run")))
            assert set(asked(script)) == PLAIN
            assert run(script, play)[0] == value


def check_name_and_folder(play: Path, words: tuple[str, str]) -> None:
    name, path = words[0], Path(f"x{words[1]}")
    with suppress(UserError):
        script = batch_script(name, SlurmCluster(), RunDir(path))
        found, calls = asked(script), run(script, play)
        assert set(found) == PLAIN
        assert found["comment"] == str(path.resolve())
        assert str(path) in calls
    named = batch_script(name, SlurmCluster(), RunDir(Path("run")))
    assert set(asked(named)) == PLAIN
    run(named, play)


def check_command(play: Path, words: Sequence[str]) -> None:
    with suppress(UserError):
        script = command_script("s", [sys.executable, *words], SlurmCluster(), RunDir(Path("run")))
        assert run(script, play) == words
        assert set(asked(script)) == PLAIN


CHECKS = {
    "a field is one option": (
        check_field, st.dictionaries(st.sampled_from([*FIELDS]), TEXT, min_size=1, max_size=2)
    ),
    "more options are one option each": (check_more_options, st.tuples(TEXT, TEXT)),
    "a variable reaches the ranks": (
        check_variable, st.tuples(st.one_of(TEXT, st.sampled_from(BASHS_OWN)), TEXT)
    ),
    "names and folders": (check_name_and_folder, st.tuples(TEXT, TEXT)),
    "a command keeps its words": (check_command, st.lists(TEXT, min_size=1, max_size=3)),
}  # fmt: skip
"""What is said: it arrives as it is, or it is refused; a script that was made runs nothing else."""


def examine(name: str, play: Path, examples: int) -> None:
    check, texts = CHECKS[name]

    @settings(max_examples=examples, deadline=None, database=None)
    @given(texts)
    def examined(text: object) -> None:
        check(play, text)  # type: ignore[arg-type]

    examined()


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_said_arrives_as_it_is_or_is_refused(play: Path, name: str) -> None:
    examine(name, play, 15)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_what_is_said_arrives_as_it_is_or_is_refused_at_length(play: Path, name: str) -> None:
    examine(name, play, 1000)


@pytest.mark.parametrize("name", BASHS_OWN)
def test_what_bash_evaluates_is_no_variable_of_a_cluster_file(name: str) -> None:
    with pytest.raises(ValidationError, match="bash itself keeps"):
        SlurmCluster(environment={name: "1"})


def test_what_no_script_can_say_is_refused_wherever_it_comes_from() -> None:
    with pytest.raises(UserError, match="holds NUL"):
        shell_words("a\0b")
    with pytest.raises(UserError, match="no option of sbatch"):
        script_text({"a b": None}, [])
    with pytest.raises(UserError, match=r"another --run-dir or working folder"):
        batch_script("s", SlurmCluster(), RunDir(Path("a\nb")))
    with pytest.raises(ValidationError, match="null where nothing is asked for"):
        SlurmCluster(qos="")


def test_a_percent_in_a_folders_name_is_not_taken_for_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "50% of %j"
    assert asked(batch_script("s", SlurmCluster(), RunDir(folder)))["output"] == (
        f"{tmp_path}/50%% of %%j/logs/slurm/%j_0_log.out"
    )
