#!/usr/bin/env bash
# Installs the Debian packages that are missing, or says which, where it may not. Usage: install_system_packages.sh PYTHON
set -euo pipefail

python=$1
packages=(
  g++                    # the kernels and the runner for this machine, their tests
  g++-aarch64-linux-gnu  # the same for arm64
  qemu-system-arm        # the emulated phone
  qemu-user              # the arm64 kernels' own tests
  llvm-19                # cycles of the arm64 kernels' loops: llvm-mca, which models the Neoverse N1 from LLVM 16 on
  libgtest-dev           # the C++ tests
  libbenchmark-dev       # the C++ benchmarks
  libusb-1.0-0           # phones on USB
  adb cpio               # tests: does our adbd please the ordinary client, is our initramfs an ordinary archive
)

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: edgectl needs Python 3.11 or newer: install it (python3 and python3-venv on Debian 12), or say which to" \
    "use with make PYTHON=/path/to/python3.11" >&2
  exit 2
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

if ! command -v apt-get >/dev/null || [[ $(id -u) -ne 0 ]]; then
  echo "error: these Debian packages are missing; install them as root: apt-get install ${missing[*]}" >&2
  exit 2
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}" >/dev/null
