#!/bin/sh
# Makes the virtual environment of this checkout: whole, or not at all. `make install` calls it.
#
#   tools/install.sh [FOLDER]        FOLDER: .venv if not given
#   PYTHON  the interpreter to take (python3)
#   TORCH   what pip is asked for (torch==2.13.0); another build: TORCH="torch==2.13.0 --index-url URL";
#           site: none, the torch that PYTHON has already is used
set -eu
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3}
tested=2.13.0 # the torch of the tests; setup.py has the range, swamp_dist/doctor/software.py this version
torch=${TORCH:-torch==$tested}

# What the machine lacks is said at once, before anything is made or downloaded.
missing=""
command -v git >/dev/null || missing="$missing git"
command -v make >/dev/null || missing="$missing make"
if ! command -v "$python" >/dev/null; then
    missing="$missing python3 python3-venv"
else
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
    major=${version%%.*} minor=${version#*.} minor=${minor%%.*}
    if [ "$major" -lt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -lt 11 ]; }; then
        echo "error: $(command -v "$python") is Python $version; Python 3.11 or newer is needed." >&2
        echo "Install a newer one and name it: make install PYTHON=python3.12" >&2
        exit 1
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
fi
if [ -n "$missing" ]; then
    echo "error: this machine lacks:$missing" >&2
    echo "On Debian and Ubuntu: apt-get install$missing" >&2
    exit 1
fi

# Which torch, and why.
options=""
if [ "$torch" = site ]; then
    if ! site=$("$python" -c 'import torch; print(torch.__version__)' 2>/dev/null); then
        echo "error: TORCH=site takes the torch of $(command -v "$python"), which has none." >&2
        echo "Name the Python that has it (PYTHON=PATH), or leave TORCH out: torch $tested is then installed." >&2
        exit 1
    fi
    options=--system-site-packages
    echo "torch: $site of $(command -v "$python") is used (TORCH=site); none is installed"
elif [ -n "${TORCH:-}" ]; then
    echo "torch: $torch is installed, as TORCH says"
else
    echo "torch: $torch is installed, the version that the tests run with; whether it is a CPU or a CUDA build is up"
    echo "       to pip's index. Another one: TORCH=..., see \"Install\" in README.md"
fi

# An environment without its mark was left by an install that was killed: it is made anew.
if [ ! -e "$venv/.ready" ]; then
    rm -rf "$venv"
    trap 'status=$?; [ -e "$venv/.ready" ] || { rm -rf "$venv"; echo "error: nothing was installed; $venv is removed" >&2; }; exit $status' EXIT
    trap 'exit 130' INT TERM HUP
    # shellcheck disable=SC2086 # empty, or one option
    "$python" -m venv "$venv" $options
    if [ "$torch" = site ] && ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
        echo "error: TORCH=site: an environment made by $(command -v "$python") does not see its torch. It is a virtual" >&2
        echo "environment itself, most likely: name the Python that it was made of, or install into it: pip install -e ." >&2
        exit 1
    fi
fi

# torch first and pinned, through pip, which honours a wheel folder or an index for CPU builds in your pip
# configuration (uv does not read it); later resolvers keep what is there. Without this order deepspeed would pull
# the newest torch with several gigabytes of CUDA packages.
# shellcheck disable=SC2086 # TORCH may hold several words
if [ "$torch" != site ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check $torch
fi
found=$("$venv/bin/python" -c 'import torch; print(torch.__version__, "for", "CUDA " + torch.version.cuda if torch.version.cuda else "CPUs")')
# That torch stays: the newest torchvision would bring another.
if [ "$torch" = site ]; then # uv does not see packages outside the environment
    echo "torch==$site" >"$venv/torch.txt"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$venv/torch.txt" -e '.[dev,encoders,openmoji,loggers]'
else
    echo "torch==${found%% *}" >"$venv/torch.txt"
    "$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" -c "$venv/torch.txt" -e '.[dev,encoders,openmoji,loggers]'
fi
echo "torch: $found is in $venv"
case $found in
*CPUs) if command -v nvidia-smi >/dev/null; then
    echo "note: this machine has nvidia-smi, and this torch uses CPUs only: see \"Install\" in README.md for a CUDA build" >&2
fi ;;
esac
touch "$venv/.ready"
